from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.cli.demo import main
from bids_msseg.demo.brain import (
    Brain,
    Maps,
    load_maps,
    make_brain,
    smooth_distance,
    smooth_field,
    upsample,
)
from bids_msseg.demo.dataset import (
    RESOLUTIONS,
    DemoOptions,
    plan,
    write_demo,
)
from bids_msseg.demo.head import add_head
from bids_msseg.demo.scan import (
    Grid,
    Protocol,
    average_over_voxels,
    half_maximum,
    lay_grid,
    random_pose,
    record,
    reorient,
    rotation,
)
from bids_msseg.demo.score import TITLE, score
from bids_msseg.errors import CannotCreateError, DataError, ExitCode, NoInputError
from bids_msseg.imaging.template import load_template
from bids_msseg.imaging.volume import Volume, load_volume, save_volume

Issues = Callable[[Path], list[dict[str, Any]]]
FLAIR = RESOLUTIONS["coarse"].protocols[0]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One participant, two sessions, brain only, coarse."""
    out = tmp_path_factory.mktemp("demo") / "bids"
    write_demo(DemoOptions(out, seed=3, grid="coarse", participants=1, heads="none"))
    return out


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dataset that ``msseg-demo OUT --grid coarse`` writes."""
    out = tmp_path_factory.mktemp("full") / "bids"
    assert main([str(out), "--grid", "coarse"]) == ExitCode.SUCCESS
    return out


@pytest.fixture(scope="module")
def maps() -> Maps:
    return load_maps(load_template())


@pytest.fixture(scope="module")
def brain(maps: Maps) -> Brain:
    return make_brain(maps, np.random.default_rng(1))


def truth_of(out: Path, visit: str, kind: str = "label-L") -> Path:
    folder = out / "derivatives" / "truth" / Path(*visit.split("_")) / "anat"
    return folder / f"{visit}_space-FLAIR_{kind}_mask.nii.gz"


def image_of(out: Path, visit: str, contrast: str) -> Path:
    return out / Path(*visit.split("_")) / "anat" / f"{visit}_{contrast}.nii.gz"


def contents(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()
    }


class TestDataset:
    def test_bids_validator_reports_no_issues(self, demo: Path, bids_issues: Issues) -> None:
        assert bids_issues(demo) == []
        assert bids_issues(demo / "derivatives" / "truth") == []

    def test_same_seed_gives_identical_files(self, demo: Path, tmp_path: Path) -> None:
        again = tmp_path / "bids"
        write_demo(DemoOptions(again, seed=3, grid="coarse", participants=1, heads="none"))
        assert contents(again) == contents(demo)

    def test_lesions_are_brighter_than_surrounding_tissue(self, demo: Path) -> None:
        flair = load_volume(image_of(demo, "sub-01_ses-1", "FLAIR"))
        truth = load_volume(truth_of(demo, "sub-01_ses-1")).data > 0
        brain = load_volume(truth_of(demo, "sub-01_ses-1", "desc-brain")).data > 0
        labels, count = ndimage.label(truth, np.ones((3, 3, 3)))
        assert count >= 10
        brighter = []
        for number in range(1, count + 1):
            distance = ndimage.distance_transform_edt(labels != number, sampling=flair.spacing)
            shell = (distance > 2) & (distance <= 5) & brain & ~truth
            inside = flair.data[labels == number].mean()
            brighter.append(inside > np.median(flair.data[shell]))
        assert np.mean(brighter) >= 0.9

    def test_shifted_truth_mask_has_lower_mean_intensity(self, demo: Path) -> None:
        flair = load_volume(image_of(demo, "sub-01_ses-1", "FLAIR")).data
        truth = load_volume(truth_of(demo, "sub-01_ses-1")).data > 0

        def mean_under(shift: int, axis: int) -> float:
            return float(flair[np.roll(truth, shift, axis)].mean())

        here = mean_under(0, 0)
        assert all(here > mean_under(shift, axis) for shift in (-1, 1) for axis in range(3))

    def test_second_visit_has_larger_lesion_load(self, demo: Path) -> None:
        first, second = (
            load_volume(truth_of(demo, f"sub-01_ses-{session}")) for session in (1, 2)
        )
        loads = [float(v.data.sum() * v.voxel_volume / 1000) for v in (first, second)]
        assert 1.02 < loads[1] / loads[0] < 1.8

    def test_background_of_a_brain_without_head_is_zero(self, demo: Path) -> None:
        flair = load_volume(image_of(demo, "sub-01_ses-1", "FLAIR"))
        brain = load_volume(truth_of(demo, "sub-01_ses-1", "desc-brain")).data > 0
        assert not flair.data[~brain].any()
        assert np.mean(flair.data[brain] > 0) > 0.99
        sidecar = json.loads(
            (demo / "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.json").read_text(encoding="utf-8")
        )
        assert sidecar["SkullStripped"] is True

    def test_contrasts_differ_in_grid_and_axes(self, demo: Path) -> None:
        images = [nib.load(image_of(demo, "sub-01_ses-1", c)) for c in ("FLAIR", "T1w", "T2w")]
        assert len({tuple(np.round(sorted(i.header.get_zooms()), 2)) for i in images}) == 3
        assert ["".join(nib.aff2axcodes(i.affine)) for i in images] == ["LAS", "PSR", "LPS"]
        for image in images:
            assert image.get_data_dtype() == np.int16
            slope, _ = image.header.get_slope_inter()
            assert slope is None or slope != 1.0
            np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)

    def test_truth_sidecar_describes_mask(self, demo: Path) -> None:
        path = truth_of(demo, "sub-01_ses-1")
        sidecar = json.loads(
            path.with_name(path.name.replace(".nii.gz", ".json")).read_text(encoding="utf-8")
        )
        flair = "bids:raw:sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz"
        assert sidecar["Type"] == "Lesion"
        assert sidecar["Manual"] is False
        assert sidecar["SpatialReference"] == flair
        assert sidecar["Sources"] == [flair]
        assert "synthetic" in sidecar["Description"]


