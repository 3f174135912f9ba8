"""Visits in small datasets: used images, skipped visits, notes and errors."""

from __future__ import annotations

import json
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bids_msseg.bids.dataset import BIDS_VERSION
from bids_msseg.bids.query import find_visits
from bids_msseg.bids.visit import Selection, Visit
from bids_msseg.errors import InvalidDatasetError, NoInputError, NothingSelectedError, UsageError
from bids_msseg.imaging.cut import OF_VIEWER

MakeDataset = Callable[..., Path]
MakeImage = Callable[..., Path]
MM1 = (1.0, 1.0, 1.0)


def names(selection: Selection) -> dict[str, list[str]]:
    return {
        visit.key: [path.name for path in visit.contrasts.values()] for visit in selection.visits
    }


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


@pytest.fixture
def study(make_dataset: MakeDataset) -> Path:
    """Three participants: one with two sessions, one without T2w, one without FLAIR."""
    return make_dataset(
        {
            "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz": MM1,
            "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz": MM1,
            "sub-01/ses-1/anat/sub-01_ses-1_T2w.nii.gz": MM1,
            "sub-01/ses-2/anat/sub-01_ses-2_FLAIR.nii.gz": MM1,
            "sub-02/anat/sub-02_FLAIR.nii": MM1,
            "sub-02/anat/sub-02_T1w.nii.gz": MM1,
            "sub-03/anat/sub-03_T1w.nii.gz": MM1,
            "sub-03/anat/sub-03_PDw.nii.gz": MM1,
            "sub-03/func/sub-03_task-rest_bold.nii.gz": MM1,
            "derivatives/other/sub-03/anat/sub-03_FLAIR.nii.gz": MM1,
            "sourcedata/sub-03/anat/sub-03_FLAIR.nii.gz": MM1,
        }
    )


def test_visits_with_flair_are_found_and_others_skipped(study: Path) -> None:
    found = find_visits(study)
    assert names(found) == {
        "sub-01_ses-1": [f"sub-01_ses-1_{c}.nii.gz" for c in ("FLAIR", "T1w", "T2w")],
        "sub-01_ses-2": ["sub-01_ses-2_FLAIR.nii.gz"],
        "sub-02": ["sub-02_FLAIR.nii", "sub-02_T1w.nii.gz"],
    }
    (skipped,) = found.skipped
    assert skipped.key == "sub-03"
    assert skipped.reason == "no FLAIR (found: sub-03_PDw.nii.gz, sub-03_T1w.nii.gz)"
    assert "sub-03" in skipped.hint
    assert pickle.loads(pickle.dumps(found)) == found  # noqa: S301


def test_visits_are_in_natural_order(make_dataset: MakeDataset) -> None:
    files = {f"sub-{n}/anat/sub-{n}_FLAIR.nii.gz": None for n in ("10", "2", "1")}
    assert list(names(find_visits(make_dataset(files)))) == ["sub-1", "sub-2", "sub-10"]


@pytest.mark.parametrize("prefix", [True, False])
def test_labels_with_and_without_prefix(study: Path, prefix: bool) -> None:
    sub, ses = ("sub-01", "ses-2") if prefix else ("01", "2")
    assert list(names(find_visits(study, participants=[sub], sessions=[ses]))) == ["sub-01_ses-2"]


def test_absent_labels_are_reported_as_skipped(study: Path) -> None:
    found = find_visits(study, participants=["99", "01"], sessions=["1", "7"])
    assert list(names(found)) == ["sub-01_ses-1"]
    assert [(one.key, one.reason) for one in found.skipped] == [
        ("sub-01_ses-7", "sub-01 has no ses-7"),
        ("sub-99", "sub-99 is not in the dataset"),
    ]


def test_session_absent_from_dataset_gives_a_note(study: Path) -> None:
    found = find_visits(study, sessions=["2", "7"])
    assert found.notes == ("ses-7 is not in the dataset",)
    assert found.skipped == ()


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"participants": ["1"]}, "sub-1"),
        ({"sessions": ["9"]}, "ses-9"),
        ({"filters": {"flair": {"session": "9"}}}, "the filter file"),
        ({"filters": {"flair": {"acquisition": "3D"}}}, "the filter file excludes every FLAIR"),
    ],
)
def test_empty_selection_raises_error(study: Path, query: dict[str, Any], said: str) -> None:
    with pytest.raises(NothingSelectedError, match=said):
        find_visits(study, **query)


def test_invalid_participant_label_is_refused(study: Path) -> None:
    with pytest.raises(UsageError, match="01,02"):
        find_visits(study, participants=["01,02"])


def test_selected_participant_without_flair_raises_error(study: Path) -> None:
    with pytest.raises(NoInputError, match=r"sub-03: no FLAIR \(found: sub-03_PDw"):
        find_visits(study, participants=["03"])


def test_empty_participant_folder_is_skipped_with_datalad_hint(study: Path) -> None:
    (study / "sub-04").mkdir()
    (skipped,) = find_visits(study, participants=["02", "04"]).skipped
    assert skipped.reason == "the folder sub-04 is empty"
    assert skipped.hint.endswith("datalad get sub-04")


def test_session_without_anat_is_skipped(study: Path) -> None:
    (study / "sub-01/ses-3/func").mkdir(parents=True)
    keys = [one.key for one in find_visits(study, participants=["01"]).skipped]
    assert keys == ["sub-01_ses-3"]


