"""Dataset-level output files, and checks of the output and work folders."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bids_msseg import __version__
from bids_msseg.bids.dataset import check_directories, write_dataset_files
from bids_msseg.bids.derivatives import OUTPUTS
from bids_msseg.bids.record_values import ModelUse
from bids_msseg.errors import CannotCreateError, UsageError

MakeDataset = Callable[..., Path]


def describe(out: Path, bids: Path, **more: Any) -> dict[str, Any]:
    write_dataset_files(out, bids, **{"environment": {}, **more})
    content: dict[str, Any] = json.loads((out / "dataset_description.json").read_text())
    return content


class TestDescription:
    def test_fields_of_raw_description_are_copied(
        self, make_dataset: MakeDataset, tmp_path: Path
    ) -> None:
        raw = {
            "Name": "MS study",
            "BIDSVersion": "1.8.0",
            "License": "CC0",
            "Authors": ["A", "B"],
            "DatasetDOI": "doi:10.1/x",
        }
        content = describe(tmp_path / "out", make_dataset({}, description=raw))
        assert content["Name"].endswith("MS study")
        assert content["DatasetType"] == "derivative"
        assert content["BIDSVersion"] == "1.11.1"
        assert content["License"] == "CC0"
        assert content["Authors"] == ["A", "B", "The bids_msseg developers"]
        assert content["SourceDatasets"] == [{"DOI": "doi:10.1/x"}]
        assert content["GeneratedBy"][0]["Name"] == "bids_msseg"
        assert content["GeneratedBy"][0]["Version"] == __version__

    @pytest.mark.parametrize(
        ("environment", "container"),
        [
            ({}, None),
            (
                {"BIDS_MSSEG_IMAGE": "bids_msseg:0.1.0"},
                {"Type": "docker", "Tag": "bids_msseg:0.1.0"},
            ),
            ({"APPTAINER_NAME": "/home/me/m.sif"}, {"Type": "singularity", "Tag": "m.sif"}),
            ({"SINGULARITY_NAME": "m.sif"}, {"Type": "singularity", "Tag": "m.sif"}),
        ],
    )
    def test_container_is_read_from_environment(
        self, make_dataset: MakeDataset, tmp_path: Path, environment: Any, container: Any
    ) -> None:
        content = describe(tmp_path / "out", make_dataset({}), environment=environment)
        assert content["GeneratedBy"][0].get("Container") == container

    def test_other_segmenter_is_listed_in_generated_by(
        self, make_dataset: MakeDataset, tmp_path: Path
    ) -> None:
        other = ModelUse("SEG", "2", "ff", "command", "MIT", "Doe 2020")
        content = describe(tmp_path / "out", make_dataset({}), segmenter=other)
        ours, theirs = content["GeneratedBy"]
        assert ours["Name"] == "bids_msseg"
        assert "networks" not in ours["Description"]
        assert (theirs["Name"], theirs["Version"]) == ("SEG", "2")
        assert "Doe 2020" in theirs["Description"]

    @pytest.mark.parametrize(
        ("doi", "source"),
        [
            (None, {"URL": "../bids"}),
            ("https://doi.org/10.1/x", {"DOI": "https://doi.org/10.1/x"}),
            (
                "doi:10.18112/openneuro.ds000001.v1.0.2",
                {
                    "DOI": "doi:10.18112/openneuro.ds000001.v1.0.2",
                    "URL": "https://openneuro.org/datasets/ds000001/versions/1.0.2",
                    "Version": "1.0.2",
                },
            ),
        ],
    )
    def test_source_dataset_has_doi_or_url(self, doi: str | None, source: dict[str, str]) -> None:
        from bids_msseg.bids.dataset import dataset_description

        content = dataset_description(
            Path("/d/out"), Path("/d/bids"), {"DatasetDOI": doi}, derivatives={}, environment={}
        )
        assert content["SourceDatasets"] == [source]

    def test_missing_raw_description_gives_default_name(self, tmp_path: Path) -> None:
        content = describe(tmp_path / "out", tmp_path / "nothing")
        assert content["Name"].endswith("a BIDS dataset")


class TestLinks:
    @pytest.mark.parametrize(
        ("out", "bids", "link"),
        [
            ("/d/bids/derivatives/bids_msseg", "/d/bids", "../.."),
            ("/d/out", "/d/bids", "../bids"),
            ("/d/out", "/d/x/my bids", "../x/my%20bids"),
            ("/out", "/bids", "../bids"),
            ("/out", "/home/jane/bids", "urn:bids_msseg:A-study"),
            ("/scratch/out", "/home/jane/bids", "urn:bids_msseg:A-study"),
            ("/home/jane/out", "/home/secret/project/bids", "urn:bids_msseg:A-study"),
        ],
    )
    def test_link_to_raw_dataset_is_relative_or_urn(self, out: str, bids: str, link: str) -> None:
        from bids_msseg.bids.dataset import dataset_description

        content = dataset_description(
            Path(out), Path(bids), {"Name": "A study"}, derivatives={}, environment={}
        )
        assert content["DatasetLinks"]["raw"] == link

    def test_link_is_doi_if_no_relative_path_exists(self) -> None:
        from bids_msseg.bids.dataset import dataset_description

        raw = {"DatasetDOI": "doi:10.1/x"}
        content = dataset_description(
            Path("/out"), Path("/home/jane/bids"), raw, derivatives={}, environment={}
        )
        assert content["DatasetLinks"]["raw"] == "https://doi.org/10.1/x"

    def test_absolute_paths_are_not_written(
        self, make_dataset: MakeDataset, tmp_path: Path
    ) -> None:
        out = tmp_path / "a" / "b" / "out"
        write_dataset_files(out, make_dataset({}), derivatives={"x": tmp_path}, environment={})
        texts = "".join(path.read_text() for path in out.iterdir())
        assert str(tmp_path) not in texts
        assert str(tmp_path.parent.name) not in texts

    def test_link_to_derivative_dataset_has_valid_name(
        self, make_dataset: MakeDataset, tmp_path: Path
    ) -> None:
        content = describe(
            tmp_path / "out", make_dataset({}), derivatives={"fmri prep": tmp_path / "prep"}
        )
        assert content["DatasetLinks"]["fmri-prep"] == "../prep"


class TestFiles:
    def test_second_call_changes_nothing(self, make_dataset: MakeDataset, tmp_path: Path) -> None:
        bids, out = make_dataset({}), tmp_path / "out"
        for _ in range(2):
            write_dataset_files(out, bids, options={"threshold": 0.5}, environment={})
            times = {path.name: path.stat().st_ino for path in out.iterdir()}
            if _ == 0:
                first = times
        assert times == first
        assert sorted(times) == [
            ".bidsignore",
            "README.md",
            "dataset_description.json",
            "descriptions.json",
            "descriptions.tsv",
        ]

    def test_bidsignore_keeps_lines_of_user(
        self, make_dataset: MakeDataset, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        out.mkdir()
        (out / ".bidsignore").write_text("mine\nfigures\n")
        write_dataset_files(out, make_dataset({}), environment={})
        assert (out / ".bidsignore").read_text().split() == [
            *("mine", "figures", "*.html", "*_xfm.*", "*_stats.*"),
            *("group_*", "check*", "lesion_roi", ".work"),
        ]

    def test_readme_is_updated_unless_edited_by_user(
        self, make_dataset: MakeDataset, tmp_path: Path
    ) -> None:
        bids, out = make_dataset({}), tmp_path / "out"
        for threshold in (0.5, 0.4):
            write_dataset_files(out, bids, options={"threshold": threshold}, environment={})
            assert f"- threshold: {threshold}\n" in (out / "README.md").read_text()
        (out / "README.md").write_text("# My own words\n")
        write_dataset_files(out, bids, environment={})
        assert (out / "README.md").read_text() == "# My own words\n"

    def test_readme_and_descriptions_come_from_table_of_outputs(
        self, make_dataset: MakeDataset, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        write_dataset_files(out, make_dataset({}), environment={})
        readme, table = ((out / name).read_text() for name in ("README.md", "descriptions.tsv"))
        for output in OUTPUTS.values():
            if ".json" in output.extensions:
                assert f"- `{output.stem}`: {output.description}\n" in readme
                desc = output.entities.get("desc")
                assert desc is None or f"desc-{desc}\t{output.description}\n" in table

    def test_concurrent_writers_leave_complete_files(
        self, make_dataset: MakeDataset, tmp_path: Path
    ) -> None:
        """Readers see only complete files, and all jobs succeed."""
        bids, out = make_dataset({}), tmp_path / "out"
        code = (
            "import sys; from pathlib import Path\n"
            "from bids_msseg.bids.dataset import write_dataset_files\n"
            "for n in range(60):\n"
            "    write_dataset_files(Path(sys.argv[1]), Path(sys.argv[2]),\n"
            "        options={'n': n}, environment={'BIDS_MSSEG_IMAGE': str(n)})"
        )
        command = [sys.executable, "-c", code, str(out), str(bids)]
        jobs = [subprocess.Popen(command) for _ in range(3)]
        while any(job.poll() is None for job in jobs):
            path = out / "dataset_description.json"
            if path.exists():
                assert json.loads(path.read_text())["DatasetType"] == "derivative"
        assert [job.returncode for job in jobs] == [0, 0, 0]
        assert not [path for path in out.iterdir() if re.match(r"\.[0-9a-f]{12}\.", path.name)]

    def test_file_instead_of_output_folder_raises_error(
        self, make_dataset: MakeDataset, tmp_path: Path
    ) -> None:
        (tmp_path / "out").write_text("a file")
        with pytest.raises(CannotCreateError):
            write_dataset_files(tmp_path / "out", make_dataset({}), environment={})


class TestDirectories:
    @pytest.mark.parametrize(
        ("out", "work", "said"),
        [
            ("bids", "work", "is the BIDS dataset itself"),
            ("bids/out", "work", "is inside the BIDS dataset"),
            ("bids/derivatives", "work", "is inside the BIDS dataset"),
            ("bids/sub-01", "work", "is inside the BIDS dataset"),
            (".", "work", "holds the BIDS dataset"),
            ("out", "bids/work", "work folder .* is inside the BIDS dataset"),
            ("out", "bids", "work folder .* holds"),
            ("out", "out", "work folder .* holds"),
            ("out", ".", "work folder .* holds"),
            ("bids/derivatives/bids_msseg", "bids/derivatives", "work folder .* holds"),
        ],
    )
    def test_overlapping_folders_are_refused(
        self, make_dataset: MakeDataset, tmp_path: Path, out: str, work: str, said: str
    ) -> None:
        bids = make_dataset({"sub-01/x": None}, name="bids")
        with pytest.raises(UsageError, match=said):
            check_directories(bids, tmp_path / out, tmp_path / work)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["bids"]

    @pytest.mark.parametrize(
        ("out", "work"),
        [
            ("out", "out/.work"),
            ("out", "work"),
            ("bids/derivatives/bids_msseg", "bids/derivatives/bids_msseg/.work"),
            ("bids/derivatives/bids_msseg/v1", "work"),
        ],
    )
    def test_valid_folders_are_accepted_and_created(
        self, make_dataset: MakeDataset, tmp_path: Path, out: str, work: str
    ) -> None:
        bids = make_dataset({}, name="bids")
        assert check_directories(bids, tmp_path / out, tmp_path / work) == ()
        assert (tmp_path / out).is_dir()
        assert list((tmp_path / work).iterdir()) == []
        assert check_directories(bids, tmp_path / out, tmp_path / work) == ()

    def test_raw_dataset_in_sourcedata_of_outputs_is_accepted(
        self, make_dataset: MakeDataset, tmp_path: Path
    ) -> None:
        """The YODA layout of DataLad."""
        bids = make_dataset({}, name="out/sourcedata/raw")
        assert check_directories(bids, tmp_path / "out", tmp_path / "work") == ()

    def test_dry_run_creates_no_folders(self, make_dataset: MakeDataset, tmp_path: Path) -> None:
        bids = make_dataset({}, name="bids")
        check_directories(bids, tmp_path / "out", tmp_path / "work", create=False)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["bids"]

    def test_symlink_to_dataset_is_refused_as_output_folder(
        self, make_dataset: MakeDataset, tmp_path: Path
    ) -> None:
        bids = make_dataset({}, name="bids")
        (tmp_path / "link").symlink_to(bids)
        with pytest.raises(UsageError, match="itself"):
            check_directories(bids, tmp_path / "link", tmp_path / "work")

    @pytest.mark.parametrize(
        ("description", "said"),
        [
            ({"Name": "x", "DatasetType": "raw"}, "raw BIDS dataset"),
            ({"Name": "x"}, "raw BIDS dataset"),
            (
                {"DatasetType": "derivative", "GeneratedBy": [{"Name": "fMRIPrep"}]},
                "outputs of fMRIPrep",
            ),
            (
                {"DatasetType": "derivative", "GeneratedBy": {"Name": "FreeSurfer"}},
                "outputs of FreeSurfer",
            ),
            ({"Name": "x", "DatasetType": "derivative"}, "outputs of another app"),
            (["bids_msseg"], "unreadable"),
        ],
    )
    def test_foreign_output_folder_is_refused(
        self, make_dataset: MakeDataset, tmp_path: Path, description: Any, said: str
    ) -> None:
        bids = make_dataset({}, name="bids")
        out = make_dataset({}, name="out", description=description)
        with pytest.raises(UsageError, match=said):
            check_directories(bids, out, tmp_path / "work")

    def test_output_folder_with_unreadable_description_is_refused(
        self, make_dataset: MakeDataset, tmp_path: Path
    ) -> None:
        bids = make_dataset({}, name="bids")
        (tmp_path / "out").mkdir()
        (tmp_path / "out/dataset_description.json").write_bytes(b'{"Name": "Z\xfcrich"}')
        with pytest.raises(UsageError, match="unreadable"):
            check_directories(bids, tmp_path / "out", tmp_path / "work")

    def test_undecodable_text_files_are_not_overwritten(
        self, make_dataset: MakeDataset, tmp_path: Path
    ) -> None:
        bids = make_dataset({}, name="bids")
        (tmp_path / "out").mkdir()
        for name in ("README.md", ".bidsignore"):
            (tmp_path / "out" / name).write_bytes(b"f\xfcr uns")
        write_dataset_files(tmp_path / "out", bids, environment={})
        for name in ("README.md", ".bidsignore"):
            assert (tmp_path / "out" / name).read_bytes() == b"f\xfcr uns"

    def test_output_folder_with_unfetched_description_is_refused(
        self, make_dataset: MakeDataset, tmp_path: Path
    ) -> None:
        bids = make_dataset({}, name="bids")
        (tmp_path / "out").mkdir()
        (tmp_path / "out/dataset_description.json").symlink_to(".git/annex/objects/x")
        with pytest.raises(UsageError, match="datalad get"):
            check_directories(bids, tmp_path / "out", tmp_path / "work")

    def test_outputs_of_another_dataset_give_a_warning(
        self, make_dataset: MakeDataset, tmp_path: Path
    ) -> None:
        one, two = (
            make_dataset({}, name=name, description={"Name": name, "BIDSVersion": "1.9.0"})
            for name in ("one", "two")
        )
        write_dataset_files(tmp_path / "out", one, environment={})
        (warning,) = check_directories(two, tmp_path / "out", tmp_path / "work")
        assert "lesions of one”, but this run writes “bids_msseg: multiple-scl" in warning
        assert check_directories(one, tmp_path / "out", tmp_path / "work") == ()
        nowhere = tmp_path / "nowhere"
        assert check_directories(nowhere, tmp_path / "out", tmp_path / "work") == ()

    def test_outputs_of_same_dataset_are_accepted(
        self, make_dataset: MakeDataset, tmp_path: Path
    ) -> None:
        bids = make_dataset({}, name="bids")
        write_dataset_files(tmp_path / "out", bids, environment={})
        assert check_directories(bids, tmp_path / "out", tmp_path / "work") == ()

    def test_invalid_derivatives_folder_name_gives_a_warning(
        self, make_dataset: MakeDataset, tmp_path: Path
    ) -> None:
        bids = make_dataset({}, name="bids")
        (warning,) = check_directories(bids, bids / "derivatives/lesions", tmp_path / "work")
        assert "will not pass the validator" in warning

    def test_output_path_that_is_a_file_is_refused(
        self, make_dataset: MakeDataset, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(CannotCreateError, match="output folder"):
            check_directories(make_dataset({}), tmp_path / "file", tmp_path / "work")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_read_only_output_folder_is_refused(
        self, make_dataset: MakeDataset, tmp_path: Path
    ) -> None:
        (tmp_path / "out").mkdir(mode=0o500)
        with pytest.raises(CannotCreateError, match="Permission denied"):
            check_directories(make_dataset({}), tmp_path / "out", tmp_path / "work")