@pytest.mark.slow
class TestFullDataset:
    def test_default_dataset_has_expected_visits_and_contrasts(self, full: Path) -> None:
        images = sorted(path.name for path in full.glob("sub-*/**/*.nii.gz"))
        assert images == [
            *(
                f"sub-01_ses-{session}_{contrast}.nii.gz"
                for session in (1, 2)
                for contrast in ("FLAIR", "T1w", "T2w")
            ),
            *(f"sub-02_{contrast}.nii.gz" for contrast in ("FLAIR", "T1w", "T2w")),
            *(f"sub-03_{contrast}.nii.gz" for contrast in ("FLAIR", "T1w")),
        ]

    def test_bids_validator_reports_no_issues(self, full: Path, bids_issues: Issues) -> None:
        assert bids_issues(full) == []
        assert bids_issues(full / "derivatives" / "truth") == []

    def test_brain_extraction_matches_truth_of_synthetic_head(self, full: Path) -> None:
        from bids_msseg.imaging.brain import extract_brain, is_skull_stripped

        flair = load_volume(image_of(full, "sub-03", "FLAIR"))
        truth = load_volume(truth_of(full, "sub-03", "desc-brain")).data > 0
        assert not is_skull_stripped(flair)
        found = extract_brain(flair)
        assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.96
        assert is_skull_stripped(load_volume(image_of(full, "sub-02", "FLAIR")))


class TestPlan:
    def test_defaults(self) -> None:
        people = plan(DemoOptions(Path("demo")))
        assert [p.head for p in people] == [True, False, True]
        assert [p.sessions for p in people] == [2, 1, 1]
        assert people[2].contrasts == ("FLAIR", "T1w")

    def test_plan_has_requested_number_of_participants(self) -> None:
        assert [p.label for p in plan(DemoOptions(Path("demo"), participants=1))] == ["sub-01"]
        many = plan(DemoOptions(Path("demo"), participants=12, heads="all"))
        assert len(many) == 12
        assert all(p.head and p.load > 0 for p in many)


