"""msseg-evaluate on derivatives small enough to check by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_msseg.bids.files import load_tsv
from bids_msseg.cli import evaluate
from bids_msseg.errors import DataError, ExitCode, NoInputError
from bids_msseg.evaluation import tables as evaluation_tables
from bids_msseg.evaluation.case import Rules, read_pair
from bids_msseg.evaluation.figures import Masks, figures, lesion_rows
from bids_msseg.evaluation.files import Choice, Places, find_pairs
from bids_msseg.evaluation.scoring import score
from bids_msseg.evaluation.text import describe, dictionary
from bids_msseg.imaging.volume import Volume
from bids_msseg.reports.evaluation.data import COHORT_STATISTICS, METRICS, TABLES, Case, Evaluation

SHAPE = (16, 14, 12)
AFFINE = np.array([[-2.0, 0, 0, 10], [0, 1, 0, -5], [0, 0, 3, 2], [0, 0, 0, 1]])
VOXEL = 6.0
FOUND, FOUND_LARGER = np.s_[2:4, 2:4, 2:4], np.s_[2:4, 2:5, 2:4]
MISSED, FALSE, TINY = np.s_[10:12, 2:4, 8], np.s_[10, 10, 2:4], np.s_[14, 12, 10]
Row = dict[str, str]


def save(path: Path, *boxes: tuple, value: float = 1, affine: np.ndarray = AFFINE) -> Path:
    data = np.zeros(SHAPE, np.float32)
    for box in boxes:
        data[box] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data if value != 1 else data.astype(np.uint8), affine), path)
    return path


def mask_path(root: Path, visit: str, middle: str = "_space-FLAIR_label-L") -> Path:
    return root.joinpath(*visit.split("_"), "anat", f"{visit}{middle}_mask.nii.gz")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two sites: sub-01 with everything, sub-02 with two empty masks, sub-03 with one."""
    auto, manual = tmp_path / "auto", tmp_path / "raw" / "derivatives" / "manual"
    save(mask_path(manual, "sub-01_ses-1"), FOUND, MISSED)
    save(mask_path(auto, "sub-01_ses-1"), FOUND_LARGER, FALSE)
    probseg = mask_path(auto, "sub-01_ses-1").with_name(
        "sub-01_ses-1_space-FLAIR_label-L_probseg.nii.gz"
    )
    save(probseg, FOUND_LARGER, FALSE, value=0.75)
    save(mask_path(manual, "sub-01_ses-1", "_space-FLAIR_desc-brain"), np.s_[1:15, 1:13, 1:11])
    for root in (auto, manual):
        save(mask_path(root, "sub-02"))
    save(mask_path(manual, "sub-03"), FOUND)
    save(mask_path(auto, "sub-03"))
    save(mask_path(manual, "sub-04"), FOUND)
    table = "participant_id\tsite\nsub-01\tA\nsub-02\tB\nsub-03\tB\nsub-04\tB\n"
    (tmp_path / "raw" / "participants.tsv").write_text(table)
    return tmp_path


def run(data: Path, *options: str, page: bool = False) -> tuple[int, dict[str, list[Row]]]:
    out = data / "out"
    places = [str(data / "auto"), str(data / "raw/derivatives/manual"), str(out)]
    extra = [] if page else ["--no-page"]
    code = evaluate.main([*places, "--nprocs", "1", *extra, *options])
    paths = {stem: out / f"{stem}.tsv" for stem in TABLES}
    return code, {stem: load_tsv(path) for stem, path in paths.items() if path.is_file()}


def only(rows: list[Row], **wanted: str) -> Row:
    (row,) = [one for one in rows if all(one[key] == value for key, value in wanted.items())]
    return row


