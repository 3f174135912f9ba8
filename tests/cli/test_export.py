from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bids_msseg.cascade.checkpoint import save_cascade
from bids_msseg.cascade.networks import CandidateNet, JudgeNet, RefinementNet
from bids_msseg.cascade.onnx_format import DESCRIPTION
from bids_msseg.cli.export import main
from bids_msseg.errors import ExitCode
from bids_msseg.models.weights import OperatingPoint

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def exported(bright_model: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "bright"
    assert main([str(bright_model), str(folder)]) == ExitCode.SUCCESS
    return folder


def test_a_model_becomes_a_folder(exported: Path) -> None:
    assert {path.name for path in exported.iterdir()} == {
        "candidate0.onnx",
        "refinement0.onnx",
        DESCRIPTION,
    }


def test_the_difference_is_told(bright_model: Path, tmp_path: Path, capsys) -> None:
    assert main([str(bright_model), str(tmp_path / "again")]) == ExitCode.SUCCESS
    assert "logits differ from those of bright" in capsys.readouterr().err


def test_out_and_in_gives_the_same_bytes(
    bright_model: Path, exported: Path, tmp_path: Path
) -> None:
    target = tmp_path / "new" / "again.safetensors"
    assert main([str(exported), str(target)]) == ExitCode.SUCCESS
    assert target.read_bytes() == bright_model.read_bytes()


def test_nets_that_count_their_batches_come_back_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    second, judge = RefinementNet((4, 8), "batch").train(), JudgeNet().train()
    second(torch.randn(2, 8, 8, 8, 8))
    judge(torch.randn(4, 3, 11, 11, 11))
    given, folder, back = (tmp_path / name for name in ("a.safetensors", "a", "b.safetensors"))
    point = OperatingPoint(judge=0.4, verdict=0.1)
    first = [CandidateNet((4, 8))]
    save_cascade(given, first, [second], judges=[judge], name="a", version="1", point=point)
    assert main([str(given), str(folder)]) == ExitCode.SUCCESS
    assert main([str(folder), str(back)]) == ExitCode.SUCCESS
    assert back.read_bytes() == given.read_bytes()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["no-such-model", "out"], ExitCode.USAGE),
        (["no/such/model.safetensors", "out"], ExitCode.NO_INPUT),
        (["{model}", "{exported}"], ExitCode.CANNOT_CREATE),
        (["{exported}", "out"], ExitCode.USAGE),
        (["{exported}", "{model}"], ExitCode.CANNOT_CREATE),
        (["{empty}", "out.safetensors"], ExitCode.DATA_ERROR),
        (["{broken}", "out"], ExitCode.DATA_ERROR),
        (["one"], ExitCode.USAGE),
    ],
)
def test_what_cannot_be_done_is_refused(
    words: list[str], code: int, bright_model: Path, exported: Path, tmp_path: Path, monkeypatch,
    capsys,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    places = {
        "model": bright_model,
        "exported": exported,
        "empty": tmp_path / "empty",
        "broken": tmp_path / "broken.safetensors",
    }
    assert main([word.format(**places) for word in words]) == code
    assert "hint:" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.safetensors", "empty"]