class TestNamesThatContradictFolders:
    """Such a file may belong to another participant."""

    @pytest.mark.parametrize(
        ("folder", "name", "said"),
        [
            ("sub-01/anat", "sub-02", "is named sub-02 but is in the folder of sub-01"),
            ("sub-01/ses-1/anat", "sub-01_ses-2", "is named ses-2 but is in the folder of ses-1"),
            ("sub-01/anat", "sub-01_ses-2", "is named ses-2 but is not in a ses- folder"),
        ],
    )
    def test_misplaced_flair_is_not_used(
        self, make_dataset: MakeDataset, folder: str, name: str, said: str
    ) -> None:
        good = "sub-03/anat/sub-03_FLAIR.nii.gz"
        found = find_visits(make_dataset({f"{folder}/{name}_FLAIR.nii.gz": MM1, good: MM1}))
        assert list(names(found)) == ["sub-03"]
        (skipped,) = found.skipped
        assert skipped.participant == "01"
        assert skipped.reason == f"{name}_FLAIR.nii.gz {said}: it is not used"
        assert "move it" in skipped.hint

    def test_misplaced_image_with_finer_voxels_is_not_used(
        self, make_dataset: MakeDataset
    ) -> None:
        files = {
            "sub-01/anat/sub-01_FLAIR.nii.gz": (1.0, 1.0, 3.0),
            "sub-01/anat/sub-02_FLAIR.nii.gz": MM1,
            "sub-01/anat/sub-02_T1w.nii.gz": MM1,
        }
        found = find_visits(make_dataset(files))
        assert names(found) == {"sub-01": ["sub-01_FLAIR.nii.gz"]}
        (note,) = found.visits[0].notes
        assert all(f"sub-02_{one}.nii.gz is named sub-02" in note for one in ("FLAIR", "T1w"))


@pytest.mark.parametrize("label", ["", "a b", "a-b", "é"])
def test_visit_is_skipped_if_its_flair_has_invalid_label(
    make_dataset: MakeDataset, label: str
) -> None:
    odd = f"sub-01/anat/sub-01_acq-{label}_FLAIR.nii.gz"
    found = find_visits(make_dataset({odd: MM1, "sub-02/anat/sub-02_FLAIR.nii.gz": MM1}))
    assert list(names(found)) == ["sub-02"]
    (skipped,) = found.skipped
    assert skipped.reason == (
        f"sub-01_acq-{label}_FLAIR.nii.gz has acq-{label}, which is not a valid BIDS label: "
        "it is not used"
    )


def test_valid_image_replaces_image_with_invalid_label(make_dataset: MakeDataset) -> None:
    files = {
        "sub-01/anat/sub-01_FLAIR.nii.gz": (1.0, 1.0, 3.0),
        "sub-01/anat/sub-01_acq-a-b_FLAIR.nii.gz": MM1,
        "sub-01/anat/sub-01_acq-a-b_T1w.nii.gz": MM1,
    }
    (visit,) = find_visits(make_dataset(files)).visits
    assert [path.name for path in visit.contrasts.values()] == ["sub-01_FLAIR.nii.gz"]
    (note,) = visit.notes
    assert note.count("acq-a-b, which is not a valid") == 2


@pytest.mark.parametrize("name", ["FLAIR.json", "dataset_description.json"])
def test_named_pipe_does_not_block(study: Path, name: str) -> None:
    (study / name).unlink(missing_ok=True)
    os.mkfifo(study / name)
    with time_limit(20):
        if name == "FLAIR.json":
            assert "Not a regular file" in " ".join(find_visits(study).visits[0].notes)
        else:
            with pytest.raises(InvalidDatasetError, match="Not a regular file"):
                find_visits(study)


