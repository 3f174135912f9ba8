from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_msseg.config import RunConfig
from bids_msseg.config_parts import Execution, Performance, Processing, Query
from bids_msseg.errors import UnknownLevelError, UsageError
from bids_msseg.options import DEFAULT_SPACES, SEGMENTERS
from bids_msseg.spaces import AtlasChoice, OutputSpace

POSITIONALS = {"bids_dir": "/bids", "output_dir": "/out", "levels": ["participant"]}


def _config(**options: object) -> RunConfig:
    return RunConfig.from_options(POSITIONALS | options)


# ---- strategies

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0."), min_size=1)
labels = st.lists(st.from_regex(r"[A-Za-z0-9+]{1,6}", fullmatch=True), unique=True).map(tuple)
spaces = st.sampled_from(DEFAULT_SPACES) | st.builds(
    OutputSpace, st.from_regex(r"MNI[A-Za-z0-9]{0,8}", fullmatch=True), st.none() | st.integers(1)
)
GRID = OutputSpace("qsm", None, "/a/sub-{subject}_x.nii.gz", "T1w")
ATLASES = tuple(
    map(AtlasChoice.parse, ("sides", "Schaefer2018:desc-100Parcels7Networks", "A=/a/x.nii:FLAIR"))
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text().filter(lambda text: text != "Query.NONE")
)
entities = st.dictionaries(st.text(), scalars | st.lists(scalars, max_size=3), max_size=3)
words = st.text() | st.booleans() | st.integers(0, 99) | st.lists(st.text(), max_size=3)
settings = st.dictionaries(st.from_regex(r"[a-z_]{1,9}", fullmatch=True), words, max_size=3)
filters = st.dictionaries(st.text().map(str.lower), entities, max_size=3)


def _paths(top: str) -> st.SearchStrategy[Path]:
    return st.lists(names, max_size=2).map(lambda parts: Path("/", top, *parts))


queries = st.builds(
    Query,
    participant_label=labels,
    session_label=labels,
    session_order=labels,
    exclude_participant_label=labels,
    ignore=st.sampled_from([(), ("t1w",), ("t2w", "t1w")]),
    bids_filters=filters,
    skip_bids_validation=st.booleans(),
    bids_database_dir=st.none() | _paths("db"),
    derivatives=st.dictionaries(st.text(min_size=1), _paths("derived"), max_size=2),
    lesion_masks=st.sampled_from([{}, {"drawn by hand": Path("/masks/{subject}.nii.gz")}]),
    exclude_masks=st.sampled_from([{}, {"infarcts of": Path("/infarcts")}]),
)
processings = st.builds(
    Processing,
    output_spaces=st.lists(spaces | st.just(GRID), min_size=1, unique=True).map(tuple),
    atlas=st.lists(st.sampled_from(ATLASES), unique=True).map(tuple),
    fill_lesions=st.booleans(),
    lesion_roi=st.booleans(),
    model=st.none() | names | _paths("model").map(str),
    segmenter=st.sampled_from(SEGMENTERS),
    segmenter_options=settings,
    threshold=st.none() | st.floats(0, 1, exclude_min=True, exclude_max=True),
    min_lesion_volume=st.floats(0, allow_infinity=False),
    mask_values=st.lists(st.integers(1, 999), unique=True).map(sorted).map(tuple),
    skull_stripped=st.sampled_from(["auto", "yes", "no"]),
    fast=st.booleans(),
    random_seed=st.integers(0, 2**32 - 1),
)
performances = st.builds(
    Performance,
    nprocs=st.none() | st.integers(1, 64),
    omp_nthreads=st.none() | st.integers(1, 8),
    mem_gb=st.none() | st.floats(0, exclude_min=True, allow_infinity=False),
    device=st.sampled_from(["auto", "cpu", "cuda", "cuda:1", "mps"]),
    use_plugin=st.none() | _paths("plugin"),
)
executions = st.builds(
    Execution,
    work_dir=st.none() | _paths("work"),
    clean_workdir=st.booleans(),
    clean_outputs=st.booleans(),
    threshold_sweep=st.booleans(),
    dry_run=st.booleans(),
    stop_on_first_crash=st.booleans(),
    resource_monitor=st.booleans(),
    verbose=st.integers(0, 3),
)
configs = st.builds(
    RunConfig,
    bids_dir=_paths("bids"),
    output_dir=_paths("out"),
    levels=st.sampled_from([("participant",), ("group",), ("participant", "group")]),
    query=queries,
    processing=processings,
    performance=performances,
    execution=executions,
)