def test_subject_measures_of_small_example(data: Path) -> None:
    """Manual 8 + 4 voxels, automatic 12 + 2, shared 8; of 6 mm³ each."""
    code, tables = run(data)
    assert code == 0
    row = only(tables["subjects"], name="sub-01_ses-1")
    assert (row["participant_id"], row["session_id"], row["site"]) == ("sub-01", "ses-1", "A")
    expected = {
        "dice": 16 / 26, "ppv": 8 / 14, "sensitivity": 8 / 12,
        "volume_manual_ml": 0.072, "volume_auto_ml": 0.084, "volume_difference_ml": 0.012,
        "volume_difference_relative": 2 / 12,
        "n_manual": 2, "n_found": 1, "n_missed": 1, "n_auto": 2, "n_true": 1, "n_false": 1,
        "lesion_sensitivity": 0.5, "lesion_ppv": 0.5, "lesion_f1": 0.5,
        "isbi_ltpr": 0.5, "isbi_lfpr": 0.5,
        "isbi_score": 4 / 3 * (16 / 26 / 8 + 8 / 14 / 8 + 1 / 4),
        "anima_default_f1": 0.5, "anima_paper_f1": 0.5,
        "ece": 0.75 - 8 / 14,
    }  # fmt: skip
    assert {name: float(row[name]) for name in expected} == pytest.approx(expected, rel=1e-4)
    brain, lesion = 14 * 12 * 10, 12
    factor = lesion / (brain - lesion) * 0.999 / 0.001
    assert float(row["ndsc"]) == pytest.approx(16 / (16 + 4 + factor * 6), rel=1e-4)
    # 4 missed manual voxels, and 14 voxels of probability 0.75, of which 8 are lesion
    wrong = 4 + abs(14 * 0.75 - 8)
    assert float(row["ece_brain"]) == pytest.approx(wrong / brain, rel=1e-4)


def test_lesion_table_has_one_row_per_lesion(data: Path) -> None:
    _, tables = run(data)
    rows = [row for row in tables["lesions"] if row["name"] == "sub-01_ses-1"]
    assert [(row["side"], row["index"], row["state"]) for row in rows] == [
        ("manual", "1", "found"), ("manual", "2", "missed"),
        ("auto", "1", "true"), ("auto", "2", "false"),
    ]  # fmt: skip
    found, missed, true, false = rows
    assert (found["volume_mm3"], found["size"], found["overlap_share"]) == ("48", "10-100", "1")
    assert (true["overlap_mm3"], true["partners"], true["n_partners"]) == ("48", "1", "1")
    assert (false["overlap_share"], false["partners"], false["size"]) == ("0", "n/a", "10-100")
    centre = AFFINE @ [10.5, 2.5, 8, 1]
    assert [float(missed[axis]) for axis in "xyz"] == pytest.approx(centre[:3].tolist())
    place = tuple(int(missed[axis]) for axis in "ijk")
    assert place in {(10, 2, 8), (10, 3, 8), (11, 2, 8), (11, 3, 8)}
    assert [row["mean_probability"] for row in rows] == ["0.75", "0", "0.75", "0.75"]
    assert missed["region"] == "n/a"


def test_measures_of_empty_masks_are_undefined(data: Path) -> None:
    _, tables = run(data)
    both, one = (only(tables["subjects"], name=name) for name in ("sub-02", "sub-03"))
    undefined = {"dice", "ppv", "sensitivity", "hd95_mm", "surface_dice_1mm", "lesion_f1"}
    assert {both[name] for name in undefined} == {"n/a"}
    assert both["isbi_score"] == "n/a"
    assert (one["dice"], one["ppv"], one["lesion_f1"], one["isbi_score"]) == ("0", "n/a", "0", "0")
    assert (one["hd95_mm"], one["surface_dice_1mm"]) == ("n/a", "0")
    dice = only(tables["sites"], site="B", metric="dice")
    assert (dice["mean"], dice["n_visits"], dice["n_undefined"]) == ("0", "1", "1")
    counts = {
        row["statistic"]: row["value"] for row in tables["cohort"] if row["name"] == "all sites"
    }
    assert (counts["n_both_empty"], counts["n_auto_empty"], counts["n_manual_empty"]) == (
        "1", "1", "0",
    )  # fmt: skip
    assert (counts["n_without_auto"], counts["n_without_manual"]) == ("1", "0")