class TestSeveralImages:
    def test_image_with_shortest_longest_edge_is_used(self, make_dataset: MakeDataset) -> None:
        bids = make_dataset(
            {
                "sub-01/anat/sub-01_run-01_FLAIR.nii.gz": (0.5, 0.5, 5.0),
                "sub-01/anat/sub-01_run-02_FLAIR.nii.gz": (1.0, 1.0, 1.0),
                "sub-01/anat/sub-01_acq-thick_FLAIR.nii.gz": (1.0, 1.0, 3.0),
            }
        )
        (visit,) = find_visits(bids).visits
        assert visit.flair.name == "sub-01_run-02_FLAIR.nii.gz"
        assert visit.entities == {"run": "02"}
        assert visit.prefix == "sub-01_run-02"
        (note,) = visit.notes
        used, _, others = note.partition(" is used, ")
        assert used == "3 FLAIR images: sub-01_run-02_FLAIR.nii.gz (1 mm³ per voxel)"
        assert "sub-01_acq-thick_FLAIR.nii.gz (edges of 3 mm)" in others
        assert "sub-01_run-01_FLAIR.nii.gz (edges of 5 mm)" in others

    def test_lower_run_wins_tie(self, make_dataset: MakeDataset) -> None:
        files = {f"sub-01/anat/sub-01_run-{n}_FLAIR.nii.gz": MM1 for n in (2, 1)}
        (visit,) = find_visits(make_dataset(files)).visits
        assert visit.flair.name == "sub-01_run-1_FLAIR.nii.gz"

    def test_unreadable_image_does_not_win(self, make_dataset: MakeDataset) -> None:
        bids = make_dataset(
            {
                "sub-01/anat/sub-01_run-1_FLAIR.nii.gz": "not an image",
                "sub-01/anat/sub-01_run-2_FLAIR.nii.gz": MM1,
            }
        )
        (visit,) = find_visits(bids).visits
        assert visit.flair.name == "sub-01_run-2_FLAIR.nii.gz"
        assert "sub-01_run-1_FLAIR.nii.gz (unreadable)" in visit.notes[0]

    def test_image_with_singular_affine_does_not_win(self, make_dataset: MakeDataset) -> None:
        bids = make_dataset({f"sub-01/anat/sub-01_run-{n}_FLAIR.nii": MM1 for n in (1, 2)})
        broken = bids / "sub-01/anat/sub-01_run-1_FLAIR.nii"
        header = bytearray(broken.read_bytes())
        header[280:328] = bytes(48)  # srow_x, srow_y, srow_z of NIfTI-1: a singular sform
        broken.write_bytes(header)
        (visit,) = find_visits(bids).visits
        assert visit.flair.name == "sub-01_run-2_FLAIR.nii"

    def test_uncompressed_copy_wins_over_compressed_copy(self, make_dataset: MakeDataset) -> None:
        bids = make_dataset(
            {"sub-01/anat/sub-01_FLAIR.nii": MM1, "sub-01/anat/sub-01_FLAIR.nii.gz": MM1}
        )
        (visit,) = find_visits(bids).visits
        assert visit.flair.name == "sub-01_FLAIR.nii"
        assert len(visit.notes) == 1

    def test_unenhanced_t1w_with_acq_of_flair_is_used(self, make_dataset: MakeDataset) -> None:
        bids = make_dataset(
            {
                "sub-01/anat/sub-01_acq-3D_FLAIR.nii.gz": MM1,
                "sub-01/anat/sub-01_acq-3D_ce-gad_T1w.nii.gz": (0.5, 0.5, 0.5),
                "sub-01/anat/sub-01_acq-2D_T1w.nii.gz": (0.4, 0.4, 3.0),
                "sub-01/anat/sub-01_acq-3D_T1w.nii.gz": MM1,
            }
        )
        (visit,) = find_visits(bids).visits
        assert visit.t1w is not None
        assert visit.t1w.name == "sub-01_acq-3D_T1w.nii.gz"

    def test_phase_and_derived_images_are_not_used(self, make_dataset: MakeDataset) -> None:
        bids = make_dataset(
            {
                "sub-01/anat/sub-01_part-mag_FLAIR.nii.gz": (2.0, 2.0, 2.0),
                "sub-01/anat/sub-01_part-phase_FLAIR.nii.gz": MM1,
                "sub-01/anat/sub-01_space-MNI_FLAIR.nii.gz": MM1,
                "sub-01/anat/sub-01_part-phase_T1w.nii.gz": MM1,
                "sub-01/anat/sub-01_echo-1_T2w.nii.gz": MM1,
                "sub-01/anat/sub-01_echo-2_T2w.nii.gz": MM1,
            }
        )
        (visit,) = find_visits(bids).visits
        assert visit.flair.name == "sub-01_part-mag_FLAIR.nii.gz"
        assert visit.prefix == "sub-01"
        assert visit.t1w is None
        assert visit.t2w is not None
        assert visit.t2w.name == "sub-01_echo-1_T2w.nii.gz"