# ---- TOML


@given(configs)
def test_toml_round_trip(config: RunConfig) -> None:
    assert RunConfig.from_toml(config.to_toml()) == config


def test_toml_has_ordered_tables_and_omits_unset_options() -> None:
    config = _config(
        threshold=0.4, participant_label=["01"], bids_filters={"flair": {"run": None}}
    )
    first, *rest = config.to_toml().splitlines()
    assert first.startswith("# bids_msseg 0.")
    document = tomllib.loads("\n".join(rest))
    assert list(document) == [
        "bids_dir", "output_dir", "levels", "query", "processing", "performance", "execution",
    ]  # fmt: skip
    assert document["query"]["bids_filters"] == {"flair": {"run": "Query.NONE"}}
    assert document["processing"]["output_spaces"][-1] == "MNI152NLin2009aSym:res-1"
    assert "nprocs" not in document["performance"], "found out on the machine that reads it"


@pytest.mark.parametrize(
    "text",
    [
        "threshold = 0.4",
        "[processing]\nthreshold = 0.4",
        "[processing]\nthreshold = '0.4'",
    ],
)
def test_toml_key_may_be_in_its_table_or_at_top_level(text: str) -> None:
    assert RunConfig.from_toml(text, overrides=POSITIONALS).processing.threshold == 0.4


def test_toml_keys_may_contain_dashes() -> None:
    config = RunConfig.from_toml("min-lesion-volume = 5", overrides=POSITIONALS)
    assert config.processing.min_lesion_volume == 5.0


