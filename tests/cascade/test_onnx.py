from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from bids_msseg.cascade import onnx_format
from bids_msseg.cascade.checkpoint import Cascade
from bids_msseg.cascade.networks import CandidateNet, JudgeNet, RefinementNet
from bids_msseg.cascade.onnx_format import (
    DESCRIPTION,
    TOLERANCE,
    check_export,
    example_input,
    export_cascade,
    export_net,
    import_cascade,
    largest_difference,
    read_weights,
)
from bids_msseg.errors import CannotCreateError, DataError, UsageError
from bids_msseg.models.weights import OperatingPoint

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

POINT = OperatingPoint(gate=0.2, keep=0.4, threshold=0.45, judge=0.3, verdict=0.2)


def _used(net: nn.Module) -> nn.Module:
    """Give every weight a value of its own, as training does."""
    with torch.no_grad():
        for weight in net.parameters():
            weight += 0.1 * torch.randn(weight.shape)
        for name, buffer in net.named_buffers():
            if "running" in name:
                buffer += 0.1 * torch.rand(buffer.shape)
    return net.eval()


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    torch.manual_seed(1)
    nets = (_used(CandidateNet((4, 6, 8))), _used(CandidateNet((4, 8))))
    second = (_used(RefinementNet((4, 8))), _used(RefinementNet((4, 8), "batch")))
    return Cascade("toy", "3", nets, second, POINT, "ab12", (_used(JudgeNet()),))


@pytest.fixture(scope="module")
def exported(cascade: Cascade, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("onnx") / "toy"
    export_cascade(cascade, folder, notes={"visits": 2}, check=False)
    return folder


@pytest.mark.parametrize(
    ("number", "size"), [(1, 8), (2, 16), (3, 20)], ids=["one", "as traced", "three"]
)
def test_onnxruntime_says_what_torch_says(
    cascade: Cascade, exported: Path, number: int, size: int
) -> None:
    for name, net in (
        ("candidate0", cascade.candidate[0]),
        ("candidate1", cascade.candidate[1]),
        ("refinement0", cascade.refinement[0]),
        ("refinement1", cascade.refinement[1]),
        ("judge0", cascade.judges[0]),
    ):
        path = exported / f"{name}.onnx"
        assert largest_difference(net, path, number=number, size=size) < TOLERANCE


def test_a_net_of_five_levels_is_written(tmp_path: Path) -> None:
    torch.manual_seed(3)
    net = _used(CandidateNet((4, 4, 4, 4, 4)))
    export_net(net, tmp_path / "deep.onnx")
    assert largest_difference(net, tmp_path / "deep.onnx", size=64) < TOLERANCE


def test_the_check_compares_the_nets(cascade: Cascade, exported: Path, monkeypatch) -> None:
    monkeypatch.setattr(onnx_format, "TILE", 16)
    monkeypatch.setattr(onnx_format, "CROP", 8)
    assert 0 <= check_export(cascade, exported) < TOLERANCE
    first, second = cascade.candidate
    torch.manual_seed(2)
    other = Cascade("", "", (first, _used(CandidateNet((4, 8)))), cascade.refinement, POINT, "")
    with pytest.raises(DataError, match=r"candidate1\.onnx differs by"):
        check_export(other, exported)
    assert second.config == other.candidate[1].config


def test_the_example_holds_a_candidate_and_none() -> None:
    images = example_input(RefinementNet((4, 8)), number=3, size=8)
    assert images.shape == (3, 8, 8, 8, 8)
    assert [int(mask.sum()) for mask in images[:, -1]] == [64, 64, 0]


def test_names_shapes_and_free_axes(exported: Path) -> None:
    model = onnx.load(str(exported / "refinement0.onnx"))
    onnx.checker.check_model(model, full_check=True)

    def axes(value) -> list[int | str]:
        return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]

    assert [(value.name, axes(value)) for value in model.graph.input] == [
        ("images", ["number", 8, "x", "y", "z"])
    ]
    assert [value.name for value in model.graph.output] == ["voxels", "lesion"]
    assert axes(model.graph.output[1]) == ["number"]


def test_the_description_says_how_to_use_the_files(exported: Path) -> None:
    said = json.loads((exported / DESCRIPTION).read_text())
    assert said["operating_point"] == {
        "gate": 0.2, "keep": 0.4, "threshold": 0.45, "second": 0.5, "trust": 0.0,
        "judge": 0.3, "verdict": 0.2,
    }  # fmt: skip
    assert said["source_sha256"] == "ab12"
    assert {name: member["file"] for name, member in said["members"].items()} == {
        "candidate0": "candidate0.onnx",
        "candidate1": "candidate1.onnx",
        "refinement0": "refinement0.onnx",
        "refinement1": "refinement1.onnx",
        "judge0": "judge0.onnx",
    }
    files = {member["file"] for member in said["members"].values()} | {DESCRIPTION}
    assert {path.name for path in exported.iterdir()} == files
    assert (said["preprocessing"]["tile"], said["preprocessing"]["crop"]) == (64, 32)


