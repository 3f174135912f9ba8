"""The nodes that refine the template's regions and measure the anatomy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bids_msseg.imaging.resample import resample
from bids_msseg.imaging.template import load_template
from bids_msseg.imaging.volume import load_volume
from bids_msseg.lesions.regions import RegionAnatomy
from bids_msseg.models.anatomy import Anatomy as Classes
from bids_msseg.nodes.anatomy import FindAnatomy, MeasureBrain

Save = Callable[..., Path]
Run = Callable[..., Any]
SHIFT = np.eye(4)
SHIFT[:3, 3] = (12.0, -7.0, 5.0)


def at_three_mm() -> tuple[np.ndarray, np.ndarray]:
    """Return the template's regions on a coarse grid, and the affine of that grid."""
    template = load_template()
    affine = template.volume.affine @ np.diag([3.0, 3, 3, 1])
    x, y, z = (size // 3 for size in template.volume.shape)
    regions = template.volume.with_data(np.asarray(template.regions))
    return resample(regions, (x, y, z), affine, order=0).data, affine


@pytest.fixture
def visit(save: Save, save_affine: Save) -> dict[str, Any]:
    """A shifted copy of the template brain; its T1w is shifted once more."""
    regions, affine = at_three_mm()
    moved = SHIFT @ affine
    dark = np.select([regions == 0, regions == RegionAnatomy.VENTRICLE], [0, 10], 60).astype("f4")
    return {
        "flair_file": save("flair", dark, moved),
        "mask_file": save("brain", (regions > 0).astype(np.uint8), moved),
        "template_transform": save_affine("template", SHIFT),
        "t1w_file": save("t1w", dark, SHIFT @ moved),
        "t1w_transform": save_affine("t1w", SHIFT),
    }


def test_find_anatomy_finds_ventricles_of_images(run: Run, visit: dict[str, Any]) -> None:
    regions, affine = at_three_mm()
    found = run(FindAnatomy, **visit)
    anatomy = load_volume(found.regions_file, np.uint8)
    np.testing.assert_allclose(anatomy.affine, SHIFT @ affine, atol=1e-4)
    truth, ours = regions == RegionAnatomy.VENTRICLE, anatomy.data == RegionAnatomy.VENTRICLE
    assert found.own_ventricles
    assert found.notes == []
    assert 2 * (truth & ours).sum() / (truth.sum() + ours.sum()) > 0.9
    posterior = regions == RegionAnatomy.INFRATENTORIAL
    np.testing.assert_array_equal(anatomy.data == RegionAnatomy.INFRATENTORIAL, posterior)


def test_find_anatomy_notes_use_of_template_ventricles(
    run: Run, save: Save, visit: dict[str, Any]
) -> None:
    flair = load_volume(visit["flair_file"])
    flat = save("flat", np.where(flair.data > 0, 60, 0).astype("f4"), flair.affine)
    found = run(FindAnatomy, **{**visit, "flair_file": flat})
    assert not found.own_ventricles
    assert "template" in found.notes[0]


def test_measure_brain_gives_volumes_on_flair_grid(
    run: Run, save: Save, save_affine: Save
) -> None:
    labels = np.full((12, 12, 12), Classes.WHITE_MATTER, np.uint8)
    labels[:6] = Classes.VENTRICLE
    flair = save("flair", np.zeros((6, 6, 6), np.float32), np.diag([2.0, 2, 2, 1]))
    found = run(
        MeasureBrain,
        anatomy_file=save("classes", labels, np.eye(4)),
        flair_file=flair,
        template_transform=save_affine("template", np.eye(4)),
        trusted=False,
    )
    written = load_volume(found.anatomy_file, np.uint8)
    np.testing.assert_array_equal(written.data, labels[::2, ::2, ::2])
    content = json.loads(Path(found.volumes_file).read_text(encoding="utf-8"))
    ml = {code: volume for code, volume in content["ml"].items() if volume}
    expected = {str(int(Classes.VENTRICLE)): 0.864, str(int(Classes.WHITE_MATTER)): 0.864}
    assert ml == pytest.approx(expected)
    assert len(content["implausible"]) > 5
    assert len(found.notes) == 1
