"""Fingerprints of visits, and the check whether a visit is finished."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bids_msseg.bids.derivatives import Extras, figure_labels, visit_files
from bids_msseg.bids.paths import figure_path
from bids_msseg.bids.record import VisitRecord, write_record
from bids_msseg.bids.record_values import ContrastUse
from bids_msseg.bids.visit import Visit
from bids_msseg.spaces import AtlasChoice, OutputSpace
from bids_msseg.workflow.resume import CUT_OPTIONS, Fingerprint, fingerprint, is_finished

SPACES = (("FLAIR", None), ("T1w", None), ("MNI152NLin2009aSym", 1))


@pytest.fixture
def visit(tmp_path: Path) -> Visit:
    names = ("FLAIR", "T1w", "mask", "drawn")
    paths = {name: tmp_path / f"sub-01_{name}.nii.gz" for name in names}
    for name, path in paths.items():
        path.write_bytes(name.encode())
    return Visit("01", None, paths["FLAIR"], t1w=paths["T1w"], brain_mask=paths["mask"])


def digest(visit: Visit, **other: Any) -> Fingerprint:
    given = {"options": {"fast": False}, "model_sha256": "a", "version": "1", **other}
    return fingerprint(visit, **given)


def test_fingerprint_does_not_depend_on_image_folder(visit: Visit, tmp_path: Path) -> None:
    before = digest(visit)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    same = replace(visit, flair=visit.flair.rename(moved / visit.flair.name))
    assert digest(same) == before


@pytest.mark.parametrize("contrast", ["flair", "t1w", "brain_mask", "lesion_mask"])
def test_fingerprint_changes_with_image_content(
    visit: Visit, contrast: str, tmp_path: Path
) -> None:
    """No step before the delineation reads a given lesion mask."""
    visit = replace(visit, lesion_mask=tmp_path / "sub-01_drawn.nii.gz")
    before = digest(visit)
    path = getattr(visit, contrast)
    path.write_bytes(path.read_bytes() + b"x")
    assert digest(visit).results != before.results
    assert (digest(visit).maps == before.maps) == (contrast == "lesion_mask")


@pytest.mark.parametrize(
    "change",
    [
        lambda visit: replace(visit, t1w=None),
        lambda visit: replace(visit, brain_mask=None),
        lambda visit: replace(visit, lesion_mask=visit.brain_mask),
        lambda visit: replace(visit, t1w=None, t2w=visit.t1w),
        lambda visit: replace(visit, entities={"run": "2"}),
        lambda visit: replace(visit, metadata={"FLAIR": {"SkullStripped": True}}),
    ],
)
def test_fingerprint_changes_with_visit_inputs(
    visit: Visit, change: Callable[[Visit], Visit]
) -> None:
    assert digest(change(visit)) != digest(visit)


@pytest.mark.parametrize(
    "other", [{"options": {"fast": True}}, {"model_sha256": "b"}, {"version": "2"}]
)
def test_fingerprint_changes_with_options_model_and_version(
    visit: Visit, other: dict[str, Any]
) -> None:
    assert digest(visit, **other).results != digest(visit).results
    assert digest(visit, **other).maps != digest(visit).maps


@pytest.mark.parametrize("option", CUT_OPTIONS)
def test_delineation_options_do_not_change_maps_fingerprint(visit: Visit, option: str) -> None:
    one, other = (digest(visit, options={"fast": False, option: value}) for value in (0.4, 0.5))
    assert one.results != other.results
    assert one.maps == other.maps == digest(visit).maps


def test_exclusion_masks_change_only_results_fingerprint(visit: Visit, tmp_path: Path) -> None:
    mask, other = tmp_path / "sub-01_drawn.nii.gz", tmp_path / "sub-01_mask.nii.gz"
    plain, one = digest(visit), digest(replace(visit, exclude_masks=(mask,)))
    both = digest(replace(visit, exclude_masks=(mask, other)))
    mask.write_bytes(mask.read_bytes() + b"x")
    changed = digest(replace(visit, exclude_masks=(mask,)))
    assert len({found.results for found in (plain, one, both, changed)}) == 4
    assert len({found.maps for found in (plain, one, both, changed)}) == 1


def test_unreadable_image_changes_fingerprint(visit: Visit) -> None:
    before = digest(visit)
    visit.flair.unlink()
    assert digest(visit) != before


@pytest.fixture
def done(visit: Visit, tmp_path: Path) -> Path:
    out = tmp_path / "out"
    for path in visit_files(out, visit, SPACES):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    write_record(out, VisitRecord("01", None, "sub-01", "ok", fingerprint="f"))
    return out


def test_visit_with_all_files_is_finished(visit: Visit, done: Path) -> None:
    assert is_finished(done, visit, "f", spaces=SPACES)


def test_visit_without_matching_ok_record_is_not_finished(visit: Visit, done: Path) -> None:
    assert not is_finished(done, visit, "g", spaces=SPACES)
    write_record(done, VisitRecord("01", None, "sub-01", "failed", fingerprint="f"))
    assert not is_finished(done, visit, "f", spaces=SPACES)
    (done / "logs/visits/sub-01.json").unlink()
    assert not is_finished(done, visit, "f", spaces=SPACES)


def test_visit_with_any_missing_file_is_not_finished(visit: Visit, done: Path) -> None:
    files = [path for path in done.rglob("*") if path.is_file() and path.parent.name != "visits"]
    assert len(files) == 2 * (6 + 2 + 1 + 2 + 2) + 2 * 3 + 7
    for path in files:
        path.unlink()
        assert not is_finished(done, visit, "f", spaces=SPACES), path.name
        path.touch()


def test_files_of_extras_are_required(visit: Visit, done: Path) -> None:
    extras = Extras(atlases=(AtlasChoice.parse("sides"),))
    assert not is_finished(done, visit, "f", spaces=SPACES, extras=extras)
    for path in visit_files(done, visit, SPACES, extras):
        path.touch()
    assert is_finished(done, visit, "f", spaces=SPACES, extras=extras)


@pytest.mark.parametrize("what", ["atlas", "grid"])
def test_changed_atlas_or_grid_keeps_maps_fingerprint(
    visit: Visit, tmp_path: Path, what: str
) -> None:
    """An additional one may need another template, which is registered earlier."""
    path = tmp_path / "parts.nii.gz"
    path.touch()
    extras = Extras(atlases=(AtlasChoice.parse(f"{path}:T1w"),))
    if what == "grid":
        extras = Extras(grids=(OutputSpace.parse(str(path)),))
    before = digest(visit, extras=extras)
    assert before.results != digest(visit).results
    assert before.maps != digest(visit).maps
    path.write_bytes(b"x")
    assert digest(visit, extras=extras).results != before.results
    assert digest(visit, extras=extras).maps == before.maps


def test_t1w_space_mask_is_required_only_with_t1w(visit: Visit, done: Path) -> None:
    (done / "sub-01/anat/sub-01_space-T1w_label-L_mask.nii.gz").unlink()
    assert not is_finished(done, visit, "f", spaces=SPACES)
    assert is_finished(done, replace(visit, t1w=None), "f", spaces=SPACES)


def write_outputs(
    out: Path, visit: Visit, left_out: Sequence[str] = (), drawn: Sequence[str] = ()
) -> VisitRecord:
    """Write the outputs of a run that did not align some contrasts, with their figures."""
    there = replace(visit, **{name.lower(): None for name in left_out})
    for path in (*visit_files(out, there, SPACES), *figure_paths(out, visit, drawn)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    uses = {
        name: ContrastUse(path.name, (1.0, 1.0, 1.0), used=name not in left_out)
        for name, path in visit.contrasts.items()
    }
    record = VisitRecord(
        "01", None, "sub-01", "ok", fingerprint="f", contrasts=uses, figures=tuple(drawn)
    )
    write_record(out, record)
    return record


def figure_paths(out: Path, visit: Visit, drawn: Sequence[str] = ()) -> set[Path]:
    labels = {*figure_labels(visit), *drawn}
    return {figure_path(out, visit, label, extension=".png") for label in labels}


@pytest.mark.parametrize("left_out", [(), ("T1w",), ("T2w",), ("T1w", "T2w")])
def test_outputs_of_unaligned_contrasts_are_not_required(
    tmp_path: Path, visit: Visit, left_out: tuple[str, ...]
) -> None:
    t2w = tmp_path / "sub-01_T2w.nii.gz"
    t2w.write_bytes(b"T2w")
    whole, out = replace(visit, t2w=t2w), tmp_path / "out"
    record = write_outputs(out, whole, left_out)
    assert is_finished(out, whole, "f", spaces=SPACES)
    everything = {name: replace(use, used=True) for name, use in record.contrasts.items()}
    write_record(out, replace(record, contrasts=everything))
    assert is_finished(out, whole, "f", spaces=SPACES) == (not left_out)


TEMPLATE = "registrationMNI152NLin2009aSym"


@pytest.mark.parametrize(
    ("given", "left_out", "drawn"),
    [
        (("t1w", "t2w"), (), ()),
        (("t1w", "t2w"), ("T1w",), ("lesions", "registrationT1w", "registrationFLAIR")),
        (("t1w", "t2w"), ("T1w", "T2w"), ()),
        (("t1w",), ("T1w",), ()),
        # the template has a figure if its registration may be wrong
        (("t2w",), ("T2w",), ("registrationT2w", TEMPLATE)),
        (("t1w",), (), (TEMPLATE,)),
        ((), (), (TEMPLATE, "registrationFLAIR")),
    ],
)
def test_visit_with_any_missing_figure_is_not_finished(
    tmp_path: Path,
    visit: Visit,
    given: tuple[str, ...],
    left_out: tuple[str, ...],
    drawn: tuple[str, ...],
) -> None:
    images = {name: visit.t1w if name in given else None for name in ("t1w", "t2w")}
    whole, out = replace(visit, **images), tmp_path / "out"
    write_outputs(out, whole, left_out, drawn)
    found = figure_paths(out, whole, drawn)
    labels = {f"registration{name.upper()[:2]}w" for name in given}
    assert {f"sub-01_desc-{one}_FLAIR.png" for one in (*labels, *drawn)} <= {
        path.name for path in found
    }
    assert is_finished(out, whole, "f", spaces=SPACES)
    for path in found:
        path.unlink()
        assert not is_finished(out, whole, "f", spaces=SPACES), path.name
        path.touch()


def test_unused_contrast_requires_no_anat_files(visit: Visit, done: Path) -> None:
    for path in set(visit_files(done, visit, SPACES)) - set(
        visit_files(done, replace(visit, t1w=None), SPACES)
    ):
        if path.parent.name == "anat":
            path.unlink()
    assert not is_finished(done, visit, "f", spaces=SPACES)
    unused = {"T1w": ContrastUse("t.nii.gz", (1.0, 1.0, 1.0), used=False, note="not aligned")}
    write_record(done, VisitRecord("01", None, "sub-01", "ok", fingerprint="f", contrasts=unused))
    assert is_finished(done, visit, "f", spaces=SPACES)