class TestDataLad:
    @pytest.fixture
    def annex(self, study: Path) -> Path:
        """The study with every image behind a link into .git/annex, as DataLad clones have."""
        store = study / ".git" / "annex" / "objects"
        store.mkdir(parents=True)
        for number, image in enumerate(sorted(study.glob("sub-*/**/*.nii*"))):
            key = store / f"MD5E-{number}"
            image.rename(key)
            image.symlink_to(os.path.relpath(key, image.parent))
        return study

    @staticmethod
    def drop(image: Path) -> None:
        (image.parent / image.readlink()).unlink()

    def test_annex_links_count_as_images(self, annex: Path) -> None:
        found = find_visits(annex)
        assert list(names(found)) == ["sub-01_ses-1", "sub-01_ses-2", "sub-02"]
        assert found.visits[0].flair.name == "sub-01_ses-1_FLAIR.nii.gz"

    @pytest.mark.parametrize("contrast", ["FLAIR", "T1w"])
    def test_visit_with_missing_content_is_skipped(self, annex: Path, contrast: str) -> None:
        name = f"sub-01/ses-1/anat/sub-01_ses-1_{contrast}.nii.gz"
        self.drop(annex / name)
        found = find_visits(annex, participants=["01"])
        assert list(names(found)) == ["sub-01_ses-2"]
        (skipped,) = found.skipped
        assert "not fetched" in skipped.reason
        assert skipped.hint == f"datalad get {name}"

    def test_visit_with_unlocked_pointer_file_is_skipped(self, study: Path) -> None:
        flair = study / "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz"
        flair.write_text("/annex/objects/MD5E-s1--0.nii.gz\n")
        assert "sub-01_ses-1" in {one.key for one in find_visits(study).skipped}

    def test_dataset_without_fetched_images_raises_error(self, annex: Path) -> None:
        for image in annex.glob("sub-*/**/*.nii*"):
            self.drop(image)
        with pytest.raises(NoInputError, match="not fetched") as caught:
            find_visits(annex)
        assert "datalad get sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz" in caught.value.hint

    def test_visit_with_unfetched_first_run_is_skipped(
        self, study: Path, make_image: MakeImage
    ) -> None:
        make_image(study / "sub-02/anat/sub-02_run-2_FLAIR.nii.gz")
        (study / "sub-02/anat/sub-02_run-1_FLAIR.nii.gz").symlink_to("gone")
        (skipped,) = find_visits(study, participants=["01", "02"]).skipped
        assert skipped.hint == "datalad get sub-02/anat/sub-02_run-1_FLAIR.nii.gz"

    @pytest.mark.parametrize("contrast", ["FLAIR", "T1w"])
    @pytest.mark.parametrize("entities", ["ce-gd", "rec-motion", "acq-a_task-nod"])
    def test_partial_image_does_not_replace_unfetched_image(
        self, study: Path, make_image: MakeImage, entities: str, contrast: str
    ) -> None:
        for part in ("FLAIR.nii", "T1w.nii.gz"):
            make_image(study / f"sub-02/anat/sub-02_{part}", extent_mm=60)
        name = f"sub-02/anat/sub-02_{entities}_{contrast}.nii.gz"
        (study / name).symlink_to("gone")
        (skipped,) = find_visits(study, participants=["01", "02"]).skipped
        assert (skipped.key, skipped.hint) == ("sub-02", f"datalad get {name}")

    def test_symlink_loops_do_not_block(self, study: Path) -> None:
        """Naive indexing takes minutes with two such loops."""
        for folder in (study, study / "sub-01", study / "sub-02/anat"):
            (folder / "loop").symlink_to("..")
            (folder / "ses-loop").symlink_to(".")
        (study / "sub-02/anat/sub-02_T2w.nii.gz").symlink_to("sub-02_T2w.nii.gz")
        (study / "sub-01/ses-1/anat/sub-01_ses-1_run-3_T1w.nii.gz").symlink_to("..")
        with time_limit(20):
            found = find_visits(study)
        assert "sub-02" in {one.key for one in found.skipped}

    def test_symlinked_participant_folder_is_found(self, study: Path, tmp_path: Path) -> None:
        (study / "sub-02").rename(tmp_path / "elsewhere")
        (study / "sub-02").symlink_to(tmp_path / "elsewhere")
        assert "sub-02" in names(find_visits(study))


def broken_link(image: Path) -> None:
    image.symlink_to("../../.git/annex/objects/MD5E-s9--0.nii.gz")


def pointer_file(image: Path) -> None:
    image.write_text("/annex/objects/MD5E-s9--0.nii.gz\n")


def empty_file(image: Path) -> None:
    image.write_bytes(b"")


class TestIgnoredContrasts:
    @pytest.mark.parametrize("spoil", [broken_link, pointer_file, empty_file, os.mkfifo])
    @pytest.mark.parametrize("contrast", ["T1w", "T2w"])
    def test_faulty_image_of_ignored_contrast_has_no_effect(
        self, study: Path, contrast: str, spoil: Callable[[Path], None]
    ) -> None:
        image = study / f"sub-01/ses-1/anat/sub-01_ses-1_{contrast}.nii.gz"
        image.unlink()
        spoil(image)
        found = find_visits(study, participants=["01"])
        decided = [*found.skipped, *(visit for visit in found.visits if visit.problem)]
        assert [one.key for one in decided] == ["sub-01_ses-1"]
        found = find_visits(study, participants=["01"], ignore=[contrast.lower()])
        assert [visit.key for visit in found.visits] == ["sub-01_ses-1", "sub-01_ses-2"]
        assert found.skipped == ()
        assert found.visits[0].problem == ""
        others = [one for one in ("FLAIR", "T1w", "T2w") if one != contrast]
        assert list(found.visits[0].contrasts) == list(found.visits[0].metadata) == others

    @pytest.mark.parametrize(
        ("ignored", "left"),
        [
            ((), ["FLAIR", "T1w", "T2w"]),
            (("t1w",), ["FLAIR", "T2w"]),
            (("t2w",), ["FLAIR", "T1w"]),
            (("T2w", "t1w"), ["FLAIR"]),
        ],
    )
    def test_visit_with_ignored_contrasts_has_notes(
        self, study: Path, ignored: tuple[str, ...], left: list[str]
    ) -> None:
        first, second, third = find_visits(study, ignore=ignored).visits
        assert list(first.contrasts) == left
        assert len(first.notes) == len(ignored)
        # the second visit has only a FLAIR, and the third has no T2w
        assert second.notes == ()
        assert len(third.notes) == ("t1w" in ignored)