def test_all_table_columns_exist_and_are_described(data: Path) -> None:
    _, tables = run(data)
    for stem, columns in TABLES.items():
        explained = json.loads((data / "out" / f"{stem}.json").read_text())
        assert list(tables[stem][0]) == list(explained) == list(columns)
        assert all(one["Description"] for one in explained.values())
    assert dictionary("subjects")["assd_mm"]["Units"] == "mm"
    assert dictionary("lesions")["volume_mm3"]["Units"] == "mm^3"
    assert set(dictionary("sites")["metric"]["Levels"]) == set(METRICS)
    assert set(dictionary("cohort")["statistic"]["Levels"]) == set(COHORT_STATISTICS)
    assert set(COHORT_STATISTICS) < set(describe()["cohort"])
    assert describe()["subjects"]["volume_auto_ml"] == "Volume of the automatic mask (mL)"
    known = json.loads((data / "out" / "evaluation.json").read_text())
    assert known["Manual"] == {"folder": "manual", "desc": None, "label": None, "space": "FLAIR"}


def test_strata_and_reliability_tables_of_small_example(data: Path) -> None:
    _, tables = run(data)
    middle = only(tables["strata"], scope="all", level="10-100")
    assert (middle["n_manual"], middle["n_found"], middle["n_auto"], middle["n_true"]) == (
        "3", "1", "2", "1",
    )  # fmt: skip
    assert middle["sensitivity_low"] == "n/a"
    assert not [row for row in tables["strata"] if row["stratum"] == "region"]
    bins = [row for row in tables["reliability"] if row["scope"] == "all"]
    assert [row["n_voxels"] for row in bins] == ["0"] * 7 + ["14"] + ["0"] * 2
    assert float(bins[7]["share_lesion"]) == pytest.approx(8 / 14, rel=1e-4)


def test_region_labels_are_used_if_present(data: Path) -> None:
    path = data / "auto/sub-01/ses-1/anat/sub-01_ses-1_space-FLAIR_seg-regions_dseg.nii.gz"
    save(path, np.s_[:, :, :], value=2)
    _, tables = run(data)
    rows = [row for row in tables["lesions"] if row["name"] == "sub-01_ses-1"]
    assert {row["region"] for row in rows} == {"juxtacortical"}
    assert {row["share_juxtacortical"] for row in rows} == {"1"}
    assert only(tables["strata"], scope="site", name="A", level="juxtacortical")["n_found"] == "1"


def test_small_lesions_count_in_volume_but_not_in_number(data: Path) -> None:
    save(mask_path(data / "auto", "sub-01_ses-1"), FOUND, TINY)
    _, tables = run(data, "--min-lesion-volume", "7")
    row = only(tables["subjects"], name="sub-01_ses-1")
    assert (row["n_auto"], row["volume_auto_ml"]) == ("1", "0.054")


