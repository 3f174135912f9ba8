"""Checks of file names, and the choice among several images of a contrast."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bids_msseg.bids.image_selection import choose_image, examine, misnamed
from bids_msseg.bids.query import find_visits
from bids_msseg.errors import MssegError
from bids_msseg.imaging.conform import check_image

Spoil = Callable[[Path], None]
Edges = tuple[float, float, float]
MakeDataset = Callable[..., Path]
ISO: Edges = (1.0, 1.0, 1.0)
THICK: Edges = (0.43, 0.43, 5.0)
HEAD: Edges = (100.0, 110.0, 100.0)


def write(path: Path, extent_mm: Edges = HEAD, edges: Edges = ISO, **more: Any) -> Path:
    """Write an image that passes the checks and has the given field of view."""
    shape = tuple(round(mm / edge) for mm, edge in zip(extent_mm, edges, strict=True))
    data = np.zeros(shape, np.uint8)
    data[0, 0, 0] = 1
    data[:] = more.get("fill", data)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.diag([*edges, 1.0])), path)
    return path


def choose(
    folder: Path, *names: str, sidecars: Mapping[str, Mapping[str, Any]] | None = None
) -> str:
    """Choose among files of a folder; the choice must not depend on their order."""
    found = {
        choose_image("FLAIR", some, sidecar=lambda path: (sidecars or {}).get(path.name, {})).image
        for some in ([folder / name for name in names], [folder / name for name in names[::-1]])
    }
    (image,) = found
    assert image is not None
    return image.name


# Names


@pytest.mark.parametrize(
    "name",
    [
        "sub-01_ses-2_FLAIR.nii.gz",
        "sub-01_ses-2_acq-3D_run-02_FLAIR.nii",
        "sub-01_ses-2_task-rest_acq-a+b_ce-gd_rec-n4_run-1_echo-2_part-mag_T2w.nii.gz",
        "sub-01_ses-2_space-MNI_desc-preproc_T1w.nii.gz",
    ],
)
def test_complete_bids_names_are_accepted(name: str) -> None:
    assert misnamed(Path(name), "01", "2") == ""


@pytest.mark.parametrize(
    "name",
    [
        # names by SPM, LST, FSL, ANTs, macOS and users
        "rsub-01_ses-2_FLAIR.nii.gz",
        "wc1sub-01_ses-2_T1w.nii",
        "c1sub-01_ses-2_T1w.nii",
        "ples_lpa_mrsub-01_ses-2_FLAIR.nii",
        "brain_sub-01_ses-2_FLAIR.nii.gz",
        "sub-01_ses-2_brain_FLAIR.nii.gz",
        "sub-01_ses-2_T1w_FLAIR.nii.gz",
        "._sub-01_ses-2_FLAIR.nii.gz",
        "sub-01_ses-2_FLAIR_FLAIR.nii.gz",
        "sub-01_FLAIR.nii.gz",
        "ses-2_sub-01_FLAIR.nii.gz",
        "sub-01_ses-2_Acq-3D_FLAIR.nii.gz",
        "sub-01_ses-2_acq-3D_acq-2D_FLAIR.nii.gz",
        "sub-01_ses-2_acq-3.5_FLAIR.nii.gz",
        "copy of sub-01_ses-2_FLAIR.nii.gz",
        "rsub-07_FLAIR.nii.gz",
        "FLAIR.nii.gz",
    ],
)
def test_non_bids_names_are_rejected(name: str) -> None:
    assert misnamed(Path(name), "01", "2")


@pytest.mark.parametrize("prefix", ["r", "ples_lpa_mr", "c1", "brain_"])
@pytest.mark.parametrize("label", ["01", "07"])
@pytest.mark.parametrize("contrast", ["FLAIR", "T1w", "T2w"])
def test_images_of_other_programs_are_not_used(
    make_dataset: MakeDataset, prefix: str, label: str, contrast: str
) -> None:
    """Finer voxels do not matter; a note names the file once."""
    odd = f"{prefix}sub-{label}_{contrast}.nii.gz"
    files = {f"sub-01/anat/sub-01_{one}.nii.gz": (1.0, 1.0, 5.0) for one in ("FLAIR", contrast)}
    (visit,) = find_visits(make_dataset({**files, f"sub-01/anat/{odd}": ISO})).visits
    assert visit.contrasts[contrast].name == f"sub-01_{contrast}.nii.gz"
    (note,) = visit.notes
    assert note.count(odd) == 1


@pytest.mark.parametrize("name", ["rsub-01_FLAIR", "ples_lpa_mrsub-01_FLAIR", "sub-01_x_FLAIR"])
def test_visit_with_only_misnamed_images_is_skipped(make_dataset: MakeDataset, name: str) -> None:
    files = {f"sub-01/anat/{name}.nii": ISO, "sub-02/anat/sub-02_FLAIR.nii": ISO}
    found = find_visits(make_dataset(files))
    assert [visit.key for visit in found.visits] == ["sub-02"]
    (skipped,) = found.skipped
    assert name in skipped.reason


# Choice among images

BRAINS: dict[str, tuple[Edges, Edges]] = {
    "3-D of 1 mm": (HEAD, ISO),
    "axial, 20 slices of 5 mm": ((230.0, 230.0, 100.0), (0.9, 0.9, 5.0)),
    "axial, 24 slices of 6.5 mm": ((230.0, 230.0, 156.0), (0.9, 0.9, 6.5)),
    "sagittal, 32 slices of 4.4 mm": ((140.8, 240.0, 240.0), (4.4, 0.5, 0.5)),
    "coronal, 36 slices of 5 mm": ((220.0, 180.0, 220.0), (0.6, 5.0, 0.6)),
}
NO_BRAINS: dict[str, tuple[Edges, Edges]] = {
    "localizer of 3 slices": ((256.0, 256.0, 30.0), (0.5, 0.5, 10.0)),
    "localizer of 7 slices": ((250.0, 70.0, 250.0), (0.5, 10.0, 0.5)),
    "sagittal cord": ((45.0, 240.0, 240.0), (3.0, 0.4, 0.4)),
    "hippocampal slab": ((175.0, 60.0, 175.0), (0.4, 2.0, 0.4)),
    "thick hippocampal slab": ((175.0, 90.0, 175.0), (0.4, 3.0, 0.4)),
    "3-D slab of 0.4 mm": ((160.0, 160.0, 64.0), (0.8, 0.8, 0.4)),
}


@pytest.mark.parametrize("brain", BRAINS)
def test_whole_brain_acquisitions_cover_brain(tmp_path: Path, brain: str) -> None:
    assert examine(write(tmp_path / "sub-01_FLAIR.nii.gz", *BRAINS[brain])).covers_brain


@pytest.mark.parametrize("part", NO_BRAINS)
@pytest.mark.parametrize("brain", ["3-D of 1 mm", "axial, 20 slices of 5 mm"])
def test_whole_brain_image_wins_over_partial_image(tmp_path: Path, part: str, brain: str) -> None:
    """It wins over finer voxels, despite a contrast agent and a higher run number."""
    names = "sub-01_acq-a_run-1_FLAIR.nii.gz", "sub-01_acq-b_ce-gd_run-2_FLAIR.nii.gz"
    write(tmp_path / names[0], *NO_BRAINS[part])
    write(tmp_path / names[1], *BRAINS[brain])
    assert not examine(tmp_path / names[0]).covers_brain
    assert choose(tmp_path, *names) == names[1]


OTHER_PARTS: list[dict[str, Any]] = [
    {"BodyPartExamined": "CSPINE"},
    {"BodyPart": "SPINE"},
    {"BodyPartExamined": "NECK"},
    {"BodyPartDetails": "cervical spinal cord"},
    {"BodyPart": "Thorax", "BodyPartDetails": ""},
    {"BodyPartExamined": "ABDOMEN"},
]
HEADS: list[dict[str, Any]] = [
    {},
    {"BodyPart": None},
    {"BodyPartExamined": "BRAIN"},
    {"BodyPartExamined": "HEADNECK"},
    {"BodyPart": "head", "BodyPartDetails": "brain and cervical cord"},
]


@pytest.mark.parametrize("sidecar", OTHER_PARTS)
def test_brain_wins_over_other_body_part_in_sidecar(
    tmp_path: Path, sidecar: dict[str, Any]
) -> None:
    """The field of view of an axial stack of the cord could hold a brain."""
    cord = write(tmp_path / "sub-01_acq-a_FLAIR.nii.gz", (180.0, 180.0, 120.0), (1.0, 1.0, 4.0))
    brain = tmp_path / "sub-01_acq-b_ce-gd_FLAIR.nii.gz"
    write(brain, *BRAINS["axial, 20 slices of 5 mm"])
    names = cord.name, brain.name
    assert choose(tmp_path, *names, sidecars={cord.name: sidecar}) == brain.name
    assert choose(tmp_path, *names) == cord.name
    (note,) = choose_image("FLAIR", [cord], sidecar=lambda _: sidecar).notes
    assert "does not cover a whole brain (body part: " in note


@pytest.mark.parametrize("sidecar", HEADS)
def test_sidecar_that_names_head_does_not_exclude_image(
    tmp_path: Path, sidecar: dict[str, Any]
) -> None:
    image = write(tmp_path / "sub-01_FLAIR.nii.gz")
    assert examine(image, sidecar).covers_brain
    assert choose_image("FLAIR", [image], sidecar=lambda _: sidecar).notes == ()


@pytest.mark.parametrize("part", NO_BRAINS)
@pytest.mark.parametrize("contrast", ["FLAIR", "T1w", "T2w"])
def test_sole_partial_image_is_noted(tmp_path: Path, part: str, contrast: str) -> None:
    """T1w and T2w are left out if they have too few slices; a FLAIR then fails."""
    image = write(tmp_path / f"sub-01_{contrast}.nii.gz", *NO_BRAINS[part])
    found = choose_image(contrast, [image])
    if part != "localizer of 3 slices":
        assert (found.image, found.problem) == (image, "")
        assert found.notes[0].startswith(f"{image.name} does not cover a whole brain")
    elif contrast == "FLAIR":
        assert found.image == image
        assert "is not a volume" in found.problem
    else:
        assert (found.image, found.problem) == (None, "")
        assert found.notes[0].startswith(f"{contrast} is not used: {image.name} is not a volume")


CRITERIA: dict[str, tuple[tuple[str, Edges], tuple[str, Edges]]] = {
    # the first image wins, although the second is better by all later criteria
    "agent before motion": (("task-nod_run-2", THICK), ("ce-gd_run-1", ISO)),
    "agent in the sidecar": (("run-2", THICK), ("acq-enhanced_run-1", ISO)),
    "motion before edges": (("run-2", THICK), ("task-shake_run-1", ISO)),
    "motion in rec-": (("run-2", THICK), ("rec-motion_run-1", ISO)),
    "motion in acq-": (("run-2", THICK), ("acq-headmotion1_run-1", ISO)),
    "3-D before 2-D": (("run-2", ISO), ("run-1", THICK)),
    "volume before run": (("run-2", (0.9, 0.9, 1.0)), ("run-1", ISO)),
    "lowest run": (("run-9", ISO), ("run-10", ISO)),
    "no run first": (("acq-z", ISO), ("acq-a_run-1", ISO)),
}


@pytest.mark.parametrize("name", CRITERIA)
def test_selection_criteria_apply_in_order(tmp_path: Path, name: str) -> None:
    best, other = (f"sub-01_{entities}_FLAIR.nii.gz" for entities, _ in CRITERIA[name])
    for file, (_, edges) in zip((best, other), CRITERIA[name], strict=True):
        write(tmp_path / file, edges=edges)
    said = {"sub-01_acq-enhanced_run-1_FLAIR.nii.gz": {"ContrastBolusIngredient": ["GADOLINIUM"]}}
    assert choose(tmp_path, best, other, sidecars=said) == best


@pytest.mark.parametrize("entities", ["rec-motioncorrected", "task-rest", "rec-moco", "acq-n4"])
def test_labels_of_still_images_do_not_count_as_motion(tmp_path: Path, entities: str) -> None:
    name = f"sub-01_{entities}_FLAIR.nii.gz"
    write(tmp_path / name)
    write(tmp_path / "sub-01_run-1_FLAIR.nii.gz", edges=THICK)
    assert choose(tmp_path, name, "sub-01_run-1_FLAIR.nii.gz") == name


@pytest.mark.parametrize(
    "label",
    ["motionuncorrected", "motionUncorr", "motionnotcorrected", "motionnoncorr", "movementnocorr"],
)
def test_uncorrected_motion_counts_as_motion(tmp_path: Path, label: str) -> None:
    names = f"sub-01_rec-{label}_FLAIR.nii.gz", "sub-01_rec-motioncorrected_FLAIR.nii.gz"
    write(tmp_path / names[0])
    write(tmp_path / names[1], edges=THICK)
    assert choose(tmp_path, *names) == names[1]


@pytest.mark.parametrize(
    "agent", [False, None, 0, "", "unknown", "NA", "n/a", "False", "0", ["none"], [None], []]
)
def test_sidecar_value_that_means_no_agent(tmp_path: Path, agent: object) -> None:
    names = "sub-01_run-1_FLAIR.nii.gz", "sub-01_run-2_FLAIR.nii.gz"
    write(tmp_path / names[0])
    write(tmp_path / names[1], edges=THICK)
    sidecars = {names[0]: {"ContrastBolusIngredient": agent}}
    assert choose(tmp_path, *names, sidecars=sidecars) == names[0]


@pytest.mark.parametrize("label", ["none", "no", "na", "false", "unknown", "0"])
def test_entity_value_that_means_no_agent(tmp_path: Path, label: str) -> None:
    names = f"sub-01_ce-{label}_FLAIR.nii.gz", "sub-01_run-2_FLAIR.nii.gz"
    write(tmp_path / names[0])
    write(tmp_path / names[1], edges=THICK)
    assert choose(tmp_path, *names) == names[0]


@pytest.mark.parametrize("where", ["name", "sidecar", "inherited"])
@pytest.mark.parametrize("contrast", ["FLAIR", "T1w", "T2w"])
def test_sole_image_with_contrast_agent_is_used_with_note(
    make_dataset: MakeDataset, contrast: str, where: str
) -> None:
    stem = f"sub-01_{'ce-gd_' if where == 'name' else ''}{contrast}"
    files: dict[str, Any] = {"sub-01/anat/sub-01_FLAIR.nii.gz": ISO} if contrast != "FLAIR" else {}
    files[f"sub-01/anat/{stem}.nii.gz"] = ISO
    places = {"sidecar": f"sub-01/anat/{stem}.json", "inherited": f"{contrast}.json"}
    if where in places:
        files[places[where]] = {"ContrastBolusIngredient": "GADOLINIUM"}
    (visit,) = find_visits(make_dataset(files)).visits
    assert visit.contrasts[contrast].name == f"{stem}.nii.gz"
    (note,) = visit.notes
    assert f"{stem}.nii.gz" in note
    assert "contrast agent" in note


# Faulty files


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut_off(path: Path) -> None:
    path.write_bytes(write(path).read_bytes()[:-200])


def constant(path: Path) -> None:
    write(path, fill=7)


def no_header(path: Path) -> None:
    path.write_bytes(gzip.compress(b"hello" * 99))


def four_dimensions(path: Path) -> None:
    data = np.arange(2000, dtype=np.int16).reshape(10, 10, 10, 2)
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)


def long_axis(path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((5000, 6, 6), np.uint8), np.eye(4)), path)


FAULTS = (empty, cut_off, constant, no_header, four_dimensions, long_axis)


@pytest.mark.parametrize("spoil", FAULTS)
def test_next_image_replaces_faulty_image_with_note(tmp_path: Path, spoil: Spoil) -> None:
    first, second = (tmp_path / f"sub-01_run-{n}_FLAIR.nii.gz" for n in (1, 2))
    spoil(first)
    write(second, edges=THICK)
    found = choose_image("FLAIR", [first, second])
    assert (found.image, found.problem) == (second, "")
    (note,) = found.notes
    assert first.name in note
    assert second.name in note
    assert "\n" not in note


@pytest.mark.parametrize("part", NO_BRAINS)
@pytest.mark.parametrize("spoil", FAULTS)
def test_partial_image_does_not_replace_damaged_flair(
    tmp_path: Path, spoil: Spoil, part: str
) -> None:
    """The visit fails with the name of the damaged image and a hint."""
    partial, damaged = (tmp_path / f"sub-01_run-{n}_FLAIR.nii.gz" for n in (1, 2))
    spoil(damaged)
    write(partial, *NO_BRAINS[part])
    for images in ([damaged, partial], [partial, damaged]):
        found = choose_image("FLAIR", images)
        assert (found.image, found.missing) == (damaged, None)
        assert found.problem.startswith(f"{damaged.name} ")
        (note,) = found.notes
        assert partial.name in note
        assert "none covers" not in note
    with pytest.raises(MssegError, match=damaged.name) as caught:
        check_image(damaged, contrast="FLAIR")
    assert caught.value.hint


@pytest.mark.parametrize("contrast", ["T1w", "T2w"])
@pytest.mark.parametrize("part", NO_BRAINS)
@pytest.mark.parametrize("spoil", FAULTS)
def test_contrast_with_damaged_and_partial_image_is_left_out(
    tmp_path: Path, spoil: Spoil, part: str, contrast: str
) -> None:
    partial, damaged = (tmp_path / f"sub-01_run-{n}_{contrast}.nii.gz" for n in (1, 2))
    spoil(damaged)
    write(partial, *NO_BRAINS[part])
    found = choose_image(contrast, [partial, damaged])
    assert (found.image, found.missing, found.problem) == (None, None, "")
    (note,) = found.notes
    assert note.startswith(f"{contrast} is not used: {damaged.name} ")
    assert str(tmp_path) not in note


@pytest.mark.parametrize("contrast", ["T1w", "T2w"])
@pytest.mark.parametrize("part", ["localizer of 3 slices", "hippocampal slab"])
def test_visit_goes_on_without_contrast_that_is_left_out(
    make_dataset: MakeDataset, part: str, contrast: str
) -> None:
    anat = make_dataset({"sub-01/anat/sub-01_FLAIR.nii.gz": ISO}) / "sub-01/anat"
    empty(anat / f"sub-01_run-1_{contrast}.nii.gz")
    write(anat / f"sub-01_run-2_{contrast}.nii.gz", *NO_BRAINS[part])
    (visit,) = find_visits(anat.parents[1]).visits
    assert list(visit.contrasts) == ["FLAIR"]
    assert visit.problem == ""
    assert len(visit.notes) == 1


@pytest.mark.parametrize("spoil", FAULTS)
def test_problem_of_best_image_is_reported_if_all_fail(tmp_path: Path, spoil: Spoil) -> None:
    images = [tmp_path / f"sub-01_run-{n}_FLAIR.nii.gz" for n in (1, 2)]
    for image in images:
        spoil(image)
    found = choose_image("FLAIR", images)
    assert found.image == images[0]
    assert found.problem.startswith(f"{images[0].name} ")
    assert str(tmp_path) not in found.problem + found.notes[0]


@pytest.mark.parametrize("contrast", ["FLAIR", "T1w", "T2w"])
@pytest.mark.parametrize("spoil", FAULTS)
def test_visit_fails_if_partial_image_is_damaged_too(
    tmp_path: Path, spoil: Spoil, contrast: str
) -> None:
    """The message names the image of the brain, also if only its header is unreadable."""
    partial, brain = (tmp_path / f"sub-01_run-{n}_{contrast}.nii.gz" for n in (1, 2))
    write(partial, *NO_BRAINS["hippocampal slab"], fill=7)
    spoil(brain)
    found = choose_image(contrast, [partial, brain])
    assert (found.image, found.missing) == (brain, None)
    assert found.problem.startswith(f"{brain.name} ")
    assert found.problem.endswith("; none passes its checks")
    (note,) = found.notes
    assert note.startswith(f"2 {contrast} images: {brain.name} ")
    assert note.endswith(f"{partial.name} (covers only 60 mm) is not; none passes its checks")


@pytest.mark.parametrize("contrast", ["FLAIR", "T1w", "T2w"])
def test_sole_empty_image_is_reported_before_run(make_dataset: MakeDataset, contrast: str) -> None:
    files: dict[str, Any] = {"sub-01/anat/sub-01_FLAIR.nii.gz": ISO}
    (visit,) = find_visits(
        make_dataset({**files, f"sub-01/anat/sub-01_{contrast}.nii.gz": None})
    ).visits
    assert visit.problem == f"sub-01_{contrast}.nii.gz is empty"


# Files that are not fetched: only their names are known

LOST = ("ce-gd_run-2", "rec-motion", "task-nod", "space-MNI_desc-preproc")


def not_fetched(folder: Path, entities: str) -> Path:
    image = folder / f"sub-01_{entities}_FLAIR.nii.gz"
    image.symlink_to("../.git/annex/objects/MD5E-s9--0.nii.gz")
    return image


@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize("part", NO_BRAINS)
def test_partial_image_does_not_replace_unfetched_image(
    tmp_path: Path, part: str, lost: str
) -> None:
    there = write(tmp_path / "sub-01_acq-a_FLAIR.nii.gz", *NO_BRAINS[part])
    gone = not_fetched(tmp_path, lost)
    for images in ([there, gone], [gone, there]):
        found = choose_image("FLAIR", images)
        assert (found.image, found.missing) == (None, gone)


@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize("spoil", FAULTS)
def test_faulty_image_does_not_replace_unfetched_image(
    tmp_path: Path, spoil: Spoil, lost: str
) -> None:
    there = tmp_path / "sub-01_acq-a_FLAIR.nii.gz"
    spoil(there)
    gone = not_fetched(tmp_path, lost)
    found = choose_image("FLAIR", [there, gone])
    assert (found.image, found.missing) == (None, gone)


@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize("brain", ["3-D of 1 mm", "axial, 20 slices of 5 mm"])
def test_unfetched_image_of_lower_rank_is_not_needed(
    tmp_path: Path, brain: str, lost: str
) -> None:
    there = write(tmp_path / "sub-01_acq-a_FLAIR.nii.gz", *BRAINS[brain])
    part = write(tmp_path / "sub-01_acq-b_FLAIR.nii.gz", *NO_BRAINS["sagittal cord"])
    gone = not_fetched(tmp_path, lost)
    found = choose_image("FLAIR", [part, there, gone])
    assert (found.image, found.missing) == (there, None)
    (note,) = found.notes
    assert f"{gone.name} (not fetched)" in note


@pytest.mark.parametrize("lost", ["run-1", "ce-gd"])
@pytest.mark.parametrize("sidecar", OTHER_PARTS)
def test_unfetched_image_of_other_body_part_is_needed_only_if_all_are(
    tmp_path: Path, sidecar: dict[str, Any], lost: str
) -> None:
    """The name of the unfetched image ranks before or after that of the other one."""
    there = write(tmp_path / "sub-01_rec-motion_FLAIR.nii.gz", *NO_BRAINS["hippocampal slab"])
    gone = not_fetched(tmp_path, lost)
    found = choose_image(
        "FLAIR", [there, gone], sidecar=lambda path: sidecar if path == gone else {}
    )
    assert (found.image, found.missing, found.problem) == (there, None, "")
    found = choose_image("FLAIR", [there, gone], sidecar=lambda _: sidecar)
    assert (found.image, found.missing) == (None, gone)


# Contrasts of files


@pytest.mark.parametrize(
    ("filters", "flair", "t2w"),
    [
        ({"flair": {"suffix": "T2w", "acquisition": "FLAIR"}}, "acq-FLAIR_T2w", "acq-tse_T2w"),
        (
            {"flair": {"suffix": "T2w", "acq": "FLAIR"}, "t2w": {"suffix": "T2w"}},
            "acq-FLAIR_T2w",
            "acq-tse_T2w",
        ),
        ({"t2w": {"suffix": "PDw"}}, "acq-x_FLAIR", "PDw"),
        ({"t2w": {"suffix": "FLAIR", "acquisition": "x"}}, "FLAIR", "acq-x_FLAIR"),
        ({"flair": {"suffix": ["T2w", "FLAIR"]}}, "acq-x_FLAIR", None),
    ],
)
def test_file_is_used_for_only_one_contrast(
    make_dataset: MakeDataset, filters: dict[str, Any], flair: str, t2w: str | None
) -> None:
    files = {
        "acq-FLAIR_T2w": (1.0, 1.0, 1.0),
        "acq-tse_T2w": (1.0, 1.0, 3.0),
        "FLAIR": (1.0, 1.0, 2.0),
        "acq-x_FLAIR": (0.5, 0.5, 0.5),
        "PDw": (1.0, 1.0, 3.0),
    }
    bids = make_dataset({f"sub-01/anat/sub-01_{one}.nii.gz": e for one, e in files.items()})
    (visit,) = find_visits(bids, filters=filters).visits
    used = [path.name for path in visit.contrasts.values()]
    assert used == [f"sub-01_{one}.nii.gz" for one in (flair, t2w) if one]
