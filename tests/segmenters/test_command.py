"""Segmenter that runs a command, with small real programs."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bids_msseg.errors import DataError, MssegError, UsageError
from bids_msseg.imaging.volume import load_volume
from bids_msseg.segmenters.base import Segmenter
from bids_msseg.segmenters.command import open_command, placeholders
from bids_msseg.segmenters.images import VisitImages

VOXELS = 4
"""Number of voxels in the lesion, all bright on FLAIR."""


def make(command: object, **more: object) -> Segmenter:
    return open_command({"command": command, "name": "bright", **more})


def found(segmenter: Segmenter, images: VisitImages) -> np.ndarray:
    data: np.ndarray = segmenter.segment(images, threads=1, device="cpu").data
    return data


def test_command_as_list_of_words(bright: list[str], images: VisitImages) -> None:
    segmenter = make([*bright, "{flair}", "{out}", "0.75"])
    segmenter.check()
    data = found(segmenter, images)
    bright_voxels = load_volume(images.files["FLAIR"]).data > 150
    np.testing.assert_array_equal(data, np.where(bright_voxels, np.float32(0.75), 0))
    assert bright_voxels.sum() == VOXELS


@pytest.mark.parametrize("shell", [False, True])
def test_command_line_keeps_paths_with_spaces(
    bright: list[str], images: VisitImages, shell: bool
) -> None:
    """Paths with a space are not split."""
    line = f"{shlex.join(bright)} {{flair}} {{out}} 1"
    if shell:
        line = f"{shlex.join(bright)} {{flair}} mine.nii.gz 1 && mv mine.nii.gz {{out}}"
    assert found(make(line, shell=shell), images).sum() == VOXELS


def test_label_is_read_from_named_output_file(bright: list[str], images: VisitImages) -> None:
    command = [*bright, "{flair}", "{folder}/labels.nii", "99"]
    assert found(make(command, out="labels.nii", label=99), images).sum() == VOXELS
    with pytest.raises(DataError, match="0 to 99"):
        found(make(command, out="labels.nii"), images)


def test_placeholders_are_replaced_by_their_values(images: VisitImages) -> None:
    code = "import sys; open('words', 'w').write('|'.join(sys.argv[1:]))"
    words = ["{flair}", "--t1={t1w}", "{brain}", "{out}", "{folder}", "{threads}", "{{x}}"]
    segmenter = make([sys.executable, "-c", code, *words])
    with pytest.raises(DataError, match="did not write"):
        segmenter.segment(images, threads=3, device="cpu")
    folder = images.folder
    assert (folder / "words").read_text().split("|") == [
        str(images.files["FLAIR"]), f"--t1={images.files['T1w']}", str(images.brain),
        str(folder / "out.nii.gz"), str(folder), "3", "{x}",
    ]  # fmt: skip


def test_missing_contrast_is_refused(bright: list[str], flair_only: VisitImages) -> None:
    with pytest.raises(DataError, match="T1w"):
        found(make([*bright, "{t1w}", "{out}", "1"]), flair_only)


def test_failed_program_raises_error_with_log_tail(bright: list[str], images: VisitImages) -> None:
    with pytest.raises(MssegError, match="bright exited with code 3; its log ends: no licence"):
        found(make([*bright, "{flair}", "{out}", "1", "no licence"]), images)


def test_check_refuses_missing_program() -> None:
    with pytest.raises(UsageError, match="no-such-program"):
        make("no-such-program {flair} {out}").check()
    # with a shell, the program is not checked in advance
    make("no-such-program {flair} > {out}", shell=True).check()  # noqa: S604


def test_describe_returns_identity_and_contrasts(bright: list[str]) -> None:
    command = [*bright, "{flair}", "{out}", "1"]
    about = {"version": "1.2", "licence": "CC0", "citation": "Doe 2020"}
    header = make(command, **about).describe()
    assert (header.segmenter, header.name, header.version) == ("command", "bright", "1.2")
    assert (header.licence, header.citation) == ("CC0", "Doe 2020")
    assert header.contrasts == ("FLAIR",)
    assert header.point.threshold == 0.5
    everything = make([*bright, "{folder}", "1"]).describe()
    assert everything.contrasts == ("FLAIR", "T1w", "T2w")


@pytest.mark.parametrize(
    ("more", "same"),
    [
        ({"version": "1.3"}, False),
        ({"label": 2}, False),
        ({"input": "head"}, False),
        ({"out": "other.nii"}, False),
        ({"timeout_minutes": 5}, True),
        ({"licence": "CC0"}, True),
    ],
)
def test_digest_covers_options_that_change_results(more: dict[str, Any], same: bool) -> None:
    command = ["x", "{flair}", "{folder}"]
    one, two = make(command).describe(), make(command, **more).describe()
    assert (one.sha256 == two.sha256) == same


def test_relative_program_path_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program runs in the folder of a visit."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "copy"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    segmenter = make("bin/copy {flair} {out}")
    segmenter.check()
    monkeypatch.chdir("/")
    segmenter.check()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"command": "x {out}"},
        {"command": "", "name": "x"},
        {"command": [], "name": "x"},
        {"command": 5, "name": "x"},
        {"command": "x {flair}", "name": "x"},
        {"command": "x {flare} {out}", "name": "x"},
        {"command": "x {flair:>5} {out}", "name": "x"},
        {"command": "x {0} {out}", "name": "x"},
        {"command": "x { {out}", "name": "x"},
        {"command": "x 'open {out}", "name": "x"},
        {"command": ["x", "{out}"], "name": "x", "shell": True},
        {"command": "x {out}", "name": "x", "out": "a/b.nii"},
        {"command": "x {out}", "name": "x", "timeout_minutes": 0},
        {"command": "x {out}", "name": "x", "label": 0},
        {"command": "x {out}", "name": "x", "input": "all"},
        {"command": "x {out}", "name": "x", "vesion": "1"},
    ],
)
def test_unusable_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        open_command(options)


def test_escaped_braces_are_not_placeholders() -> None:
    words = ["seg", "--in={flair}", "{out}", "{{literal}}"]
    assert placeholders(words) == {"flair", "out"}
