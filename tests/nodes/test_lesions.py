"""Nodes that bring lesions from the working grid to the output grids."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nipype.interfaces.base import isdefined
from nipype.pipeline.engine.nodes import NodeExecutionError
from scipy import ndimage

from bids_msseg.imaging.volume import Volume
from bids_msseg.lesions.regions import RegionAnatomy
from bids_msseg.models.anatomy import Anatomy as Tissue
from bids_msseg.nodes.lesions import (
    Delineate,
    FillLesions,
    MaskInSpace,
    MeasureRegions,
    OntoGrid,
    TakeGivenMask,
)

Given = Callable[..., dict[str, Any]]
Maps = dict[str, Any]
Run = Callable[..., Any]
Save = Callable[..., Path]
WORK = np.diag([1.0, 1, 1, 1])
WORK[:3, 3] = (-20, -22, -24)
SHAPE = (41, 45, 49)
BLOBS = (((6, 4, 2), 5), ((-9, -8, 10), 4), ((0, 12, -12), 3))
REFUSED = ((9, -12, -8), 4)
ORIENTATIONS = [
    "".join(axes) for order in permutations(("RL", "AP", "SI")) for axes in product(*order)
]


def world(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    index = np.indices(shape).reshape(3, -1)
    return (affine[:3, :3] @ index + affine[:3, 3:]).reshape(3, *shape)


def balls(shape: tuple[int, ...], affine: np.ndarray, *which: tuple[Any, float]) -> np.ndarray:
    places = world(shape, affine)
    return np.any(
        [
            ((places - np.array(centre).reshape(3, 1, 1, 1)) ** 2).sum(0) <= radius**2
            for centre, radius in which
        ],
        axis=0,
    )


def grid_of(axes: str, spacing: tuple[float, float, float] = (1.5, 1.0, 2.0)) -> Volume:
    """Return an empty image whose stored axes have the given orientation."""
    order = [0 if c in "LR" else 1 if c in "PA" else 2 for c in axes]
    shape = tuple(int(40 / spacing[w]) for w in order)
    affine = np.eye(4)
    for column, (w, c) in enumerate(zip(order, axes, strict=True)):
        affine[:3, column] = 0
        affine[w, column] = spacing[w] * (1 if c in "RAS" else -1)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Volume(np.zeros(shape, np.float32), affine)


@pytest.fixture
def maps(save: Save, save_affine: Save) -> Maps:
    """Outputs of the cascade: three lesions, one rejected candidate and a speck."""
    lesions, refused = balls(SHAPE, WORK, *BLOBS), balls(SHAPE, WORK, REFUSED)
    probability = np.where(lesions, 0.9, np.where(refused, 0.2, 0)).astype(np.float32)
    probability[6:8, 8:10, 10:12] = 0.9
    candidates = (probability > 0).astype(np.uint8)
    return {
        "probability_file": save("probability", probability, WORK),
        "candidate_file": save("candidate", np.where(candidates, 0.8, 0).astype("f4"), WORK),
        "lesion_file": save(
            "lesion", np.where(lesions, 0.95, 0.1 * candidates).astype("f4"), WORK
        ),
        "candidates_file": save("candidates", candidates, WORK),
        "mask_file": save("brain", np.ones(SHAPE, np.uint8), WORK),
        "template_transform": save_affine("template", np.eye(4)),
        "threshold": 0.5,
        "min_volume": 10.0,
    }


def read(path: str) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


@pytest.mark.parametrize("axes", ["RAS", "LAS", "PSR", "AIL"])
def test_delineate_writes_maps_on_stored_flair_grid(
    run: Run, save: Save, maps: Maps, axes: str
) -> None:
    grid = grid_of(axes)
    found = run(Delineate, flair_file=save("flair", grid.data, grid.affine), **maps)
    for name in ("probseg", "labels", "mask", "candidates", "rejected", "brain"):
        image = nib.load(getattr(found, f"{name}_file"))
        assert nib.aff2axcodes(image.affine) == tuple(axes)
        assert image.shape == grid.shape
        np.testing.assert_allclose(image.affine, grid.affine, atol=1e-6)
    truth = balls(grid.shape, grid.affine, *BLOBS)
    mask = read(found.mask_file) > 0
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.85
    assert (read(found.rejected_file) > 0)[balls(grid.shape, grid.affine, (REFUSED[0], 2))].all()


def test_lesion_table_has_rows_for_all_candidates(run: Run, save: Save, maps: Maps) -> None:
    grid = grid_of("RAS", (1.0, 1.0, 1.0))
    found = run(Delineate, flair_file=save("flair", grid.data, grid.affine), **maps)
    rows = json.loads(Path(found.table_file).read_text())
    kept = [row for row in rows if row["status"] == "kept"]
    rejected = [row for row in rows if row["status"] == "rejected"]
    assert len(kept) == read(found.labels_file).max() == 3
    assert len(rejected) == read(found.rejected_file).max() == 2
    assert {row["reason"] for row in rejected} == {"refinement", "size"}
    assert [row["index"] for row in kept] == [1, 2, 3]
    volumes = [row["volume_mm3"] for row in kept]
    assert volumes == sorted(volumes, reverse=True)
    lesions, refused = read(found.labels_file) > 0, read(found.rejected_file) > 0
    blobs, count = ndimage.label(read(found.candidates_file), np.ones((3, 3, 3)))
    assert count == 5
    assert sum(row["n_voxels"] for row in rows) == lesions.sum() + refused.sum()
    for number in range(1, count + 1):
        inside = blobs == number
        assert lesions[inside].any() != refused[inside].all()
    np.testing.assert_allclose(kept[0]["centroid"], BLOBS[0][0], atol=0.6)
    # the grids differ by half a voxel, so the means include some outside voxels
    assert 0.6 < kept[0]["p_cnn1"] < 0.8 + 1e-6
    assert 0.7 < kept[0]["p_cnn2_lesion"] < 0.95 + 1e-6


def test_rejected_voxels_are_candidates_after_interpolation(
    run: Run, save: Save, maps: Maps
) -> None:
    """A low threshold and a shift by half a voxel give lesion voxels outside candidates."""
    grid = grid_of("RAS", (1.0, 1.0, 1.0))
    given = {**maps, "threshold": 0.05, "min_volume": 1000.0}
    found = run(Delineate, flair_file=save("flair", grid.data, grid.affine + 0.0), **given)
    rejected, candidates = read(found.rejected_file) > 0, read(found.candidates_file) > 0
    assert rejected.any()
    assert (rejected <= candidates).all()


def test_empty_maps_give_empty_table_and_mask(run: Run, save: Save, maps: Any) -> None:
    empty = save("empty", np.zeros(SHAPE, np.float32), WORK)
    names = ("probability_file", "candidate_file", "lesion_file", "candidates_file")
    grid = grid_of("RAS")
    flair = save("flair", grid.data, grid.affine)
    found = run(Delineate, flair_file=flair, **{**maps, **dict.fromkeys(names, empty)})
    assert json.loads(Path(found.table_file).read_text()) == []
    assert not read(found.mask_file).any()


@pytest.mark.parametrize("axes", ORIENTATIONS[::7])
def test_onto_grid_keeps_world_positions(run: Run, save: Save, axes: str) -> None:
    data = balls(SHAPE, WORK, *BLOBS).astype(np.float32)
    grid = grid_of(axes)
    brain = balls(grid.shape, grid.affine, (BLOBS[0][0], 9)).astype(np.uint8)
    found = run(
        OntoGrid,
        in_file=save("image", data, WORK),
        reference_file=save("flair", grid.data, grid.affine),
        mask_file=save("brain", brain, grid.affine),
    )
    image = read(found.out_file)
    assert not image[brain == 0].any()
    truth = balls(grid.shape, grid.affine, BLOBS[0])
    assert 2 * ((image > 0.5) & truth).sum() / ((image > 0.5).sum() + truth.sum()) > 0.85


def test_onto_grid_with_rim_shows_only_brain_and_rim(run: Run, save: Save) -> None:
    grid = grid_of("RAS", (1.0, 1.0, 1.0))
    brain = balls(grid.shape, grid.affine, ((0, 0, 0), 9)).astype(np.uint8)
    found = run(
        OntoGrid,
        in_file=save("image", np.ones(SHAPE, np.float32), WORK),
        reference_file=save("flair", grid.data, grid.affine),
        mask_file=save("brain", brain, grid.affine),
        rim_mm=6.0,
    )
    image = read(found.out_file)
    assert (image.dtype, image.max()) == (np.int16, 1023)
    shown = image > 0
    assert shown[balls(grid.shape, grid.affine, ((0, 0, 0), 13.5))].all()
    assert not shown[~balls(grid.shape, grid.affine, ((0, 0, 0), 15.5))].any()


def cut_inputs(maps: Maps) -> Maps:
    """Inputs of a node that cuts the lesions again in another space."""
    return {name: maps[name] for name in ("probability_file", "threshold", "min_volume")}


def moved(x: float, y: float, z: float) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, 3] = (x, y, z)
    return affine


@pytest.mark.parametrize("invert", [False, True])
def test_mask_in_space_follows_transform(
    run: Run, save: Save, save_affine: Save, maps: Maps, invert: bool
) -> None:
    grid = grid_of("LPS")
    to_source = moved(3, -2, 4)
    found = run(
        MaskInSpace,
        **cut_inputs(maps),
        reference_file=save("t1w", grid.data, grid.affine),
        transform_file=save_affine("move", np.linalg.inv(to_source) if invert else to_source),
        invert=invert,
    )
    # target world plus the shift is source world
    truth = balls(grid.shape, to_source @ grid.affine, *BLOBS)
    mask = read(found.mask_file) > 0
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.85


def test_mask_in_space_on_grid_of_4d_series(run: Run, tmp_path: Path, maps: Maps) -> None:
    """The series is aligned with the FLAIR, so the node needs no transform."""
    grid = grid_of("LAS")
    series = np.zeros((*grid.shape, 3), np.int16)
    nib.save(nib.Nifti1Image(series, grid.affine), tmp_path / "dwi.nii.gz")
    inputs = {**cut_inputs(maps), "reference_file": tmp_path / "dwi.nii.gz"}
    mask = nib.load(run(MaskInSpace, same_world=True, **inputs).mask_file)
    assert mask.shape == grid.shape
    truth = balls(grid.shape, grid.affine, *BLOBS)
    found = np.asarray(mask.dataobj) > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.85
    # a contrast that was left out has no transform and no mask
    assert not isdefined(run(MaskInSpace, **inputs).mask_file)


def test_mask_in_space_of_embedded_template(run: Run, save_affine: Save, maps: Maps) -> None:
    inputs = {**cut_inputs(maps), "transform_file": save_affine("same", np.eye(4))}
    found = run(MaskInSpace, template="MNI152NLin2009aSym", **inputs)
    image = nib.load(found.mask_file)
    truth = balls(image.shape, image.affine, *BLOBS)
    mask = np.asarray(image.dataobj) > 0
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.85


def test_given_anatomy_sets_lesion_regions_and_ventricle_mask(
    run: Run, save: Save, maps: Maps
) -> None:
    grid = grid_of("LPS", (1.0, 1.0, 1.0))
    anatomy = np.full(SHAPE, RegionAnatomy.SUPRATENTORIAL, np.uint8)
    anatomy[balls(SHAPE, WORK, ((6, 4, 10), 3))] = RegionAnatomy.VENTRICLE
    anatomy[balls(SHAPE, WORK, ((0, 12, -12), 5))] = RegionAnatomy.INFRATENTORIAL
    inputs = {**maps, "regions_file": save("regions", anatomy, WORK)}
    flair = save("flair", grid.data, grid.affine)
    found = run(Delineate, flair_file=flair, own_ventricles=True, **inputs)
    rows = json.loads(Path(found.table_file).read_text())
    regions = [row["region"] for row in rows if row["status"] == "kept"]
    assert regions == ["periventricular", "deep_white_matter", "infratentorial"]
    written = read(found.ventricles_file) > 0
    truth = balls(grid.shape, grid.affine, ((6, 4, 10), 3))
    assert 2 * (written & truth).sum() / (written.sum() + truth.sum()) > 0.7


@pytest.mark.parametrize("which", range(len(BLOBS)))
def test_extracerebral_lesion_is_rejected_with_reason(
    run: Run, save: Save, maps: Maps, which: int
) -> None:
    centre, radius = BLOBS[which]
    outside = balls(SHAPE, WORK, (centre, radius + 2)).astype(np.uint8)
    grid = grid_of("RAS", (1.0, 1.0, 1.0))
    inputs = {**maps, "extracerebral_file": save("outside", outside, WORK)}
    found = run(Delineate, flair_file=save("flair", grid.data, grid.affine), **inputs)
    rows = json.loads(Path(found.table_file).read_text())
    gone = [row for row in rows if row["reason"] == "extracerebral"]
    assert [row["status"] for row in gone] == ["rejected"]
    np.testing.assert_allclose(gone[0]["centroid"], centre, atol=0.6)
    # the probabilities of the networks stay in the row
    assert gone[0]["p_final"] > 0.5
    assert sum(row["status"] == "kept" for row in rows) == 2
    there = balls(grid.shape, grid.affine, (centre, radius - 1.5))
    assert (read(found.rejected_file) > 0)[there].all()
    assert not (read(found.mask_file) > 0)[there].any()
    assert not (read(found.probseg_file) >= 0.5)[there].any()
    # masks in other spaces are thresholded from this map
    probability = read(found.probability_file)
    blob = balls(SHAPE, WORK, BLOBS[which])
    assert not probability[blob].any()
    before = read(str(maps["probability_file"]))
    np.testing.assert_array_equal(probability[~blob], before[~blob])


@pytest.mark.parametrize("parts", [1, 2])
def test_exclusion_mask_removes_lesion(run: Run, save: Save, maps: Maps, parts: int) -> None:
    """One mask or two half masks; the lesions outside the mask do not change."""
    grid = grid_of("PSR")
    flair = save("flair", grid.data, grid.affine)
    excluded = balls(grid.shape, grid.affine, (BLOBS[0][0], BLOBS[0][1] + 2))
    half = np.indices(grid.shape)[0] < grid.shape[0] // 2
    drawn = [excluded] if parts == 1 else [excluded & half, excluded & ~half]
    files = [
        str(save(f"excluded{number}", data.astype(np.uint8), grid.affine))
        for number, data in enumerate(drawn)
    ]
    plain = run(Delineate, flair_file=flair, **maps)
    found = run(Delineate, flair_file=flair, exclusion_files=files, **maps)
    before, after = (read(one.mask_file) > 0 for one in (plain, found))
    np.testing.assert_array_equal(after, before & ~excluded)
    volume = float(abs(np.linalg.det(grid.affine[:3, :3])))
    taken = int((before & excluded).sum())
    assert taken > 0
    assert found.excluded_ml == pytest.approx(taken * volume / 1000)
    assert not isdefined(plain.excluded_ml)
    rows = json.loads(Path(found.table_file).read_text())
    assert sum(row["status"] == "kept" for row in rows) == 2
    (gone,) = [row for row in rows if row["reason"] == "excluded"]
    assert gone["n_voxels"] >= taken
    assert not read(found.probseg_file)[excluded].any()
    # masks in other spaces are thresholded from this map
    blob = balls(SHAPE, WORK, BLOBS[0])
    assert not read(found.probability_file)[blob].any()
    far = ~balls(SHAPE, WORK, (BLOBS[0][0], BLOBS[0][1] + 4))
    np.testing.assert_array_equal(
        read(found.probability_file)[far], read(str(maps["probability_file"]))[far]
    )


@pytest.mark.parametrize(("values", "notes"), [((1,), 0), ((255,), 0), ((1, 5, 7), 1)])
def test_values_of_exclusion_mask_are_noted(
    run: Run, save: Save, maps: Maps, given: Given, values: tuple[int, ...], notes: int
) -> None:
    """Networks and given masks pass on the same notes."""
    grid = grid_of("PSR")
    drawn = np.zeros(grid.shape, np.uint8)
    drawn.flat[: len(values)] = values
    files = [str(save("excluded", drawn, grid.affine))]
    flair = save("flair", grid.data, grid.affine)
    lesions = balls(grid.shape, grid.affine, *BLOBS).astype(np.uint8)
    found = [
        run(Delineate, flair_file=flair, exclusion_files=files, **maps),
        run(TakeGivenMask, exclusion_files=files, **given(lesions)),
    ]
    for outputs in found:
        assert len(outputs.notes) == notes
        assert all("excluded" in note for note in outputs.notes)


def test_exclusion_mask_on_another_grid_is_refused(run: Run, save: Save, maps: Maps) -> None:
    grid = grid_of("PSR")
    flair = save("flair", grid.data, grid.affine)
    other = save("other", np.ones(SHAPE, np.uint8), WORK)
    with pytest.raises(NodeExecutionError, match="not on the grid of the FLAIR"):
        run(Delineate, flair_file=flair, exclusion_files=[str(other)], **maps)


@pytest.mark.parametrize("place", [(9, -12, -8), (19, 19, 19), None])
def test_outputs_without_extracerebral_lesion_do_not_change(
    run: Run, save: Save, maps: Maps, place: tuple[int, int, int] | None
) -> None:
    """The map covers a rejected candidate, covers no candidate, or is missing."""
    grid = grid_of("RAS", (1.0, 1.0, 1.0))
    flair = save("flair", grid.data, grid.affine)
    plain = run(Delineate, flair_file=flair, **maps)
    more = {}
    if place is not None:
        outside = balls(SHAPE, WORK, (place, 3)).astype(np.uint8)
        more["extracerebral_file"] = save("outside", outside, WORK)
    found = run(Delineate, flair_file=flair, **maps, **more)
    assert found.probability_file == str(maps["probability_file"])
    for name in ("probseg", "labels", "mask", "candidates", "rejected"):
        one, other = (Path(getattr(result, f"{name}_file")) for result in (plain, found))
        assert one.read_bytes() == other.read_bytes()


def test_space_of_left_out_contrast_has_no_mask(run: Run, save: Save, maps: Maps) -> None:
    grid = grid_of("LPS")
    reference = save("t1w", grid.data, grid.affine)
    found = run(MaskInSpace, reference_file=reference, **cut_inputs(maps))
    assert not isdefined(found.mask_file)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_left_out_contrast_is_blurred(run: Run, save: Save, size: int) -> None:
    """A bright spot of a few voxels, such as a part of a face, almost disappears."""
    data = np.zeros(SHAPE, np.float32)
    data[20 : 20 + size, 22 : 22 + size, 24 : 24 + size] = 100
    grid = grid_of("RAS", (1.0, 1.0, 1.0))
    flair = save("flair", grid.data, grid.affine)
    image = save("image", data, WORK)
    sharp = read(run(OntoGrid, in_file=image, reference_file=flair).out_file)
    blurred = read(run(OntoGrid, left_out_file=image, reference_file=flair).out_file)
    assert 0 < blurred.max() < 0.4 * sharp.max()
    both = read(run(OntoGrid, in_file=image, left_out_file=image, reference_file=flair).out_file)
    np.testing.assert_array_equal(both, sharp)


@pytest.fixture
def given(save: Save, save_affine: Save) -> Given:
    """Make the inputs of the node from a lesion mask and the radius of a brain."""
    grid = grid_of("PSR")

    def make(data: np.ndarray, brain: float = 99.0) -> dict[str, Any]:
        return {
            "flair_file": save("flair", grid.data, grid.affine),
            "lesion_file": save("drawn", data, grid.affine),
            "mask_file": save("brain", balls(SHAPE, WORK, ((0, 0, 0), brain)).astype("u1"), WORK),
            "template_transform": save_affine("template", np.eye(4)),
            "min_volume": 10.0,
        }

    return make


def test_given_mask_replaces_network_outputs(run: Run, given: Given) -> None:
    grid = grid_of("PSR")
    lesions = balls(grid.shape, grid.affine, *BLOBS).astype(np.uint8)
    found = run(TakeGivenMask, **given(lesions))
    np.testing.assert_array_equal(read(found.mask_file), lesions)
    np.testing.assert_array_equal(read(found.probability_file), lesions.astype(np.float32))
    assert read(found.labels_file).max() == 3
    assert not read(found.rejected_file).any()
    rows = json.loads(Path(found.table_file).read_text())
    assert [row["status"] for row in rows] == ["kept"] * 3
    assert json.loads(Path(found.estimate_file).read_text())["reason"]
    assert found.notes == []


def test_selected_values_of_given_mask_are_lesions(run: Run, given: Given) -> None:
    grid = grid_of("PSR")
    lesions = np.zeros(grid.shape, np.uint8)
    for value, blob in enumerate(BLOBS, start=1):
        lesions[balls(grid.shape, grid.affine, blob)] = value
    everything = run(TakeGivenMask, **given(lesions))
    assert read(everything.labels_file).max() == 3
    assert len(everything.notes) == 1
    two = run(TakeGivenMask, values=[1, 3], **given(lesions))
    assert read(two.labels_file).max() == 2
    assert two.notes == []


def test_given_mask_outside_brain_is_noted(run: Run, given: Given) -> None:
    grid = grid_of("PSR")
    beside = balls(grid.shape, grid.affine, ((0, 0, 0), 5), ((14, 14, 0), 4)).astype(np.uint8)
    (note,) = run(TakeGivenMask, **given(beside, brain=12.0)).notes
    assert "outside the brain" in note


def test_rejected_labels_of_given_mask_may_exceed_int16(
    run: Run, save: Save, save_affine: Save
) -> None:
    """There are more labels than a signed 16-bit integer can hold."""
    specks = np.zeros((68, 68, 68), np.uint8)
    specks[::2, ::2, ::2] = 1
    file = save("specks", specks, np.eye(4))
    found = run(
        TakeGivenMask,
        flair_file=file,
        lesion_file=file,
        mask_file=save("brain", np.ones_like(specks), np.eye(4)),
        template_transform=save_affine("template", np.eye(4)),
        min_volume=3.0,
    )
    rejected = read(found.rejected_file)
    assert (rejected.min(), rejected.max()) == (0, 34**3)


def test_empty_given_mask_has_no_lesions(run: Run, given: Given) -> None:
    found = run(TakeGivenMask, **given(np.zeros(grid_of("PSR").shape, np.uint8)))
    assert json.loads(Path(found.table_file).read_text()) == []
    assert not read(found.mask_file).any()


def test_exclusion_mask_removes_given_lesion(run: Run, save: Save, given: Given) -> None:
    grid = grid_of("PSR")
    lesions = balls(grid.shape, grid.affine, *BLOBS).astype(np.uint8)
    excluded = balls(grid.shape, grid.affine, BLOBS[1])
    file = save("excluded", excluded.astype(np.uint8), grid.affine)
    found = run(TakeGivenMask, exclusion_files=[str(file)], **given(lesions))
    np.testing.assert_array_equal(read(found.mask_file) > 0, (lesions > 0) & ~excluded)
    np.testing.assert_array_equal(read(found.probability_file), read(found.mask_file))
    np.testing.assert_array_equal(read(found.rejected_file) > 0, excluded)
    rows = json.loads(Path(found.table_file).read_text())
    assert [row["reason"] for row in rows] == ["", "", "excluded"]
    assert found.excluded_ml == pytest.approx(rows[-1]["volume_mm3"] / 1000)


@pytest.mark.parametrize(("space", "shift"), [("FLAIR", None), ("T1w", 10.0), ("MNI", -10.0)])
def test_atlas_regions_are_measured_in_atlas_space(
    run: Run, save: Save, save_affine: Save, space: str, shift: float | None
) -> None:
    """In atlas coordinates, region 1 has x < 10 mm, and region 2 has larger x."""
    labels = np.zeros((20, 5, 5), np.int16)
    labels[2:4], labels[12:15] = 1, 2
    atlas = np.full((40, 5, 5), 2, np.int16)
    atlas[:10] = 1
    inputs: dict[str, Any] = {}
    if shift is not None:
        inputs = {"transform_file": save_affine("move", moved(shift, 0, 0))}
        inputs["invert"] = space == "MNI"
    path = save("parts", atlas, np.eye(4))
    found = run(
        MeasureRegions,
        labels_file=save("labels", labels, np.eye(4)),
        atlas=f"parts={path}:{space}",
        atlas_file=path,
        **inputs,
    )
    rows = json.loads(Path(found.rows_file).read_text())
    loads = {row["name"]: row["lesion_ml"] for row in rows}
    # after a shift by 10 mm to the right, all lesions are in region 2
    left = 0.05 if shift is None else 0.0
    assert loads == pytest.approx({"label 1": left, "label 2": 0.125 - left, "outside": 0.0})
    assert {row["atlas"] for row in rows} == {"parts"}
    assert found.notes == []


def test_atlas_of_left_out_contrast_has_no_rows(run: Run, save: Save) -> None:
    path = save("parts", np.ones((5, 5, 5), np.int16), np.eye(4))
    labels = save("labels", np.zeros((5, 5, 5), np.int16), np.eye(4))
    found = run(MeasureRegions, labels_file=labels, atlas=f"parts={path}:T1w", atlas_file=path)
    assert not isdefined(found.rows_file)


@pytest.mark.parametrize("shift", [None, 10.0])
def test_lesions_are_filled_on_grid_of_image(
    run: Run, save: Save, save_affine: Save, shift: float | None
) -> None:
    """The T1w coordinates are shifted by 10 mm to the right of those of the FLAIR."""
    lesion = np.zeros((12, 11, 10), np.uint8)
    lesion[3:5, 4:7, 4:6] = 1
    place = moved(shift or 0, 0, 0)
    white = np.full(lesion.shape, Tissue.WHITE_MATTER, np.uint8)
    found = run(
        FillLesions,
        image_file=save("image", np.where(lesion > 0, 60, 100).astype(np.float32), place),
        mask_file=save("lesions", lesion, place),
        anatomy_file=save("anatomy", white, np.eye(4)),
        **({} if shift is None else {"transform_file": save_affine("move", place)}),
    )
    np.testing.assert_array_equal(read(found.out_file), np.full(lesion.shape, 100))


def test_left_out_contrast_is_not_filled(run: Run, save: Save) -> None:
    image = save("image", np.ones((5, 5, 5), np.float32), np.eye(4))
    white = save("anatomy", np.full((5, 5, 5), Tissue.WHITE_MATTER, np.uint8), np.eye(4))
    assert not isdefined(run(FillLesions, image_file=image, anatomy_file=white).out_file)