def test_different_grids_are_refused_without_resample_option(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flipped = AFFINE @ np.array([[-1.0, 0, 0, 15], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[FOUND_LARGER], drawn[FALSE] = 1, 1
    path = mask_path(data / "auto", "sub-01_ses-1")
    _, before = run(data)
    nib.save(nib.Nifti1Image(drawn[::-1], flipped), path)
    assert run(data)[0] == ExitCode.DATA_ERROR
    assert "different grids: sub-01_ses-1" in capsys.readouterr().err
    code, after = run(data, "--resample")
    assert code == 0
    first, second = (only(t["subjects"], name="sub-01_ses-1") for t in (before, after))
    assert (first.pop("resampled"), second.pop("resampled")) == ("no", "yes")
    assert first == second
    pairing = find_pairs(Choice(data / "auto"), Choice(data / "raw/derivatives/manual"), Places())
    with pytest.raises(DataError, match="different grids"):
        read_pair(pairing.pairs[0], Rules())


def test_choice_matches_desc_and_label_of_file_names() -> None:
    assert Choice(Path()).takes("sub-01_space-FLAIR_label-L_mask.nii.gz")
    assert not Choice(Path()).takes("sub-01_space-FLAIR_label-L_desc-rater1_mask.nii.gz")
    assert Choice(Path(), desc="rater1").takes("sub-01_desc-rater1_mask.nii.gz")


def test_manual_desc_option_selects_rater(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manual = data / "raw/derivatives/manual"
    save(mask_path(manual, "sub-01_ses-1", "_space-FLAIR_desc-rater2"), FOUND_LARGER, FALSE)
    _, tables = run(data, "--manual-desc", "rater2")
    (row,) = tables["subjects"]
    assert row["dice"] == "1"
    assert run(data, "--manual-desc", "rater3")[0] == ExitCode.NO_INPUT
    assert "--manual-desc: rater2" in capsys.readouterr().err


def test_ambiguous_masks_of_one_visit_are_refused(data: Path) -> None:
    choices = Choice(data / "auto"), Choice(data / "raw/derivatives/manual")
    folder = choices[1].folder / "sub-03" / "anat"
    mask_path(choices[1].folder, "sub-03").unlink()
    for run_label in "12":
        save(folder / f"sub-03_run-{run_label}_space-FLAIR_label-L_mask.nii.gz", FOUND)
    with pytest.raises(DataError, match="several masks of one visit"):
        find_pairs(*choices, Places())
    save(data / "auto/sub-03/anat/sub-03_run-2_label-L_mask.nii.gz", FOUND)
    pair = find_pairs(*choices, Places()).pairs[-1]
    assert pair.manual.name == "sub-03_run-2_space-FLAIR_label-L_mask.nii.gz"
    assert pair.auto.name == "sub-03_run-2_label-L_mask.nii.gz"
    save(folder / "sub-03_run-2_label-L_mask.nii.gz", FOUND)
    with pytest.raises(DataError, match="several masks of one visit"):
        find_pairs(*choices, Places())


@pytest.mark.parametrize("start", ["c1_sub-03", "rsub-07", "brain_sub-03", "sub-07"])
def test_misnamed_masks_are_ignored_and_listed_once(
    data: Path, caplog: pytest.LogCaptureFixture, start: str
) -> None:
    choices = Choice(data / "auto"), Choice(data / "raw/derivatives/manual")
    before = find_pairs(*choices, Places())
    caplog.clear()
    odd = choices[1].folder / f"sub-03/anat/{start}_space-FLAIR_label-L_mask.nii.gz"
    save(odd, FALSE)
    assert find_pairs(*choices, Places()) == before
    assert caplog.text.count(odd.name) == 1


def test_sites_come_from_the_option_or_the_table(data: Path) -> None:
    choices = Choice(data / "auto"), Choice(data / "raw/derivatives/manual")
    named = find_pairs(*choices, Places()).pairs
    assert [pair.site for pair in named] == ["A", "B", "B"]
    assert {pair.site for pair in find_pairs(*choices, Places(site="C")).pairs} == {"C"}
    none = find_pairs(*choices, Places(site_column="scanner")).pairs
    assert {pair.site for pair in none} == {"one site"}


def test_missing_masks_raise_no_input_error(data: Path, tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="no visit has a mask both in"):
        find_pairs(Choice(data / "raw"), Choice(data / "auto"), Places())
    with pytest.raises(NoInputError, match="does not exist"):
        find_pairs(Choice(tmp_path / "nowhere"), Choice(data / "auto"), Places())


def test_invalid_output_folder_and_options_are_refused(data: Path) -> None:
    places = [str(data / "auto"), str(data / "raw/derivatives/manual")]
    assert evaluate.main([*places, str(data / "auto")]) == ExitCode.USAGE
    assert evaluate.main([*places, str(data / "out"), "--nprocs", "0"]) == ExitCode.USAGE
    assert evaluate.main(["--nonsense"]) == ExitCode.USAGE


def test_missing_package_is_a_usage_error_without_output(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", {"torch": 1}.get)
    places = [str(data / "auto"), str(data / "raw/derivatives/manual")]
    assert evaluate.main([*places, str(data / "out")]) == ExitCode.USAGE
    assert "bids_msseg[evaluate]" in capsys.readouterr().err
    assert not (data / "out").exists()


def test_page_receives_all_cases_with_their_rows(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flair = data / "raw/sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz"
    save(flair, np.s_[:, :, :], value=7)
    seen: list[Evaluation] = []

    def write_page(result: Evaluation, out: Path) -> Path:
        seen.append(result)
        return out / "evaluation.html"

    monkeypatch.setattr("bids_msseg.reports.evaluation.report.write_page", write_page)
    code, _ = run(data, page=True)
    assert code == 0
    result = seen[0]
    assert result.title == "auto against manual"
    cases: list[Case] = list(result.cases())
    assert [case.name for case in cases] == ["sub-01_ses-1", "sub-02", "sub-03"]
    assert len(list(result.cases())) == 3
    first = cases[0]
    assert first.image is not None
    assert (first.image == 7).all()
    assert cases[1].image is None
    assert first.brain is not None
    for row in first.lesion_rows:
        labels = first.manual_labels if row["side"] == "manual" else first.auto_labels
        assert labels[row["i"], row["j"], row["k"]] == row["index"]
        assert int((labels == row["index"]).sum()) == row["n_voxels"]
    assert first.subject_row == result.tables["subjects"][0]


def test_results_do_not_depend_on_number_of_processes(data: Path) -> None:
    _, one = run(data)
    _, two = run(data, "--nprocs", "2")
    assert one == two


def test_training_score_equals_evaluation_measures() -> None:
    rng = np.random.default_rng(0)
    auto, manual = (rng.random(SHAPE) < 0.2 for _ in range(2))
    found = figures(Masks.of(auto, manual, AFFINE))
    scored = score(auto, Volume(manual.astype(np.float32), AFFINE), visit="", site="", method="")
    for name in ("dice", "ppv", "sensitivity", "lesion_f1", "lesion_ppv"):
        assert getattr(scored, name) == found[name]
    assert scored.false_components == found["n_false"]


def test_lesion_row_voxel_lies_inside_hollow_lesion() -> None:
    ring = np.zeros((9, 9, 3), bool)
    ring[1:8, 1:8, 1] = True
    ring[2:7, 2:7, 1] = False
    (row, _) = lesion_rows(Masks.of(ring, ring, np.eye(4)))
    assert ring[row["i"], row["j"], row["k"]]
    assert (row["x"], row["y"], row["z"]) == (4, 4, 1)
    assert math.isnan(row["max_probability"])


@pytest.mark.realdata
def test_measures_do_not_depend_on_field_of_view(shared_data: Path) -> None:
    folder = shared_data / "label-maps" / "lesion-masks"
    image = nib.load(sorted(folder.glob("*mask.nii.gz"))[0])
    manual = np.asarray(image.dataobj) > 0
    auto = np.roll(manual, 1, axis=0)
    affine = np.asarray(image.affine)
    moved = affine.copy()
    moved[:3, 3] -= affine[:3, :3] @ [5, 5, 5]
    plain = figures(Masks.of(auto, manual, affine))
    padded = figures(Masks.of(np.pad(auto, 5), np.pad(manual, 5), moved))
    assert padded == pytest.approx(plain, nan_ok=True)


def test_volume_statistics_of_five_patients_have_intervals(tmp_path: Path) -> None:
    shift: Callable[[int], tuple] = lambda n: np.s_[2 : 4 + n, 2:4, 2:4]  # noqa: E731
    for number in range(1, 6):
        save(mask_path(tmp_path / "raw/derivatives/manual", f"sub-{number:02d}"), shift(number))
        save(mask_path(tmp_path / "auto", f"sub-{number:02d}"), shift(number + number % 2))
    _, tables = run(tmp_path)
    found = {row["statistic"]: row for row in tables["cohort"] if row["scope"] == "all"}
    # 2 + n + n % 2 against 2 + n slabs of four voxels
    auto, manual = np.array([4, 4, 6, 6, 8]) * 24 / 1000, np.array([3, 4, 5, 6, 7]) * 24 / 1000
    expected = np.corrcoef(auto, manual)[0, 1]
    assert float(found["pearson_r"]["value"]) == pytest.approx(expected, rel=1e-4)
    assert float(found["bland_altman_bias_ml"]["value"]) == pytest.approx(0.0144, rel=1e-4)
    assert float(found["icc_2_1"]["low"]) < float(found["icc_2_1"]["value"])
    mean = only(tables["sites"], site="all sites", metric="volume_difference_ml")
    bias = found["bland_altman_bias_ml"]
    assert (mean["mean"], mean["low"], mean["high"]) == (bias["value"], bias["low"], bias["high"])
    scores = [float(row["isbi_score"]) for row in tables["subjects"]]
    cohort = float(found["isbi_score"]["value"])
    assert cohort == pytest.approx(0.75 * np.mean(scores) + 0.25 * expected, rel=1e-4)


def test_tables_without_cases_are_empty() -> None:
    tables = evaluation_tables.all_tables([], {}, {})
    assert tables["subjects"] == []
    assert tables["reliability"] == []


@pytest.mark.parametrize(
    ("options", "voxels"),
    [
        ([], 12),
        (["--mask-values", "any"], 12),
        (["--mask-values", "5"], 4),
        (["--mask-values", "1"], 8),
        (["--mask-values", "1", "5"], 12),
    ],
)
def test_mask_values_option_selects_manual_labels(
    data: Path, capsys: pytest.CaptureFixture[str], options: list[str], voxels: int
) -> None:
    path = mask_path(data / "raw/derivatives/manual", "sub-01_ses-1")
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[FOUND], drawn[MISSED] = 1, 5
    nib.save(nib.Nifti1Image(drawn, AFFINE), path)
    code, tables = run(data, *options)
    assert code == 0
    row = only(tables["subjects"], name="sub-01_ses-1")
    assert float(row["volume_manual_ml"]) == pytest.approx(voxels * VOXEL / 1000)
    chosen = bool(options) and options[1] != "any"
    assert ("sub-01_ses-1: " in capsys.readouterr().err) != chosen
    rules = json.loads((data / "out/evaluation.json").read_text())["Rules"]
    assert rules["mask_values"] == ([int(word) for word in options[1:]] if chosen else None)


@pytest.mark.parametrize("side", ["auto", "raw/derivatives/manual"])
@pytest.mark.parametrize("values", [(0.1, 0.2), (0.3, 0.45), (0.01, 0.49)])
def test_mask_with_all_values_below_half_is_refused(
    data: Path, capsys: pytest.CaptureFixture[str], side: str, values: tuple[float, float]
) -> None:
    weak = np.zeros(SHAPE, np.float32)
    weak[FOUND], weak[MISSED] = values
    nib.save(nib.Nifti1Image(weak, AFFINE), mask_path(data / side, "sub-01_ses-1"))
    assert run(data)[0] == ExitCode.DATA_ERROR
    assert "exceeds 0.5" in capsys.readouterr().err


@pytest.mark.parametrize("value", [0.1, 0.4, 200])
def test_any_single_mask_value_counts_as_lesion(data: Path, value: float) -> None:
    _, before = run(data)
    save(mask_path(data / "auto", "sub-01_ses-1"), FOUND_LARGER, FALSE, value=value)
    _, after = run(data)
    assert after == before


@pytest.mark.parametrize(
    ("side", "space", "option"),
    [
        ("auto", "MNI152NLin2009aSym", "--auto-space: MNI152NLin2009aSym"),
        ("auto", "T1w", "--auto-space: T1w"),
        ("raw/derivatives/manual", "T1w", "--manual-space: T1w"),
    ],
)
def test_error_names_option_for_masks_in_another_space(
    data: Path, capsys: pytest.CaptureFixture[str], side: str, space: str, option: str
) -> None:
    for path in sorted((data / side).rglob("*label-L_mask.nii.gz")):
        path.rename(path.with_name(path.name.replace("space-FLAIR", f"space-{space}")))
    assert run(data)[0] == ExitCode.NO_INPUT
    log = capsys.readouterr().err
    assert option in log
    other = "--manual-space" if side == "auto" else "--auto-space"
    assert other not in log
    name = "auto" if side == "auto" else "manual"
    code, _ = run(data, f"--{name}-space", space)
    assert code == 0


def test_grid_error_names_option_for_other_spaces(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = mask_path(data / "auto", "sub-01_ses-1")
    save(path, FOUND, affine=AFFINE @ np.diag([1, 1, 2, 1]))
    assert run(data)[0] == ExitCode.DATA_ERROR
    assert "--auto-space" not in capsys.readouterr().err
    save(mask_path(data / "auto", "sub-01_ses-1", "_space-T1w_label-L"), FOUND)
    save(mask_path(data / "auto", "sub-01_ses-1", "_space-T2w_label-L_desc-rejected"), FOUND)
    assert run(data)[0] == ExitCode.DATA_ERROR
    log = capsys.readouterr().err
    assert "--auto-space: T1w" in log
    assert "T2w" not in log


def _other(data: Path) -> Path:
    """Masks of another segmenter: perfect in sub-01, empty in sub-03, missing in sub-02."""
    other = data / "other" / "auto"
    save(mask_path(other, "sub-01_ses-1"), FOUND, MISSED)
    save(mask_path(other, "sub-03"))
    return other


def compare_segmenters(data: Path, *words: str) -> list[Row]:
    code, _ = run(data, "--compare-with", *words)
    assert code == 0
    return load_tsv(data / "out/segmenters.tsv")


@pytest.mark.parametrize("name", ["", "perfect="])
def test_segmenters_are_compared_on_common_visits(data: Path, name: str) -> None:
    """Two visits have masks of both; Dice is 16/26 and 1 in the one, 0 and 0 in the other."""
    rows = compare_segmenters(data, f"{name}{_other(data)}")
    second = name.removesuffix("=") or "auto-2"
    assert [row["segmenter"] for row in rows] == ["auto"] * len(METRICS) + [second] * len(METRICS)
    first, other = (only(rows, segmenter=one, metric="dice") for one in ("auto", second))
    assert [(row["n_patients"], row["n_visits"]) for row in (first, other)] == [("2", "2")] * 2
    assert float(first["mean"]) == pytest.approx(16 / 26 / 2, rel=1e-4)
    assert float(other["mean"]) == pytest.approx(0.5)
    assert (first["difference"], first["n_paired"]) == ("n/a", "0")
    assert float(other["difference"]) == pytest.approx((1 - 16 / 26) / 2, rel=1e-4)
    assert (other["difference_low"], other["n_paired"]) == ("n/a", "2")
    # where the automatic mask is empty, PPV is not defined
    ppv = only(rows, segmenter=second, metric="ppv")
    assert (ppv["n_visits"], ppv["n_paired"]) == ("1", "1")
    assert float(ppv["difference"]) == pytest.approx(1 - 8 / 14, rel=1e-4)
    explained = json.loads((data / "out/segmenters.json").read_text())
    assert list(explained) == list(rows[0]) == list(dictionary("segmenters"))
    known = json.loads((data / "out/evaluation.json").read_text())
    assert known["Segmenters"] == ["auto", second]


def test_single_segmenter_writes_no_segmenters_table(data: Path) -> None:
    run(data)
    assert not (data / "out/segmenters.tsv").exists()
    assert json.loads((data / "out/evaluation.json").read_text())["Segmenters"] == []


def test_other_tables_contain_only_first_segmenter(data: Path) -> None:
    _, alone = run(data)
    _, together = run(data, "--compare-with", str(_other(data)))
    assert together == alone


def test_differences_of_five_patients_have_an_interval(tmp_path: Path) -> None:
    """The second segmenter finds twice as many voxels in every patient."""
    for number in range(1, 6):
        name = f"sub-{number:02d}"
        save(mask_path(tmp_path / "raw/derivatives/manual", name), FOUND_LARGER)
        save(mask_path(tmp_path / "auto", name), np.s_[2:4, 2:3, 2:4])
        save(mask_path(tmp_path / "more", name), FOUND)
    rows = compare_segmenters(tmp_path, str(tmp_path / "more"))
    row = only(rows, segmenter="more", metric="sensitivity")
    ends = [float(row[end]) for end in ("difference", "difference_low", "difference_high")]
    assert ends == pytest.approx([1 / 3] * 3, rel=1e-4)


def test_invalid_compare_with_arguments_are_refused(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = data / "other"
    save(mask_path(other, "sub-04"), FOUND)
    assert run(data, "--compare-with", str(other))[0] == ExitCode.NO_INPUT
    assert "from every segmenter (auto, other)" in capsys.readouterr().err
    assert run(data, "--compare-with", "x=")[0] == ExitCode.USAGE
    assert run(data, "--compare-with", f"x={other}", f"x={other}")[0] == ExitCode.USAGE
    assert run(data, "--compare-with", str(data / "out"))[0] == ExitCode.USAGE
    assert run(data, "--compare-with", str(data / "nowhere"))[0] == ExitCode.NO_INPUT
