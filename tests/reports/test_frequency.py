from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bids_msseg.bids.derivatives import mask_in
from bids_msseg.bids.visit import Visit
from bids_msseg.imaging.volume import Volume, save_volume
from bids_msseg.reports.group.frequency import COLOURS, draw_frequency, lesion_frequency
from bids_msseg.reports.group.page import THUMBNAIL_WIDTH, thumbnail
from bids_msseg.reports.images import canvas

AFFINE = np.diag([-4.0, 4.0, 4.0, 1.0])
AFFINE[:3, 3] = (40, -40, -20)


def put(out: Path, visit: Visit, *lesions: tuple[int, int, int], space: str = "Small") -> Path:
    data = np.zeros((20, 20, 20), np.uint8)
    for lesion in lesions:
        data[lesion] = 1
    path = mask_in(space, 2).path(out, visit, ".nii.gz")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_volume(Volume(data, AFFINE), path)
    return path


@pytest.fixture
def visits(tmp_path: Path) -> list[Visit]:
    """Three participants, one with two visits; two have a lesion at the same place."""
    found = [Visit("01", "1", Path()), Visit("01", "2", Path())]
    found += [Visit(name, None, Path()) for name in ("02", "03")]
    put(tmp_path, found[0], (10, 10, 11))
    put(tmp_path, found[1], (10, 10, 11), (5, 5, 11))
    put(tmp_path, found[2], (10, 10, 11))
    put(tmp_path, found[3])
    return found


def test_lesion_frequency_counts_each_participant_once(
    tmp_path: Path, visits: list[Visit]
) -> None:
    found = lesion_frequency(tmp_path, visits)
    assert found is not None
    assert (found.space, found.resolution, found.participants, found.most) == ("Small", 2, 3, 2)
    assert found.share.data[10, 10, 11] == pytest.approx(2 / 3)
    assert found.share.data[5, 5, 11] == pytest.approx(1 / 3)
    assert np.count_nonzero(found.share.data) == 2


def test_lesion_frequency_skips_broken_and_other_space_masks(
    tmp_path: Path, visits: list[Visit]
) -> None:
    put(tmp_path, visits[2], (1, 1, 1), space="Other")
    put(tmp_path, visits[2]).write_bytes(b"no image")
    found = lesion_frequency(tmp_path, visits)
    assert found is not None
    assert (found.space, found.participants) == ("Small", 2)


def test_lesion_frequency_needs_two_participants(tmp_path: Path, visits: list[Visit]) -> None:
    assert lesion_frequency(tmp_path, visits[:2]) is None
    assert lesion_frequency(tmp_path / "elsewhere", visits) is None


def test_frequency_picture_is_brightest_at_most_frequent_voxel(
    tmp_path: Path, visits: list[Visit]
) -> None:
    found = lesion_frequency(tmp_path, visits)
    assert found is not None
    png = draw_frequency(found)
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)[: -canvas.FOOTER]
    few, many = ((pixels == colour).all(-1) for colour in (COLOURS[0], COLOURS[-1]))
    assert 0 < many.sum() == few.sum()  # one voxel each
    assert np.argwhere(many)[:, 1].mean() > np.argwhere(few)[:, 1].mean()  # radiological
    assert "Share of 3 participants" in canvas.describe(png)[1]
    assert draw_frequency(found) == png


def test_frequency_of_cohort_without_lesions_is_drawn(tmp_path: Path) -> None:
    people = [Visit(name, None, Path()) for name in ("01", "02")]
    for visit in people:
        put(tmp_path, visit)
    found = lesion_frequency(tmp_path, people)
    assert found is not None
    assert found.most == 0
    assert draw_frequency(found).startswith(b"\x89PNG")


def test_thumbnail_has_fixed_width_and_small_size(out_dir: Path) -> None:
    jpeg = thumbnail(out_dir, Visit("01", "1", Path()))
    assert jpeg is not None
    with Image.open(io.BytesIO(jpeg)) as image:
        assert image.width == THUMBNAIL_WIDTH
    assert len(jpeg) < 60_000
    assert thumbnail(out_dir, Visit("01", "2", Path())) is None