class TestOutputFolder:
    def small(self, out: Path) -> DemoOptions:
        return DemoOptions(out, grid="coarse", participants=1, heads="none")

    def test_folder_with_other_content_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
        with pytest.raises(CannotCreateError, match="not empty"):
            write_demo(self.small(tmp_path))
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]

    def test_folder_of_another_dataset_is_refused(self, tmp_path: Path) -> None:
        text = json.dumps({"Name": "patients", "GeneratedBy": [{"Name": "scanner"}]})
        (tmp_path / "dataset_description.json").write_text(text, encoding="utf-8")
        assert main([str(tmp_path), "--grid", "coarse"]) == ExitCode.CANNOT_CREATE

    def test_file_as_output_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x", encoding="utf-8")
        assert main([str(tmp_path / "file")]) == ExitCode.CANNOT_CREATE

    def test_clear_removes_earlier_demo_and_keeps_other_derivatives(
        self, demo: Path, tmp_path: Path
    ) -> None:
        from bids_msseg.demo.files import clear

        out = tmp_path / "bids"
        shutil.copytree(demo, out)
        kept = out / "derivatives" / "mine" / "result.txt"
        kept.parent.mkdir()
        kept.write_text("x", encoding="utf-8")
        clear(out)
        assert kept.is_file()
        assert not list(out.glob("sub-*"))
        assert not (out / "derivatives" / "truth").exists()