def test_export_then_import_gives_equal_weights(cascade: Cascade, exported: Path) -> None:
    again = import_cascade(exported)
    assert (again.name, again.version, again.point) == ("toy", "3", POINT)
    assert again.sha256 == "ab12"
    pairs = zip(
        (*cascade.candidate, *cascade.refinement, *cascade.judges),
        (*again.candidate, *again.refinement, *again.judges),
        strict=True,
    )
    for before, after in pairs:
        assert before.config == after.config
        assert not after.training
        known, read = before.state_dict(), after.state_dict()
        assert all(torch.equal(known[key], read[key]) for key in known)


@pytest.mark.parametrize("net", [CandidateNet((4, 8)), RefinementNet((4, 8))])
def test_equal_weights_are_not_lost(net: nn.Module, tmp_path: Path) -> None:
    """Fresh normalisations are all alike, and the exporter writes one for all."""
    export_net(net, tmp_path / "net.onnx")
    read = read_weights(tmp_path / "net.onnx")
    known = net.state_dict()
    assert known.keys() <= read.keys()
    assert all(torch.equal(known[key], read[key]) for key in known)


def _refused(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        import_cascade(folder)
    assert "msseg-export" in caught.value.message
    assert caught.value.hint
    return caught.value.message


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    for path in exported.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_a_missing_net_is_named(copied: Path) -> None:
    (copied / "candidate1.onnx").unlink()
    assert "candidate1.onnx" in _refused(copied)


@pytest.mark.parametrize("content", [b"", b"\xff" * 50, b"no protobuf at all", None])
def test_a_damaged_net_is_refused(copied: Path, content: bytes | None) -> None:
    path = copied / "refinement0.onnx"
    path.write_bytes(path.read_bytes()[:-2000] if content is None else content)
    assert "refinement0.onnx" in _refused(copied)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_net_of_another_maker_is_refused(copied: Path) -> None:
    torch.onnx.export(
        nn.Conv3d(6, 1, 1), (torch.zeros(1, 6, 4, 4, 4),), str(copied / "candidate0.onnx"),
        dynamo=False,
    )  # fmt: skip
    assert "Missing key" in _refused(copied)


def test_nets_that_changed_places_are_refused(copied: Path) -> None:
    (copied / "candidate0.onnx").replace(copied / "spare")
    (copied / "candidate1.onnx").replace(copied / "candidate0.onnx")
    (copied / "spare").replace(copied / "candidate1.onnx")
    _refused(copied)


def _change(folder: Path, **values) -> Path:
    path = folder / DESCRIPTION
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return folder


@pytest.mark.parametrize(
    "values",
    [
        {"format": "another-1"},
        {"members": 3},
        {"members": {}},
        {"members": {"candidate0": {"kind": "oracle", "widths": [4, 6, 8]}}},
        {"members": {"candidate0": {"kind": "candidate", "widths": 4}}},
        {"members": {"candidate0": {"kind": "candidate", "widths": [4, 6, 8]}}},
        {"members": {"../x": {"kind": "candidate", "widths": [4, 6, 8]}}},
        {"operating_point": {"gate": "low"}},
        {"operating_point": {"other": 0.5}},
        {"notes": 7},
    ],
)
def test_a_wrong_description_is_refused(copied: Path, values) -> None:
    _refused(_change(copied, **values))


@pytest.mark.parametrize("content", ["", "[1]", "{}", "\udcff"])
def test_an_unreadable_description_is_refused(copied: Path, content: str) -> None:
    (copied / DESCRIPTION).write_text(content, errors="surrogateescape")
    _refused(copied)


def test_a_folder_without_description_is_refused(tmp_path: Path) -> None:
    assert DESCRIPTION in _refused(tmp_path)


def test_what_is_there_is_not_overwritten(cascade: Cascade, copied: Path) -> None:
    with pytest.raises(CannotCreateError):
        export_cascade(cascade, copied)
    with pytest.raises(CannotCreateError):
        export_cascade(cascade, copied / DESCRIPTION)


def test_a_failed_export_leaves_nothing_under_the_name(
    cascade: Cascade, tmp_path: Path, monkeypatch
) -> None:
    def fail(*_args, **_kwargs) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch.onnx, "export", fail)
        with pytest.raises(OSError, match="No space"):
            export_cascade(cascade, tmp_path / "toy")
    assert not (tmp_path / "toy").exists()
    export_cascade(cascade, tmp_path / "toy", check=False)
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_an_export_that_says_something_else_gets_no_name(
    cascade: Cascade, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(onnx_format, "TILE", 16)
    monkeypatch.setattr(onnx_format, "TOLERANCE", 0.0)
    with pytest.raises(DataError, match="differs by"):
        export_cascade(cascade, tmp_path / "toy")
    assert not (tmp_path / "toy").exists()


def test_a_missing_package_is_named(monkeypatch) -> None:
    monkeypatch.setattr(
        onnx_format.importlib.util, "find_spec", lambda name: None if name == "onnx" else 1
    )
    with pytest.raises(UsageError, match="need the package onnx") as caught:
        onnx_format.require_onnx()
    assert "bids_msseg[onnx]" in caught.value.hint