def test_filter_file_of_command_line_overrides_that_of_toml(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(json.dumps({"flair": {"acquisition": name}}))
    text = f"[query]\nbids_filter_file = '{tmp_path / 'a'}'"
    config = RunConfig.from_toml(text, overrides=POSITIONALS)
    assert config.query.bids_filters == {"flair": {"acquisition": "a"}}
    other = {"bids_filter_file": str(tmp_path / "b")}
    config = RunConfig.from_toml(text, overrides=POSITIONALS | other)
    assert config.query.bids_filters == {"flair": {"acquisition": "b"}}


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("treshold = 1", "unknown option treshold in my.toml", "did you mean threshold?"),
        ("[processing]\nfsat = true", r"option fsat in \[processing\] of my.toml", "fast?"),
        ("[procesing]\nfast = true", "unknown option procesing in my.toml", "mean processing?"),
        (
            "[query]\nthreshold = 0.4",
            r"unknown option threshold in \[query\] of my.toml",
            "to [processing]",
        ),
        (
            "[query]\nlevels = ['group']",
            r"unknown option levels in \[query\] of my.toml",
            "before all",
        ),
        ("threshold = 2", "threshold in my.toml: 2", "between 0 and 1"),
        ("fast = 'yes'", "fast in my.toml: yes", "true or false"),
        ("[processing]\noutput_spaces = []", r"output_spaces in my.toml: \[\]", "at least one"),
        ("levels = []", r"levels in my.toml: \[\]", "participant or group"),
        ("threshold = \nfast = true", "my.toml is not valid TOML: .*line 1", "correct"),
        ("processing = 3", "unknown option processing in my.toml", "correct"),
    ],
)
def test_toml_errors_name_the_option_and_give_a_hint(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        RunConfig.from_toml(text, overrides=POSITIONALS, source="my.toml")
    assert hint in error.value.hint


PRECEDENCE: list[tuple[str, str, object, object]] = [
    # option, in the file, on the command line, default
    ("threshold", "0.4", "0.6", None),
    ("min_lesion_volume", "5", "0", 3.0),
    ("output_spaces", '["T1w"]', ["FLAIR"], DEFAULT_SPACES),
    ("participant_label", '["01"]', ["sub-02"], ()),
    ("fast", "true", False, False),
    ("fast", "false", True, False),
    ("nprocs", "4", "2", None),
    ("device", '"cpu"', "cuda:0", "auto"),
    ("work_dir", '"/w"', "/v", None),
    ("verbose", "2", 1, 0),
    ("derivatives", '{a = "/a"}', ["b=/b"], {}),
    ("lesion_masks", '{a = "/a"}', ["b=/b/{subject}.nii"], {}),
    ("exclude_masks", '{a = "/a"}', ["b=/b"], {}),
    ("mask_values", "[5, 1]", ["7"], ()),
    ("segmenter", '"nnunet"', "samseg", "cascade"),
    ("segmenter_options", "{time-limit = 5}", {"time_limit": 7}, {}),
]


@pytest.mark.parametrize(("name", "text", "argument", "default"), PRECEDENCE)
def test_command_line_overrides_file_and_file_overrides_default(
    name: str, text: str, argument: object, default: object
) -> None:
    def value(config: RunConfig) -> object:
        parts = (config.query, config.processing, config.performance, config.execution)
        return next(getattr(part, name) for part in parts if hasattr(part, name))

    toml = f"{name} = {text}"
    in_file = value(RunConfig.from_toml(toml, overrides=POSITIONALS))
    on_command_line = value(_config(**{name: argument}))
    both = value(RunConfig.from_toml(toml, overrides=POSITIONALS | {name: argument}))
    assert value(_config()) == default
    assert both == on_command_line != in_file
    assert in_file != default or on_command_line != default


# ---- values


@pytest.mark.parametrize(
    ("text", "space"),
    [
        ("FLAIR", OutputSpace("FLAIR")),
        ("flair", OutputSpace("FLAIR")),
        ("t1W", OutputSpace("T1w")),
        ("anat", OutputSpace("T1w")),
        ("MNI152NLin2009cAsym", OutputSpace("MNI152NLin2009cAsym")),
        ("MNI152NLin2009cAsym:res-01", OutputSpace("MNI152NLin2009cAsym", 1)),
        ("OASIS30ANTs:res-2", OutputSpace("OASIS30ANTs", 2)),
        ("/a/x_dwi.nii.gz", OutputSpace("dwi", None, "/a/x_dwi.nii.gz")),
        ("/a/Chimap.nii:flair", OutputSpace("Chimap", None, "/a/Chimap.nii")),
        ("qsm=/a/sub-{subject}_x.nii.gz:anat", GRID),
    ],
)
def test_output_space_parsing(text: str, space: OutputSpace) -> None:
    assert OutputSpace.parse(text) == space
    assert OutputSpace.parse(str(space)) == space
    assert space.is_native == (space.name in ("FLAIR", "T1w"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "FLAIR:res-1",
        "T1w:res-1",
        "T2w",
        "t2",
        "anat:res-1",
        "MNI:res-",
        "MNI:res-0",
        "MNI:1",
        "MNI:res-x",
        "x.mgz",
        "x.nii.gz:T2w",
        "x.nii.gz:MNI152NLin6Asym",
        "sub-01_T1w.nii.gz",
        "flair=x.nii.gz",
        "_-.nii",
    ],
)
def test_invalid_output_space_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="value for --output-spaces") as error:
        _config(output_spaces=["FLAIR", text])
    assert error.value.hint.startswith("use ")