class TestFilters:
    @pytest.fixture
    def runs(self, make_dataset: MakeDataset) -> Path:
        return make_dataset(
            {
                "sub-01/ses-1/anat/sub-01_ses-1_acq-3D_run-01_FLAIR.nii.gz": MM1,
                "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz": (2.0, 2.0, 2.0),
                "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz": MM1,
                "sub-01/ses-2/anat/sub-01_ses-2_FLAIR.nii.gz": MM1,
                "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz": MM1,
            }
        )

    @pytest.mark.parametrize(
        ("flair", "chosen"),
        [
            ({"acquisition": None}, "sub-01_ses-1_FLAIR.nii.gz"),
            ({"acquisition": "Query.NONE"}, "sub-01_ses-1_FLAIR.nii.gz"),
            ({"acquisition": "<Query.NONE: 1>"}, "sub-01_ses-1_FLAIR.nii.gz"),
            ({"acq": ["3D", "2D"]}, "sub-01_ses-1_acq-3D_run-01_FLAIR.nii.gz"),
            ({"run": 1}, "sub-01_ses-1_acq-3D_run-01_FLAIR.nii.gz"),
            ({"run": "*"}, "sub-01_ses-1_acq-3D_run-01_FLAIR.nii.gz"),
            ({"run": "Query.ANY"}, "sub-01_ses-1_acq-3D_run-01_FLAIR.nii.gz"),
            ({"run": "Query.OPTIONAL"}, "sub-01_ses-1_acq-3D_run-01_FLAIR.nii.gz"),
            (
                {"datatype": "anat", "suffix": "FLAIR", "session": ["ses-1"]},
                "sub-01_ses-1_acq-3D_run-01_FLAIR.nii.gz",
            ),
        ],
    )
    def test_filter_values_select_flair(
        self, runs: Path, flair: dict[str, Any], chosen: str
    ) -> None:
        found = find_visits(runs, filters={"FLAIR": flair})
        assert found.visits[0].flair.name == chosen

    def test_session_filter_of_flair_selects_visits(self, runs: Path) -> None:
        found = find_visits(runs, filters={"flair": {"session": "2"}})
        assert (list(names(found)), found.skipped) == (["sub-01_ses-2"], ())

    def test_session_filter_of_t1w_does_not_drop_visits(self, runs: Path) -> None:
        found = find_visits(runs, filters={"t1w": {"session": "ses-2"}})
        assert [visit.t1w is None for visit in found.visits] == [True, False]

    @pytest.mark.parametrize("contrast", ["FLAIR", "T1w", "T2w"])
    @pytest.mark.parametrize(
        ("entry", "there"),
        [
            ({"acquisition": "mprage"}, ["acquisition 'mprage'", "MPRAGE", "none"]),
            ({"acq": ["3d", "MPRAGE"]}, ["acquisition '3d'", "MPRAGE", "none"]),
            ({"run": 7}, ["run 7", "01", "02"]),
            ({"reconstruction": "Query.ANY"}, ["reconstruction any", "none"]),
            ({"run": None}, ["run none", "01", "02"]),
            ({"session": "ses-9"}, ["session '9'", "1"]),
            ({"suffix": "T3w"}, ["suffix 'T3w'", "FLAIR", "T1w", "T2w"]),
        ],
    )
    def test_unmatched_filter_value_lists_available_values(
        self, make_dataset: MakeDataset, contrast: str, entry: dict[str, Any], there: list[str]
    ) -> None:
        """Regression test: a filter excluded T1w or T2w images without a note."""
        names_ = ("acq-MPRAGE_run-01", "run-02")
        stem = "sub-01/ses-1/anat/sub-01_ses-1"
        bids = make_dataset(
            {f"{stem}_{n}_{c}.nii.gz": MM1 for n in names_ for c in ("FLAIR", "T1w", "T2w")}
        )
        filters = {contrast.lower(): entry}
        if contrast == "FLAIR" and "session" in entry:
            there = ["ses-1"]  # the session of the FLAIR filter selects visits
        if contrast == "FLAIR" and entry != {"acq": ["3d", "MPRAGE"]}:
            with pytest.raises(NothingSelectedError) as caught:
                find_visits(bids, filters=filters)
            message = caught.value.hint
        else:
            (message,) = find_visits(bids, filters=filters).notes
            assert contrast in message
        assert [word for word in there if word not in message] == []

    def test_unmatched_combination_of_filters_raises_error(self, runs: Path) -> None:
        entry = {"acquisition": "3D", "run": None}
        with pytest.raises(NothingSelectedError) as caught:
            find_visits(runs, filters={"flair": entry})
        assert "no FLAIR matches all" in caught.value.hint

    def test_visit_without_matching_flair_is_skipped(self, runs: Path) -> None:
        found = find_visits(runs, filters={"flair": {"acq": "3D"}})
        (skipped,) = found.skipped
        assert (skipped.key, "filter file" in skipped.reason) == ("sub-01_ses-2", True)

    def test_unused_filter_keys_are_noted(self, runs: Path) -> None:
        babs = {key: {"datatype": "x"} for key in ("fmap", "bold", "sbref", "roi", "flair", "t1w")}
        del babs["flair"]["datatype"], babs["t1w"]["datatype"]
        found = find_visits(runs, filters=babs)
        assert len(found.visits) == 2
        assert [note.split('"')[1] for note in found.notes] == ["fmap", "bold", "sbref", "roi"]

    @pytest.mark.parametrize(
        "filters", [{"flair": "3D"}, ["flair"], {"flair": {"acquistion": "3D"}}]
    )
    def test_invalid_filters_raise_usage_error(self, runs: Path, filters: Any) -> None:
        with pytest.raises(UsageError):
            find_visits(runs, filters=filters)


