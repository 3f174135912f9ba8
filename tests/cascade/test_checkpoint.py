from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bids_msseg.cascade.checkpoint import check_cascade, load_cascade, save_cascade
from bids_msseg.cascade.networks import CandidateNet, JudgeNet, RefinementNet
from bids_msseg.errors import DataError
from bids_msseg.models.weights import DIGEST_KEY, HEADER_KEY, OperatingPoint, read_header

POINT = OperatingPoint(gate=0.2, keep=0.4, threshold=0.45)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "toy.safetensors"
    save_cascade(
        path,
        [CandidateNet((4, 8)), CandidateNet((4, 6, 8))],
        [RefinementNet((4, 8))],
        name="toy",
        version="3",
        point=POINT,
        notes={"visits": 2},
    )
    return path


def test_round_trip_within_half_precision(tmp_path: Path) -> None:
    torch.manual_seed(1)
    nets = [CandidateNet((4, 8)), CandidateNet((4, 8))], [RefinementNet((4, 6, 8))]
    path = tmp_path / "toy.safetensors"
    digest = save_cascade(path, *nets, name="toy", version="3", point=POINT)
    cascade = load_cascade(path)
    assert digest == cascade.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest == read_header(path).sha256
    assert (cascade.name, cascade.version, cascade.point) == ("toy", "3", POINT)
    for before, after in zip(
        [*nets[0], *nets[1]], [*cascade.candidate, *cascade.refinement], strict=True
    ):
        assert before.config == after.config
        assert not after.training
        for key, value in before.state_dict().items():
            assert after.state_dict()[key].dtype == torch.float32
            torch.testing.assert_close(after.state_dict()[key], value, rtol=2**-11, atol=1e-7)
    assert [p.name for p in tmp_path.iterdir()] == ["toy.safetensors"]


def test_the_same_nets_give_the_same_file(saved: Path, tmp_path: Path) -> None:
    cascade = load_cascade(saved)
    digest = save_cascade(
        tmp_path / "again.safetensors",
        cascade.candidate,
        cascade.refinement,
        name="toy",
        version="3",
        point=POINT,
        notes={"visits": 2},
    )
    assert digest == cascade.sha256


def _refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_cascade(path)
    assert path.name in caught.value.message
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize("kept", [0, 5, 8, 100, 2000, -1])
def test_a_truncated_file_is_refused(saved: Path, kept: int) -> None:
    saved.write_bytes(saved.read_bytes()[:kept])
    _refused(saved)


def test_bytes_too_many_are_refused(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes() + b"\0")
    assert "bytes of weights instead of" in _refused(saved)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder.safetensors"
    folder.mkdir()
    _refused(folder)


class _Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.mark),))


@pytest.mark.parametrize("new_format", [True, False])
def test_a_renamed_pickle_is_refused_and_never_executed(tmp_path: Path, new_format: bool) -> None:
    mark, path = tmp_path / "executed", tmp_path / "trap.safetensors"
    torch.save({"net": _Trap(mark)}, path, _use_new_zipfile_serialization=new_format)
    _refused(path)
    assert not mark.exists()
    torch.load(path.rename(tmp_path / "trap.pt"), weights_only=False)
    assert mark.exists(), "the trap itself does not work"


def _rewrite(path: Path, *, drop: str = "", header: dict[str, Any] | None = None) -> Path:
    tensors = {key: v for key, v in load_file(path).items() if not drop or drop not in key}
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    ours = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][HEADER_KEY])
    # what is judged here comes after the checksum
    ours.pop(DIGEST_KEY)
    save_file(tensors, path, metadata={HEADER_KEY: json.dumps({**ours, **(header or {})})})
    return path


def test_missing_tensors_are_named(saved: Path) -> None:
    assert "head.bias" in _refused(_rewrite(saved, drop="candidate0.head.bias"))


@pytest.mark.parametrize(
    "members",
    [
        {"candidate0": {"kind": "candidate", "widths": [4, 9]}},
        {"candidate0": {"kind": "oracle", "widths": [4, 8]}},
        {"candidate0": {"kind": "candidate", "widths": []}},
        {"candidate0": {"kind": "candidate", "widths": [-4]}},
        {"candidate0": {"kind": "candidate", "widths": 4}},
        {"candidate0": {"widths": [4, 8]}},
        {"candidate0": "candidate"},
    ],
)
def test_shapes_that_do_not_fit_are_refused(saved: Path, members: dict[str, Any]) -> None:
    _refused(_rewrite(saved, header={"members": members}))


@pytest.mark.parametrize("kind", ["candidate", "refinement"])
def test_a_cascade_needs_both_nets(saved: Path, kind: str) -> None:
    content = read_header(saved)
    members = {key: dict(shape) for key, shape in content.members.items() if kind not in key}
    assert "candidate net and a refinement net" in _refused(
        _rewrite(saved, header={"members": members})
    )


def test_a_file_of_another_format_is_refused(saved: Path) -> None:
    assert "its format is neither" in _refused(_rewrite(saved, header={"format": "another-9"}))


def test_notes_are_kept(saved: Path) -> None:
    assert read_header(saved).notes == {"visits": 2}


def test_a_judge_is_kept(tmp_path: Path) -> None:
    torch.manual_seed(2)
    judge = JudgeNet().train()
    judge(torch.randn(4, 3, 11, 11, 11))
    path = tmp_path / "toy.safetensors"
    point = OperatingPoint(judge=0.4, verdict=0.2)
    nets = [CandidateNet((4, 8))], [RefinementNet((4, 8))]
    save_cascade(path, *nets, judges=[judge], name="toy", version="3", point=point)
    check_cascade(path)
    back = load_cascade(path)
    assert back.point == point
    assert [net.config for net in back.judges] == [judge.config]
    patches = torch.randn(3, 3, 11, 11, 11)
    torch.testing.assert_close(back.judges[0](patches), judge.eval()(patches), rtol=0, atol=5e-3)


def test_a_judge_of_another_shape_is_refused(saved: Path) -> None:
    members = dict(read_header(saved).members)
    members["judge0"] = {"kind": "judge", "widths": [8, 8], "norm": "batch"}
    assert "a judge has" in _refused(_rewrite(saved, header={"members": members}))


def test_batch_normalisation_is_kept(tmp_path: Path) -> None:
    torch.manual_seed(2)
    net = RefinementNet((4, 8), "batch").train()
    net(torch.randn(2, 8, 8, 8, 8))
    path = tmp_path / "toy.safetensors"
    save_cascade(path, [CandidateNet((4, 8))], [net], name="toy", version="3", point=POINT)
    back = load_cascade(path).refinement[0]
    assert back.config == net.config
    crop = torch.randn(1, 8, 8, 8, 8)
    for before, after in zip(net.eval()(crop), back(crop), strict=True):
        torch.testing.assert_close(before, after, rtol=0, atol=5e-3)