@pytest.mark.parametrize(
    ("texts", "accepted"),
    [
        (["/a/qsm.nii", "/a/qsm.nii:FLAIR"], 1),
        (["/a/qsm.nii", "/b/qsm.nii"], None),
        (["/a/qsm.nii", "/a/qsm.nii:T1w"], None),
        (["/a/MNI.nii", "MNI:res-2"], None),
        (["/a/qsm.nii", "b=/b/qsm.nii"], 2),
    ],
)
def test_grids_with_duplicate_names_are_refused(texts: list[str], accepted: int | None) -> None:
    if accepted is None:
        with pytest.raises(UsageError, match="value for --output-spaces"):
            _config(output_spaces=texts)
    else:
        assert len(_config(output_spaces=texts).processing.output_spaces) == accepted


def test_duplicate_output_spaces_are_removed() -> None:
    config = _config(output_spaces=["T1w", "t1w", "MNI:res-1", "MNI:res-01", "MNI:res-2"])
    assert [str(space) for space in config.processing.output_spaces] == [
        "T1w",
        "MNI:res-1",
        "MNI:res-2",
    ]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("threshold", ["0", "1", "-0.1", "nan", "x", True]),
        ("min_lesion_volume", ["-1", "inf", "x"]),
        ("random_seed", ["-1", "1.5", str(2**32)]),
        ("nprocs", ["0", "two"]),
        ("omp_nthreads", ["0"]),
        ("mem_gb", ["0", "8G"]),
        ("device", ["gpu", "mps:0", "cuda:", "cuda:x", "CPU", 0]),
        ("skull_stripped", ["maybe", True]),
        ("participant_label", ["sub-0_1"]),
        ("derivatives", [["name="], ["=/path"], ["/a/x", "x=/b"]]),
        ("ignore", [["flair"], ["bold"], 3]),
        ("bids_filters", [{"flair": 3}]),
    ],
)
def test_invalid_option_values_are_refused(name: str, values: list[object]) -> None:
    flag = {"bids_filters": "bids-filter-file"}.get(name, name.replace("_", "-"))
    for value in values:
        with pytest.raises(UsageError, match=f"--{flag}: "):
            _config(**{name: value})


@pytest.mark.parametrize(
    ("given_model", "expected"),
    [
        ("default", "default"),
        ("/weights/site.safetensors", "/weights/site.safetensors"),
        ("site.safetensors", str(Path("site.safetensors").absolute())),
        ("models/site", str(Path("models/site").absolute())),
    ],
)
def test_model_path_becomes_absolute_and_name_is_kept(given_model: str, expected: str) -> None:
    assert _config(model=given_model).processing.model == expected


def test_freesurfer_atlas_requires_freesurfer_derivatives() -> None:
    with pytest.raises(UsageError) as error:
        _config(atlas=["aparc+aseg"])
    assert "freesurfer=" in error.value.hint
    config = _config(atlas=["aparc+aseg"], derivatives=["freesurfer=/fs"])
    assert config.processing.atlas[0].kind == "freesurfer"


def test_levels_are_ordered_without_duplicates() -> None:
    config = RunConfig.from_options(POSITIONALS | {"levels": ["group", "participant", "group"]})
    assert config.levels == ("participant", "group")


@pytest.mark.parametrize(
    ("word", "level"),
    [("subject", "participant"), ("session", "participant"), ("dataset", "group")],
)
def test_level_aliases_are_accepted(word: str, level: str) -> None:
    assert RunConfig.from_options(POSITIONALS | {"levels": [word]}).levels == (level,)
    text = f"levels = ['{word}']"
    folders = {name: POSITIONALS[name] for name in ("bids_dir", "output_dir")}
    assert RunConfig.from_toml(text, overrides=folders).levels == (level,)


def test_unknown_level_is_refused() -> None:
    with pytest.raises(UnknownLevelError, match="analysis level cohort"):
        RunConfig.from_options(POSITIONALS | {"levels": ["cohort"]})
    with pytest.raises(UnknownLevelError):
        RunConfig(Path("/bids"), Path("/out"), ("cohort",))  # type: ignore[arg-type]


