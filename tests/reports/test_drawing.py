from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bids_msseg.bids.paths import figure_path
from bids_msseg.bids.visit import Visit
from bids_msseg.errors import CannotCreateError
from bids_msseg.imaging.volume import Volume
from bids_msseg.reports.images.drawing import draw_visit, read_figures

VISIT = Visit("01", "1", Path(), entities={"run": "02"})


def keys(out: Path, visit: Visit = VISIT) -> dict[str, list[str]]:
    return {kind: [f.key for f in frames] for kind, frames in read_figures(out, visit).items()}


def test_drawn_frames_are_png_files_and_can_be_read_back(
    tmp_path: Path, small_head: dict[str, Volume]
) -> None:
    flair = small_head["flair"]
    moving = {"MNI152NLin2009aSym": flair, "T2w": flair, "T1w": flair}
    paths = draw_visit(tmp_path, VISIT, **small_head, moving=moving)
    folder = tmp_path / "sub-01" / "figures"
    assert sorted(folder.iterdir()) == sorted(paths)
    assert folder / "sub-01_ses-1_run-02_desc-lesions_FLAIR.png" in paths
    assert keys(tmp_path) == {
        "lesions": ["lesions", "lesionsPlain"],
        "brain": ["brain", "brainPlain"],
        "registration": [
            "registrationT1w",
            "registrationT2w",
            "registrationMNI152NLin2009aSym",
            "registrationFLAIR",
        ],
    }
    first = read_figures(tmp_path, VISIT)["lesions"][0]
    assert first.png == figure_path(tmp_path, VISIT, "lesions", extension=".png").read_bytes()
    assert first.title == "FLAIR, lesions outlined"
    assert "They show 1 of 1 lesions" in first.description
    assert first.width > first.height / 3 > 0


def test_anatomy_frame_lies_between_mask_and_plain_frames(
    tmp_path: Path, small_head: dict[str, Volume]
) -> None:
    anatomy = small_head["brain"].with_data(small_head["brain"].data.astype(np.uint8) * 5)
    draw_visit(tmp_path, VISIT, **small_head, anatomy=anatomy)
    assert keys(tmp_path)["brain"] == ["brain", "brainAnatomy", "brainPlain"]


def test_redrawing_removes_only_stale_figures_of_same_visit(
    tmp_path: Path, small_head: dict[str, Volume]
) -> None:
    draw_visit(tmp_path, VISIT, **small_head, moving={"T2w": small_head["flair"]})
    other = Visit("01", "1", Path())
    draw_visit(tmp_path, other, **small_head)
    note = tmp_path / "sub-01" / "figures" / f"{VISIT.prefix}_desc-mine_FLAIR.png"
    note.write_bytes(b"a user's own picture")
    draw_visit(tmp_path, VISIT, **small_head)
    assert "registration" not in keys(tmp_path)
    assert "lesions" in keys(tmp_path, other)
    assert note.exists()


def test_read_figures_skips_broken_and_missing_pictures(
    tmp_path: Path, small_head: dict[str, Volume]
) -> None:
    assert keys(tmp_path) == {}
    draw_visit(tmp_path, VISIT, **small_head)
    whole = figure_path(tmp_path, VISIT, "lesions", extension=".png")
    whole.write_bytes(whole.read_bytes()[:2000])
    figure_path(tmp_path, VISIT, "brain", extension=".png").write_bytes(b"")
    figure_path(tmp_path, VISIT, "brainPlain", extension=".png").unlink()
    assert keys(tmp_path) == {"lesions": ["lesionsPlain"]}


def test_unwritable_figure_folder_raises_error(
    tmp_path: Path, small_head: dict[str, Volume]
) -> None:
    (tmp_path / "sub-01").write_text("a file in the way")
    with pytest.raises(CannotCreateError, match="figures of sub-01_ses-1"):
        draw_visit(tmp_path, VISIT, **small_head)
