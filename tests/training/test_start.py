from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bids_msseg.errors import DataError
from bids_msseg.models.checkpoint import save_cascade
from bids_msseg.models.lesion_anatomy import LesionAnatomyConfig, LesionAnatomyNet
from bids_msseg.models.lesion_refinement import LesionRefinementConfig, LesionRefinementNet
from bids_msseg.models.weights import CascadePoint
from bids_msseg.training.start import read_start, write_pretrained

SHAPE = LesionAnatomyConfig((2, 4))


def _save(path: Path, *, unseen: bool) -> Path:
    torch.manual_seed(0)
    save_cascade(
        path,
        [LesionAnatomyNet(SHAPE)],
        LesionRefinementNet(LesionRefinementConfig((2, 4, 6))),
        unseen=LesionAnatomyNet(SHAPE) if unseen else None,
        name=path.stem,
        version="1",
        point=CascadePoint(threshold=0.3),
        notes={"visits": ["sub-01"]},
    )
    return path


def _same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


def test_start_from_cascade_keeps_its_networks(tmp_path: Path) -> None:
    start = read_start(_save(tmp_path / "own.safetensors", unseen=True))
    assert (start.name, start.point.threshold) == ("own", 0.3)
    assert start.notes == {"visits": ["sub-01"]}
    assert start.refinement is not None
    assert start.pretrained is not None
    assert _same(start.candidate, start.unseen)
    assert not _same(start.candidate, start.pretrained)


def test_seen_patients_start_from_pretrained_network(tmp_path: Path) -> None:
    start = read_start(_save(tmp_path / "own.safetensors", unseen=True), seen=True)
    assert start.refinement is None
    assert start.pretrained is not None
    assert _same(start.candidate, start.pretrained)
    assert _same(start.unseen, start.pretrained)
    with pytest.raises(DataError):
        read_start(_save(tmp_path / "old.safetensors", unseen=False), seen=True)


def test_start_from_pretrained_network_file(tmp_path: Path) -> None:
    net = LesionAnatomyNet(SHAPE)
    torch.save({"average": net.state_dict()}, tmp_path / "checkpoint.pt")
    write_pretrained(tmp_path / "checkpoint.pt", tmp_path / "pretraining.pt")
    start = read_start(tmp_path / "pretraining.pt", SHAPE)
    assert start.name == "pretraining"
    assert start.refinement is None
    assert start.notes == {}
    assert start.pretrained is not None
    for name, value in start.pretrained.state_dict().items():
        assert torch.equal(value, net.state_dict()[name].half().float())


@pytest.mark.parametrize("content", [b"", b"no weights", "unmarked", "fine-tuned", "other shape"])
def test_invalid_pretrained_file_is_refused(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "other.pt"
    state = LesionAnatomyNet(SHAPE).state_dict()
    if content == "unmarked":
        torch.save({"average": state}, path)
    elif content == "fine-tuned":
        torch.save({"average": state, "trained_on": "patients"}, path)
    elif content == "other shape":
        wide = LesionAnatomyNet(LesionAnatomyConfig((4, 8))).state_dict()
        torch.save({"average": wide, "trained_on": "synthetic images"}, path)
    else:
        path.write_bytes(content)  # type: ignore[arg-type]
    with pytest.raises(DataError):
        read_start(path, SHAPE)
