from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bids_msseg.errors import DataError
from bids_msseg.models.checkpoint import LesionCascade, check_cascade, load_cascade, save_cascade
from bids_msseg.models.lesion_anatomy import LesionAnatomyConfig, LesionAnatomyNet
from bids_msseg.models.lesion_refinement import LesionRefinementConfig, LesionRefinementNet
from bids_msseg.models.weights import CascadePoint, read_header

POINT = CascadePoint(0.1, 0.2, 0.05, 0.4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    target = tmp_path / "small.safetensors"
    save_cascade(
        target,
        [LesionAnatomyNet(LesionAnatomyConfig((2, 4)))],
        LesionRefinementNet(LesionRefinementConfig((2, 4, 6))),
        unseen=LesionAnatomyNet(LesionAnatomyConfig((2, 4))),
        name="small",
        version="1",
        point=POINT,
        notes={"visits": ["sub-01"]},
    )
    return target


def test_saved_cascade_is_loaded_unchanged(path: Path) -> None:
    check_cascade(path)
    header, cascade = read_header(path), load_cascade(path)
    assert isinstance(cascade, LesionCascade)
    assert header.point == cascade.point == POINT
    assert header.notes == {"visits": ["sub-01"]}
    assert len(cascade.candidate) == 1
    assert cascade.unseen is not None
    assert cascade.sha256 == header.sha256
    # half precision
    again = path.with_name("again.safetensors")
    save_cascade(
        again,
        cascade.candidate,
        cascade.refinement,
        unseen=cascade.unseen,
        name="small",
        version="1",
        point=POINT,
        notes={"visits": ["sub-01"]},
    )
    assert again.read_bytes() == path.read_bytes()


def _edit_header(change: Callable[[dict[str, object]], object]) -> Callable[[bytes], bytes]:
    def edit(content: bytes) -> bytes:
        length = int.from_bytes(content[:8], "little")
        entries = json.loads(content[8 : 8 + length])
        header = json.loads(entries["__metadata__"]["bids_msseg"])
        change(header)
        entries["__metadata__"]["bids_msseg"] = json.dumps(header)
        text = json.dumps(entries).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text + content[8 + length :]

    return edit


def _members(header: dict[str, object]) -> dict[str, dict[str, object]]:
    return header["members"]  # type: ignore[return-value]


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda content: content[:-40], id="cut off"),
        pytest.param(lambda content: content[:-1] + b"\x01", id="flipped byte"),
        pytest.param(
            _edit_header(lambda h: _members(h)["candidate0"].update(widths=[2, 8])), id="shape"
        ),
        pytest.param(
            _edit_header(lambda h: _members(h)["candidate0"].update(widths=[10**9, 4])), id="huge"
        ),
        pytest.param(
            _edit_header(lambda h: _members(h)["candidate0"].update(classes=3)), id="classes"
        ),
        pytest.param(_edit_header(lambda h: _members(h).pop("refinement0")), id="no refinement"),
        pytest.param(_edit_header(lambda h: h.update(point={"threshold": 7})), id="point"),
        pytest.param(_edit_header(lambda h: h.update(format="bids_msseg-cascade-1")), id="format"),
        pytest.param(_edit_header(lambda h: h.pop("tensors_sha256")), id="no checksum"),
    ],
)
def test_damaged_or_inconsistent_file_is_refused(
    path: Path, edit: Callable[[bytes], bytes]
) -> None:
    path.write_bytes(edit(path.read_bytes()))
    for read in (load_cascade, check_cascade):
        with pytest.raises(DataError):
            read(path)


def test_nan_weights_are_refused(tmp_path: Path) -> None:
    net = LesionAnatomyNet(LesionAnatomyConfig((2, 4)))
    with torch.no_grad():
        net.lesion.weight.fill_(float("nan"))
    target = tmp_path / "nan.safetensors"
    second = LesionRefinementNet(LesionRefinementConfig((2, 4, 6)))
    save_cascade(target, [net], second, name="nan", version="1", point=POINT)
    with pytest.raises(DataError, match="finite"):
        check_cascade(target)