class TestMetadata:
    def test_metadata_follow_inheritance_principle(self, study: Path) -> None:
        content = {
            "FLAIR.json": {"EchoTime": 0.1, "FlipAngle": 90},
            "acq-3D_FLAIR.json": {"EchoTime": 9},
            "T1w.json": {"EchoTime": 0.004},
            "sub-01/sub-01_FLAIR.json": {"EchoTime": 0.2},
            "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.json": {"EchoTime": 0.3},
        }
        for name, entries in content.items():
            (study / name).write_text(json.dumps(entries))
        first, second, third = find_visits(study).visits
        assert first.metadata["FLAIR"] == {"EchoTime": 0.3, "FlipAngle": 90}
        assert second.metadata["FLAIR"] == {"EchoTime": 0.2, "FlipAngle": 90}
        assert third.metadata == {
            "FLAIR": {"EchoTime": 0.1, "FlipAngle": 90},
            "T1w": {"EchoTime": 0.004},
        }

    @pytest.mark.parametrize("text", ["{", "[1]"])
    def test_broken_sidecar_is_a_note(self, study: Path, text: str) -> None:
        (study / "FLAIR.json").write_text(text)
        visit = find_visits(study).visits[0]
        assert visit.metadata["FLAIR"] == {}
        assert visit.notes[0].startswith("FLAIR.json ignored: not")

    def test_more_specific_sidecar_wins_in_same_folder(self, make_dataset: MakeDataset) -> None:
        bids = make_dataset(
            {
                "sub-01/anat/sub-01_run-1_FLAIR.nii.gz": MM1,
                "sub-01/anat/sub-01_FLAIR.json": {"EchoTime": 1},
                "sub-01/anat/sub-01_run-1_FLAIR.json": {"EchoTime": 2},
            }
        )
        assert find_visits(bids).visits[0].metadata["FLAIR"] == {"EchoTime": 2}