def test_error_names_missing_positional_arguments() -> None:
    with pytest.raises(UsageError, match="output_dir, levels"):
        RunConfig.from_options({"bids_dir": "/bids"})


@pytest.mark.parametrize(
    "modes",
    [
        {"dry_run": True, "reports_only": True},
        {"reports_only": True, "boilerplate_only": True},
    ],
)
def test_run_modes_cannot_be_combined(modes: dict[str, bool]) -> None:
    with pytest.raises(UsageError, match="cannot be combined"):
        _config(**modes)


# ---- folders


def test_work_folder_is_in_output_folder_by_default() -> None:
    assert _config().work_dir == Path("/out/.work")
    assert _config(work_dir="/scratch/w").work_dir == Path("/scratch/w")


def test_relative_folders_become_absolute() -> None:
    config = RunConfig.from_options(POSITIONALS | {"bids_dir": "in", "output_dir": "out"})
    assert (config.bids_dir, config.output_dir) == (Path.cwd() / "in", Path.cwd() / "out")


def test_output_folder_may_be_in_derivatives_of_dataset() -> None:
    options = POSITIONALS | {"output_dir": "/bids/derivatives/bids_msseg"}
    assert RunConfig.from_options(options).work_dir == Path("/bids/derivatives/bids_msseg/.work")


def test_output_folder_equal_to_dataset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bids").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "bids")
    with pytest.raises(UsageError, match="is the dataset itself"):
        RunConfig(tmp_path / "bids", tmp_path / "link", ("group",))


def test_work_folder_in_dataset_is_refused() -> None:
    with pytest.raises(UsageError, match="is in the dataset"):
        _config(work_dir="/bids/work")
    with pytest.raises(UsageError, match="is in the dataset"):
        _config(work_dir="/out/../bids")


# ---- fingerprint

CHANGES: dict[str, object] = {
    "model": "other",
    "threshold": 0.4,
    "min_lesion_volume": 5,
    "skull_stripped": "yes",
    "fast": True,
    "random_seed": 1,
    "output_spaces": ["FLAIR"],
    "atlas": ["sides", "/a/x.nii.gz:T1w"],
    "fill_lesions": True,
    "lesion_roi": True,
    "mask_values": [1],
    "segmenter": "samseg",
    "segmenter_options": {"name": "other"},
}
KEEPS: dict[str, object] = {
    "participant_label": ["01"],
    "session_order": ["pre", "post"],
    "clean_outputs": True,
    "threshold_sweep": True,
    "lesion_masks": ["drawn=/masks"],
    "exclude_masks": ["infarct=/masks"],
    "exclude_participant_label": ["02"],
    "ignore": ["t1w"],
    "nprocs": 4,
    "omp_nthreads": 1,
    "mem_gb": 3,
    "work_dir": "/scratch",
    "dry_run": True,
    "verbose": 2,
    "stop_on_first_crash": True,
}


@pytest.mark.parametrize(("name", "value"), CHANGES.items())
def test_options_that_change_results_change_fingerprint(name: str, value: object) -> None:
    before, after = (
        config.analysis_fingerprint_options() for config in (_config(), _config(**{name: value}))
    )
    assert {key for key in before if before[key] != after[key]} == {name}


@pytest.mark.parametrize(("name", "value"), KEEPS.items())
def test_options_without_effect_on_results_keep_fingerprint(name: str, value: object) -> None:
    changed = _config(**{name: value}).analysis_fingerprint_options()
    assert changed == _config().analysis_fingerprint_options()


@given(processings)
def test_fingerprint_survives_json(processing: Processing) -> None:
    options: dict[str, Any] = dataclasses.replace(
        _config(), processing=processing
    ).analysis_fingerprint_options()
    assert json.loads(json.dumps(options)) == options