class TestCommandLine:
    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["out", "--grid", "huge"],
            ["out", "--participants", "0"],
            ["out", "--seed", "-1"],
            ["score"],
            ["score", "only-one"],
        ],
    )
    def test_wrong_arguments_are_usage_errors(
        self, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(arguments) == ExitCode.USAGE
        assert "hint:" in capsys.readouterr().err

    def test_torch_is_not_loaded(self) -> None:
        code = "import sys, bids_msseg.cli.demo; sys.exit('torch' in sys.modules)"
        subprocess.run([sys.executable, "-c", code], check=True)


class TestScore:
    def masks(self, demo: Path, out: Path) -> list[Path]:
        """Copy the truth masks as predictions."""
        truth = demo / "derivatives" / "truth"
        copies = []
        for path in sorted(truth.rglob("*_label-L_mask.nii.gz")):
            target = out / path.relative_to(truth)
            target.parent.mkdir(parents=True)
            shutil.copyfile(path, target)
            copies.append(target)
        return copies

    def test_score_of_truth_masks_is_one(self, demo: Path, tmp_path: Path) -> None:
        self.masks(demo, tmp_path)
        table, complete = score(demo, tmp_path)
        title, heading, first, second, mean = table.splitlines()
        assert complete
        assert title == TITLE
        assert title.startswith("SYNTHETIC")
        assert heading.split()[:3] == ["visit", "Dice", "PPV"]
        assert first.split()[0] == "sub-01_ses-1"
        assert first.split()[1:5] == second.split()[1:5] == ["1.00"] * 4
        assert mean.startswith("mean of 2")

    def test_half_of_lesion_voxels_gives_half_sensitivity(
        self, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for path in self.masks(demo, tmp_path):
            mask = load_volume(path, np.uint8)
            mask.data[::2] = 0
            save_volume(mask, path)
        assert main(["score", str(demo), str(tmp_path)]) == ExitCode.SUCCESS
        row = capsys.readouterr().out.splitlines()[2].split()
        ppv, sensitivity, dice = float(row[2]), float(row[3]), float(row[1])
        assert ppv == 1.0
        assert 0.3 < sensitivity < 0.7
        assert dice == pytest.approx(2 * sensitivity / (1 + sensitivity), abs=0.02)

    def test_missing_visit_is_listed_and_changes_exit_code(
        self, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.masks(demo, tmp_path)[1].unlink()
        assert main(["score", str(demo), str(tmp_path)]) == ExitCode.NO_INPUT
        lines = capsys.readouterr().out.splitlines()
        assert lines[3].split() == ["sub-01_ses-2", *["n/a"] * 6]
        assert lines[4].startswith("mean of 1")

    def test_empty_mask_has_undefined_ppv(self, demo: Path, tmp_path: Path) -> None:
        for path in self.masks(demo, tmp_path):
            mask = load_volume(path, np.uint8)
            save_volume(mask.with_data(mask.data * 0), path)
        table, _ = score(demo, tmp_path)
        assert table.splitlines()[2].split()[1:5] == ["0.00", "n/a", "0.00", "0.00"]

    def test_missing_masks_missing_truth_or_other_grid_raise_error(
        self, demo: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(NoInputError, match="no mask"):
            score(demo, tmp_path)
        with pytest.raises(NoInputError, match="no synthetic ground truth"):
            score(tmp_path, demo)
        path = self.masks(demo, tmp_path)[0]
        mask = load_volume(path, np.uint8)
        save_volume(Volume(mask.data[1:], mask.affine), path)
        with pytest.raises(DataError, match="grid"):
            score(demo, tmp_path)


class TestBrain:
    def test_brain_volume_and_tissue_contrasts_are_realistic(self, brain: Brain) -> None:
        inside = brain.mask >= 0.5
        assert 1300 < inside.sum() / 1000 < 2100
        flair, t1w, t2w = brain.images
        for image in brain.images:
            assert image[inside].mean() == pytest.approx(0, abs=1e-3)
            assert image[inside].std() == pytest.approx(1, abs=1e-3)
        fluid = brain.terrain.fluid >= 0.9
        deep = brain.terrain.tissue & (brain.terrain.to_ventricle > 6)
        # dark fluid in FLAIR and T1w, bright in T2w; white matter brightest in T1w
        assert flair[fluid].mean() < -2 < flair[deep].mean()
        assert t1w[fluid].mean() < -1.5
        assert t1w[deep].mean() > 0.5
        assert t2w[fluid].mean() > 2

    def test_grey_matter_is_brighter_than_white_in_flair(self, brain: Brain) -> None:
        t1w = brain.images[1]
        inside = (brain.mask >= 0.99) & (brain.images[0] > -1)
        grey = inside & (t1w > -0.6) & (t1w < 0.1)
        white = inside & (t1w > 0.8)
        assert brain.images[0][grey].mean() > brain.images[0][white].mean() + 0.3

    def test_participants_differ(self, maps: Maps, brain: Brain) -> None:
        other = make_brain(maps, np.random.default_rng(2))
        one, two = brain.mask >= 0.5, other.mask >= 0.5
        dice = 2 * (one & two).sum() / (one.sum() + two.sum())
        assert 0.85 < dice < 0.985

    def test_smooth_fields_have_unit_power_and_are_smooth(self) -> None:
        field = smooth_field(np.random.default_rng(0), (80, 70, 60), 6.0)
        assert field.std() == pytest.approx(1, abs=0.1)
        assert np.abs(np.diff(field, axis=0)).max() < 1.0

    @given(st.tuples(*[st.integers(3, 12)] * 3))
    @settings(max_examples=30, deadline=None)
    def test_upsample_is_exact_for_linear_ramp(self, shape: tuple[int, int, int]) -> None:
        ramp = np.add.outer(np.add.outer(*(np.arange(n) for n in shape[:2])), np.arange(shape[2]))
        fine = upsample(ramp[::2, ::2, ::2].astype(np.float32), shape)
        odd = tuple(slice(n - 1 + n % 2) for n in shape)
        np.testing.assert_allclose(fine[odd], ramp[odd])

    def test_smooth_distance_is_close_to_euclidean_distance(self) -> None:
        target = np.zeros((40, 40, 40), bool)
        target[15:25, 15:25, 15:25] = True
        true = ndimage.distance_transform_edt(~target)
        assert np.abs(smooth_distance(target) - true).mean() < 1.0

    def test_add_head_surrounds_brain_and_keeps_its_intensities(self, brain: Brain) -> None:
        head = add_head(brain, np.random.default_rng(0))
        np.testing.assert_array_equal(head.brain[head.box], brain.mask)
        solid = brain.mask >= 1.0
        np.testing.assert_allclose(
            head.images[(0, *head.box)][solid], brain.images[0][solid], atol=1e-5
        )
        assert head.body.sum() > 1.8 * (brain.mask >= 0.5).sum()
        corner = np.linalg.inv(head.affine) @ brain.affine @ [0, 0, 0, 1]
        np.testing.assert_allclose(corner[:3], [side.start for side in head.box])


def blob(centre: tuple[float, float, float], sigma: float = 4.0) -> NDArray[np.float64]:
    grid = np.ogrid[:60, :60, :60]
    squares = sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True))
    return np.asarray(np.exp(-squares / (2 * sigma**2)), np.float64)


def centre_of(volume: Volume) -> NDArray[np.float64]:
    index = ndimage.center_of_mass(volume.data)
    return np.asarray((volume.affine @ [*index, 1.0])[:3], np.float64)


class TestScanner:
    @given(
        st.integers(0, 2**32),
        st.tuples(*[st.floats(0.8, 4.0)] * 3),
        st.floats(-15, 15),
    )
    @settings(max_examples=20, deadline=None)
    def test_scanned_object_lies_where_pose_moves_it(
        self, seed: int, spacing: tuple[float, float, float], tilt: float
    ) -> None:
        own = np.eye(4)
        own[:3, 3] = (-30, -25, -20)
        image = blob((28, 31, 33))
        protocol = Protocol("FLAIR", spacing, tilt, "RAS", 3.5, 0.0, 0.0)
        pose = random_pose(np.random.default_rng(seed))
        grid = lay_grid(image > 1e-4, own, protocol, pose)
        seen = average_over_voxels(image, own, grid)
        expected = pose @ [*(np.array([28, 31, 33]) + own[:3, 3]), 1.0]
        np.testing.assert_allclose(centre_of(seen), expected[:3], atol=0.35)
        # averaging preserves the total, except in voxels as large as the blob's SD of 4 mm
        assert seen.data.sum() * seen.voxel_volume == pytest.approx(image.sum(), rel=0.05)

    def test_thick_slice_shows_partial_volume_of_thin_object(self) -> None:
        image = np.zeros((20, 20, 20), np.float32)
        image[:, :, 9] = 1.0
        affine = np.diag([1.0, 1.0, 4.0, 1.0])
        affine[2, 3] = 1.5
        seen = average_over_voxels(image, np.eye(4), Grid((20, 20, 5), affine, np.eye(4)))
        np.testing.assert_allclose(seen.data[5, 5], [0, 0, 0.25, 0, 0])

    def test_field_of_view_contains_body(self) -> None:
        body = blob((25, 30, 35), sigma=8.0) > 0.1
        pose = random_pose(np.random.default_rng(4), degrees=10)
        grid = lay_grid(body, np.eye(4), FLAIR, pose)
        points = np.argwhere(body)
        seen = np.linalg.inv(grid.affine) @ pose
        index = points @ seen[:3, :3].T + seen[:3, 3]
        assert (index >= -0.5).all()
        assert (index <= np.array(grid.shape) - 0.5).all()

    def test_noise_is_rician_and_never_negative(self) -> None:
        protocol = Protocol("FLAIR", (2.0, 2.0, 2.0), 0.0, "RAS", 3.5, 0.2, 0.0)
        air = Volume(np.full((30, 30, 30), -9.0, np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
        seen = record(air, protocol, np.random.default_rng(0)).data
        assert seen.min() > 0
        # a Rayleigh distribution: mean over SD is sqrt(pi / (4 - pi))
        assert seen.mean() / seen.std() == pytest.approx(1.913, abs=0.03)

    @pytest.mark.parametrize("axes", ["RAS", "LPS", "PSR", "SLA"])
    def test_reorient_keeps_world_coordinates(self, axes: str) -> None:
        affine = rotation(0, 0.1) @ np.diag([1.0, 2.0, 3.0, 1.0])
        volume = Volume(blob((20, 30, 40)), affine)
        stored = reorient(volume, axes)
        assert "".join(nib.aff2axcodes(stored.affine)) == axes
        np.testing.assert_allclose(centre_of(stored), centre_of(volume), atol=1e-6)

    @given(arrays.arrays(np.float64, (5, 6, 4), elements=st.floats(0, 1)))
    def test_half_maximum_threshold_is_between_0_2_and_0_5(
        self, fraction: NDArray[np.float64]
    ) -> None:
        mask = half_maximum(fraction)
        assert mask[fraction > 0.5].all()
        assert not mask[fraction < 0.2].any()

    def test_half_maximum_keeps_lesion_of_partial_voxels_only(self) -> None:
        fraction = np.zeros((9, 9, 9))
        fraction[2:4, 2, 2], fraction[6, 6, 6], fraction[6, 6, 7] = 0.3, 1.0, 0.3
        mask = half_maximum(fraction)
        assert np.argwhere(mask).tolist() == [[2, 2, 2], [3, 2, 2], [6, 6, 6]]