class TestBrainMasks:
    def find(self, study: Path, **names_and_paths: Path) -> Visit:
        return find_visits(study, participants=["02"], derivatives=names_and_paths).visits[0]

    def test_mask_on_grid_of_flair_is_used(
        self, study: Path, make_image: MakeImage, tmp_path: Path
    ) -> None:
        anat = tmp_path / "deriv/sub-02/anat"
        make_image(anat / "sub-02_desc-brain_mask.nii.gz", (0.5, 0.5, 0.5))
        mask = make_image(anat / "sub-02_space-FLAIR_desc-brain_mask.nii.gz")
        visit = self.find(study, other=tmp_path / "deriv")
        assert visit.brain_mask == mask
        assert visit.notes == (f"brain mask taken from other: {mask.name}",)

    def test_mask_named_space_flair_is_preferred(
        self, study: Path, make_image: MakeImage, tmp_path: Path
    ) -> None:
        anat = tmp_path / "d/sub-02/anat"
        make_image(anat / "sub-02_desc-brain_mask.nii.gz")
        mask = make_image(anat / "sub-02_space-FLAIR_desc-brain_mask.nii.gz")
        assert self.find(study, other=tmp_path / "d").brain_mask == mask

    def test_mask_of_another_participant_is_not_used(
        self, study: Path, make_image: MakeImage, tmp_path: Path
    ) -> None:
        make_image(tmp_path / "d/sub-02/anat/sub-01_space-FLAIR_desc-brain_mask.nii.gz")
        visit = self.find(study, other=tmp_path / "d")
        assert visit.brain_mask is None
        assert visit.notes == ("no brain mask of sub-02 in other",)

    def test_mask_on_another_grid_is_not_used(
        self, study: Path, make_image: MakeImage, tmp_path: Path
    ) -> None:
        make_image(tmp_path / "d/sub-02/anat/sub-02_space-FLAIR_desc-brain_mask.nii.gz", (1, 1, 2))
        visit = self.find(study, other=tmp_path / "d")
        assert visit.brain_mask is None
        assert "not on the grid of the FLAIR" in visit.notes[0]

    def test_missing_mask_gives_a_note(self, study: Path, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir()
        visit = self.find(study, other=tmp_path / "d")
        assert visit.notes == ("no brain mask of sub-02 in other",)

    def test_unfetched_mask_raises_error(self, study: Path, tmp_path: Path) -> None:
        mask = tmp_path / "d/sub-02/anat/sub-02_desc-brain_mask.nii.gz"
        mask.parent.mkdir(parents=True)
        mask.symlink_to("gone")
        with pytest.raises(NoInputError, match="not fetched"):
            self.find(study, other=tmp_path / "d")

    def test_missing_derivatives_folder_raises_error(self, study: Path, tmp_path: Path) -> None:
        with pytest.raises(NoInputError, match="other"):
            self.find(study, other=tmp_path / "d")


class GivenMasks:
    """Tests of options whose masks must be on the grid of the FLAIR."""

    option = ""

    def find(self, study: Path, **places: Path) -> Selection:
        return find_visits(study, participants=["02"], **{self.option: places})

    def test_mask_on_another_grid_is_reported_before_run(
        self, study: Path, make_image: MakeImage, tmp_path: Path
    ) -> None:
        make_image(tmp_path / "m/02.nii.gz", (1, 1, 2))
        (visit,) = self.find(study, m=tmp_path / "m/{subject}.nii.gz").visits
        assert visit.problem == "02.nii.gz is not on the grid of the FLAIR"

    def test_unfetched_mask_raises_error(self, study: Path, tmp_path: Path) -> None:
        (tmp_path / "m").mkdir()
        (tmp_path / "m/02.nii.gz").symlink_to("gone")
        with pytest.raises(NoInputError, match="not fetched"):
            self.find(study, m=tmp_path / "m/{subject}.nii.gz")


class TestLesionMasks(GivenMasks):
    option = "lesion_masks"

    @pytest.mark.parametrize(
        ("name", "taken"),
        [
            ("sub-02_space-FLAIR_label-L_mask.nii.gz", True),
            ("sub-02_label-lesion_mask.nii", True),
            ("sub-02_space-T1w_label-L_mask.nii.gz", False),
            ("sub-02_space-FLAIR_label-L_desc-rater1_mask.nii.gz", False),
            ("sub-02_space-FLAIR_desc-brain_mask.nii.gz", False),
            ("sub-02_space-FLAIR_label-L_probseg.nii.gz", False),
            ("sub-01_space-FLAIR_label-L_mask.nii.gz", False),
        ],
    )
    def test_masks_of_derivative_dataset_are_selected_by_name(
        self, study: Path, make_image: MakeImage, tmp_path: Path, name: str, taken: bool
    ) -> None:
        mask = make_image(tmp_path / "d/sub-02/anat" / name)
        if not taken:
            with pytest.raises(NoInputError, match="no lesion mask in drawn"):
                self.find(study, drawn=tmp_path / "d")
            return
        (visit,) = self.find(study, drawn=tmp_path / "d").visits
        assert visit.lesion_mask == mask
        assert f"lesion mask taken from drawn: {name}" in visit.notes
        assert not visit.problem

    def test_first_source_with_lesion_mask_is_used(
        self, study: Path, make_image: MakeImage, tmp_path: Path
    ) -> None:
        (tmp_path / "none").mkdir()
        masks = [make_image(tmp_path / f"{name}/02.nii.gz") for name in "ab"]
        places = {name: tmp_path / name / "{subject}.nii.gz" for name in "ab"}
        found = self.find(study, none=tmp_path / "none", **places).visits[0]
        assert found.lesion_mask == masks[0]

    def test_path_pattern_selects_mask_of_session(
        self, make_dataset: MakeDataset, make_image: MakeImage, tmp_path: Path
    ) -> None:
        """A mask of one session is not used for another session."""
        files = [f"sub-01/ses-{n}/anat/sub-01_ses-{n}_FLAIR.nii.gz" for n in (1, 2)]
        bids = make_dataset({**dict.fromkeys(files, MM1), "sub-02/anat/sub-02_FLAIR.nii.gz": MM1})
        for name in ("01_1", "02", "01"):
            make_image(tmp_path / f"m/{name}.nii.gz")
        both = {"m": tmp_path / "m/{subject}_{session}.nii.gz"}
        found = find_visits(bids, lesion_masks=both)
        assert [visit.key for visit in found.visits] == ["sub-01_ses-1"]
        assert [one.key for one in found.skipped] == ["sub-01_ses-2", "sub-02"]
        assert {one.reason for one in found.skipped} == {"no lesion mask in m"}
        assert all(one.hint for one in found.skipped)
        found = find_visits(bids, lesion_masks={"m": tmp_path / "m/{subject}.nii.gz"})
        assert [visit.key for visit in found.visits] == ["sub-02"]


class TestExcludeMasks(GivenMasks):
    option = "exclude_masks"

    @pytest.mark.parametrize(
        ("name", "taken"),
        [
            ("sub-02_space-FLAIR_desc-infarct_mask.nii.gz", True),
            ("sub-02_label-tumour_mask.nii", True),
            ("sub-02_label-L_mask.nii.gz", True),
            ("sub-02_space-T1w_desc-infarct_mask.nii.gz", False),
            ("sub-02_space-FLAIR_desc-brain_mask.nii.gz", False),
            ("sub-02_run-2_desc-infarct_mask.nii.gz", False),
            ("sub-02_space-FLAIR_desc-infarct_probseg.nii.gz", False),
            ("sub-01_space-FLAIR_desc-infarct_mask.nii.gz", False),
        ],
    )
    def test_masks_of_derivative_dataset_are_selected_by_name(
        self, study: Path, make_image: MakeImage, tmp_path: Path, name: str, taken: bool
    ) -> None:
        mask = make_image(tmp_path / "d/sub-02/anat" / name)
        found = self.find(study, other=tmp_path / "d")
        (visit,) = found.visits
        assert visit.exclude_masks == ((mask,) if taken else ())
        assert (f"exclusion mask taken from other: {name}" in visit.notes) == taken
        assert f"{int(taken)} of 1 visits have an exclusion mask in other" in found.notes
        assert not visit.problem

    def test_exclusion_masks_of_all_sources_are_used(
        self, study: Path, make_image: MakeImage, tmp_path: Path
    ) -> None:
        anat = tmp_path / "d/sub-02/anat"
        drawn = [make_image(anat / f"sub-02_desc-{what}_mask.nii.gz") for what in ("a", "b")]
        pattern = make_image(tmp_path / "m/02.nii.gz")
        places = {"d": tmp_path / "d", "m": tmp_path / "m/{subject}.nii.gz"}
        (visit,) = self.find(study, **places).visits
        assert visit.exclude_masks == (*drawn, pattern)

    def test_mask_drawn_in_viewer_on_cut_grid_is_accepted(
        self, study: Path, tmp_path: Path
    ) -> None:
        affine = np.eye(4)
        affine[:3, 3] = 1
        drawn = nib.Nifti1Image(np.ones((4, 5, 6), np.uint8), affine)
        drawn.header["descrip"] = OF_VIEWER
        (tmp_path / "m").mkdir()
        nib.save(drawn, tmp_path / "m/02.nii.gz")
        (visit,) = self.find(study, m=tmp_path / "m/{subject}.nii.gz").visits
        assert visit.problem == ""

    def test_masks_are_not_searched_without_option(self, study: Path) -> None:
        found = find_visits(study, participants=["02"])
        assert (found.visits[0].lesion_mask, found.visits[0].exclude_masks) == (None, ())
        assert not any("exclude" in note for note in found.notes)


class TestDescription:
    @pytest.mark.parametrize("text", [None, "{", "[1]"])
    def test_unusable_description_raises_error(self, study: Path, text: str | None) -> None:
        path = study / "dataset_description.json"
        path.unlink()
        if text is not None:
            path.write_text(text)
        with pytest.raises(InvalidDatasetError, match=r"dataset_description\.json"):
            find_visits(study)
        if text == "[1]":
            with pytest.raises(InvalidDatasetError, match="pybids cannot index"):
                find_visits(study, skip_validation=True)
        else:
            assert len(find_visits(study, skip_validation=True).visits) == 3

    def test_missing_dataset_folder_raises_error(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidDatasetError, match="not a folder"):
            find_visits(tmp_path / "nothing")

    @pytest.mark.parametrize("described", [True, False])
    @pytest.mark.parametrize("below", ["rawdata", "bids", "sourcedata/raw"])
    def test_hint_names_raw_dataset_in_subfolder(
        self, make_dataset: MakeDataset, below: str, described: bool
    ) -> None:
        files = {f"{below}/sub-01/anat/sub-01_FLAIR.nii.gz": MM1}
        files["derivatives/other/sub-01/anat/sub-01_desc-x_FLAIR.nii.gz"] = MM1
        about = {"Name": "x", "BIDSVersion": "1.10.1", "DatasetType": "study"}
        study = make_dataset(files, description=about if described else None)
        with pytest.raises((NothingSelectedError, InvalidDatasetError)) as caught:
            find_visits(study)
        assert str(study / below) in caught.value.hint

    def test_dataset_without_participants_raises_error(self, make_dataset: MakeDataset) -> None:
        bids = make_dataset({})
        with pytest.raises(NothingSelectedError):
            find_visits(bids)

    def test_missing_version_and_invalid_label_are_noted(self, study: Path) -> None:
        (study / "dataset_description.json").write_text('{"Name": "x"}')
        (study / "sub-0_4").mkdir()
        version = f"has no BIDSVersion: the dataset is read as BIDS {BIDS_VERSION}"
        assert find_visits(study).notes == (
            f"dataset_description.json {version}",
            "ignored, because labels may hold letters and digits only: sub-0_4",
        )

    @pytest.mark.parametrize(
        ("version", "noted"),
        [
            ("1.0.2", False),
            ("1.8.0", False),
            ("1.10.1", False),
            (BIDS_VERSION, False),
            ("1.12.0", False),
            ("1.11.0-dev", False),
            ("2.0.0", True),
            ("9.9", True),
            (1.1, True),
        ],
    )
    def test_only_versions_other_than_bids_1_are_noted(
        self, study: Path, version: object, noted: bool
    ) -> None:
        """All BIDS 1 versions are read by the rules of the version that the outputs name."""
        about = {"Name": "x", "BIDSVersion": version}
        (study / "dataset_description.json").write_text(json.dumps(about))
        notes = find_visits(study).notes
        assert len(notes) == noted
        assert all(note.endswith(f"read as BIDS {BIDS_VERSION}") for note in notes)

    def test_valid_description_gives_no_notes(self, study: Path) -> None:
        assert find_visits(study).notes == ()

    def test_description_with_byte_order_mark_is_read(self, study: Path) -> None:
        path = study / "dataset_description.json"
        path.write_text("\ufeff" + path.read_text())
        assert len(find_visits(study).visits) == 3

    def test_derivative_dataset_is_accepted_as_input(self, make_dataset: MakeDataset) -> None:
        description = {"Name": "x", "BIDSVersion": "1.9.0", "DatasetType": "derivative"}
        files = {"sub-01/anat/sub-01_desc-brain_FLAIR.nii.gz": MM1}
        assert list(names(find_visits(make_dataset(files, description=description)))) == ["sub-01"]


@pytest.mark.realdata
def test_visits_of_raw_heads_dataset_are_found(shared_data: Path) -> None:
    found = find_visits(shared_data / "raw-heads")
    assert [visit.key for visit in found.visits] == [
        *("sub-01_ses-1", "sub-01_ses-2", "sub-03_ses-1", "sub-03_ses-2", "sub-09_ses-2"),
        *("sub-12_ses-1", "sub-12_ses-2", "sub-19_ses-1", "sub-19_ses-2"),
    ]
    assert found.notes == ()
    assert list(found.visits[4].contrasts) == ["FLAIR"]


def test_dataset_path_with_special_characters_is_accepted(make_dataset: MakeDataset) -> None:
    bids = make_dataset({"sub-01/anat/sub-01_FLAIR.nii.gz": MM1}, name="a b#é%20+[x]")
    assert list(names(find_visits(bids, participants=["01"]))) == ["sub-01"]
