"""Page about outputs: every file of a whole run, every column of every table.

Files are those of ``tests/e2e/expected_outputs.txt``, which the whole-run test compares with the
files that are written; their descriptions come from the code that writes them. An unknown file or
a column without a description stops the build.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from site_text import cell, table

from bids_msseg.bids import sidecars
from bids_msseg.bids.change_tables import change_dictionary, code_table, codes_sidecar
from bids_msseg.bids.changes import CODES, pairs_of
from bids_msseg.bids.derivatives import OUTPUTS, Output, mask_in, single_images
from bids_msseg.bids.paths import ROI_FOLDER
from bids_msseg.bids.record import VisitRecord
from bids_msseg.bids.record_values import ModelUse
from bids_msseg.bids.visit import Visit
from bids_msseg.check.text import LESION_COLUMNS, VISIT_COLUMNS
from bids_msseg.evaluation.comparison import SHOWN
from bids_msseg.evaluation.consensus_files import LEFT_OUT_COLUMNS, RATER_COLUMNS
from bids_msseg.evaluation.scoring import COLUMNS as SCORES
from bids_msseg.evaluation.text import dictionary
from bids_msseg.lesions.load import column_dictionary
from bids_msseg.lesions.longitudinal.rows import ChangeRule
from bids_msseg.models.brain_volumes import LABEL_COLUMNS
from bids_msseg.reports.atlas import group_atlas_dictionary
from bids_msseg.reports.check import LoadLimits
from bids_msseg.reports.evaluation.data import COMPARED, TABLES
from bids_msseg.reports.group.cohort import summary_dictionary
from bids_msseg.reports.group.table import data_dictionary
from bids_msseg.reports.threshold_sweep import SWEEP_COLUMNS

ROOT = Path(__file__).resolve().parents[2]
EXPECTED = ROOT / "tests" / "e2e" / "expected_outputs.txt"
_IDENTITY = (
    (
        re.compile(r"(preproc_|registration|from-)(?:FLAIR|T1w|T2w)(?=$|\.|_FLAIR\.|_to-FLAIR)"),
        r"\1CONTRAST",
    ),
    (re.compile(r"desc-changes(?:Earlier|Later)?_FLAIR"), "desc-changes[Earlier,Later]_FLAIR"),
    (re.compile(r"_acq-[0-9a-zA-Z]+"), ""),
    (re.compile(r"_ses-[0-9a-zA-Z]+"), "[_ses-Y]"),
    (re.compile(r"/ses-[0-9a-zA-Z]+"), "[/ses-Y]"),
    (re.compile(r"from-ses[0-9a-zA-Z]+?FLAIR"), "from-sesVFLAIR"),
    (re.compile(r"sub-[0-9a-zA-Z]+"), "sub-X"),
)
_ORDER = (
    *(f"*{output.stem}" for output in OUTPUTS.values()),
    *("*changes*", "sub-X", "group*", "logs*", "*"),
)
_BY_HAND: Mapping[str, str] = {
    ".bidsignore": "files that the BIDS validator ignores, because BIDS has no rule for them yet",
    "README.md": "content of the folder, and the options of the latest run",
    "dataset_description": "marks the folder as a BIDS derivative dataset: program, version, "
    "container, licence and source",
    "descriptions": "meaning of the `desc-` labels",
    "group_lesions": "**the cohort**: one row per visit, also for failed visits, with the "
    "reason; the page has plots and thumbnails ([pages](../how-to/qc.md))",
    "group_lesions_frequency": "share of participants with a lesion at each place of the "
    "template, from two participants on",
    "group_lesions_summary": "loads of all visits, and by the columns of `participants.tsv`",
    "logs/CITATION.md": "methods text with references, for use in a paper",
    "logs/intermediate/*": "results of the steps before lesions are delineated, so that [another "
    "threshold](../how-to/thresholds.md) needs no networks; may be deleted",
    "logs/resources*": "with `--resource-monitor`: seconds, CPU seconds and GiB of every step",
    "logs/visits/*": "the record of a visit: inputs, options, model, timings, versions, and "
    "the reason for a failure",
    "sub-X": "**the page to check a participant** ([pages](../how-to/qc.md))",
    "*figures/*desc-changes*": "changes between two visits; `Earlier`, `Later`: one visit alone",
    "*_desc-changes_stats": "change of each lesion, one row per lesion and pair of visits "
    "([changes](../explanation/longitudinal.md))",
}
_ON_REQUEST = (
    (
        "--atlas",
        f"sub-X[/ses-Y]/anat/*_{OUTPUTS['atlases'].stem}",
        f"{cell(OUTPUTS['atlases'].description)} ([atlases](../how-to/atlases.md))",
    ),
    ("--atlas", "group_lesions_atlas", "load per region of each atlas, for all visits"),
    (
        "--fill-lesions",
        f"sub-X[/ses-Y]/anat/*_{OUTPUTS['filled'].stem}",
        f"{cell(OUTPUTS['filled'].description)} ([filling](../how-to/filling.md))",
    ),
    (
        "--threshold-sweep",
        "group_lesions_thresholds",
        "load and count at other thresholds ([thresholds](../how-to/thresholds.md))",
    ),
    (
        "--lesion-roi",
        f"{ROI_FOLDER}/sub-X[/ses-Y]/anat/*_T1w_label-lesion_roi.nii.gz",
        "lesion mask of the T1w for fMRIPrep ([other programs](../how-to/other_apps.md))",
    ),
    (
        "--output-spaces FILE",
        f"sub-X[/ses-Y]/anat/*_{mask_in('LABEL').stem}",
        cell(OUTPUTS["mask_in_space"].description)
        + " ([other programs](../how-to/other_apps.md))",
    ),
)
"""Option, file without its ending, content: what a run with default options does not write."""
_ATLAS_NOTE = (
    f"`*_{OUTPUTS['atlases'].stem}.tsv` of a visit has these columns without the first two."
)
_SCORES: Mapping[str, str] = {
    "visit": "Visit",
    "site": "Site of the visit",
    "method": "candidate net, cascade, or before (the starting weights)",
    "dice": "Dice, volume-wise",
    "ppv": "Positive predictive value: share of the mask's voxels that the expert marked",
    "sensitivity": "Share of the expert's voxels in the mask",
    "lesion_f1": "Harmonic mean of lesion_sensitivity and lesion_ppv",
    "lesion_sensitivity": "Share of the expert's lesions that the mask touches",
    "lesion_ppv": "Share of the mask's lesions that touch one of the expert's",
    "lesion_f1_anima": "lesion_f1 by the rule of Anima, with the defaults of its code",
    "false_components": "Lesions of the mask that touch none of the expert's",
    "load_ml": "Volume of the mask in mL",
    "truth_ml": "Volume that the expert marked in mL",
}
_INTRO = """# Outputs

`X` is the participant, `Y` the session (no folder and no entity in a dataset without sessions),
`V` the previous session, `CONTRAST` one of FLAIR, T1w, T2w. Names keep `acq-`, `ce-`, `rec-` and
`run-` of the FLAIR. Without a T1w there is no T1w grid.

A file is either complete or absent. Images on the FLAIR grid have its voxels as acquired. The list
is that of a whole run on the test dataset, which a test compares with the files that are written.
Descriptions and columns come from the code that writes the files.

Fewer files come with
[`--lesion-masks`](../how-to/given_masks.md#what-differs-in-the-outputs) and
[`--segmenter`](../how-to/other-segmenters.md#what-differs-from-the-cascade). Masks of
[`--exclude-masks`](../how-to/exclude.md#what-is-removed) change the content of files.
"""


def outputs_page() -> str:
    """Write the page.

    Returns
    -------
    str
        Markdown.

    Raises
    ------
    LookupError
        If a file or a column has no description.
    """
    return "\n".join((_INTRO, _files(), _image_keys(), _columns()))


def file_patterns(paths: Iterable[str]) -> dict[str, list[str]]:
    """Put the files of all participants and visits together.

    Parameters
    ----------
    paths : iterable of str
        Below OUT, with slashes.

    Returns
    -------
    dict of str to list of str
        Name without its ending, most important first, to endings.

    Examples
    --------
    >>> file_patterns(["sub-01/ses-1/anat/sub-01_ses-1_desc-a_mask.json",
    ...                "sub-02/anat/sub-02_desc-a_mask.nii.gz"])
    {'sub-X[/ses-Y]/anat/sub-X[_ses-Y]_desc-a_mask': ['.json', '.nii.gz']}
    """
    sessions: dict[str, set[str]] = {}
    for path in paths:
        stem, ending = _split(_anonymous(path))
        sessions.setdefault(stem, set()).add(ending)
    merged: dict[str, set[str]] = {}
    for stem in sorted(sessions, key=len, reverse=True):
        with_session = _with_session(stem)
        key = with_session if with_session in merged or _per_visit(stem) else stem
        merged.setdefault(key, set()).update(sessions[stem])
    return {stem: sorted(merged[stem]) for stem in sorted(merged, key=_rank)}


def describe_file(stem: str) -> str:
    """Say what a file is.

    Parameters
    ----------
    stem : str
        A key of :func:`file_patterns`.

    Returns
    -------
    str
        Markdown.

    Raises
    ------
    LookupError
        If nothing is known of it.
    """
    texts = {_pattern(output): cell(output.description) for output in (*OUTPUTS.values(), CODES)}
    for pattern, text in {**texts, **_BY_HAND}.items():
        if fnmatchcase(stem, pattern):
            return text
    raise LookupError(
        f"tests/e2e/expected_outputs.txt lists {stem}, which tools/site/site_outputs.py does not "
        "describe; add a line there"
    )


def _files() -> str:
    names = [line for line in EXPECTED.read_text(encoding="utf-8").splitlines() if line]
    top_files: list[tuple[str, str]] = []
    visits: list[tuple[str, str]] = []
    figures: list[tuple[str, str]] = []
    for stem, endings in file_patterns(names).items():
        part = figures if "/figures/" in stem else visits if "/anat/" in stem else top_files
        name = stem.rpartition("/")[2] if part is not top_files else stem
        names_cell = "<br>".join(
            filter(None, (f"`{name}`", " ".join(f"`{ending}`" for ending in endings if ending)))
        )
        part.append((names_cell, describe_file(stem)))
    head = ("file", "content")
    return "\n".join(
        (
            "## Files of a visit\n\nIn `OUT/sub-X[/ses-Y]/anat/`:\n",
            table(head, visits),
            "## Files of a participant and of the cohort\n\nIn `OUT/`:\n",
            table(head, top_files),
            "## Pictures\n\nIn `OUT/sub-X/figures/`; the pages contain them:\n",
            table(head, figures),
            "## Files that options add\n",
            table(("option", *head), [(f"`{a}`", f"`{b}`", text) for a, b, text in _ON_REQUEST]),
        )
    )


def _anonymous(path: str) -> str:
    for pattern, text in _IDENTITY:
        path = pattern.sub(text, path)
    return path


def _split(path: str) -> tuple[str, str]:
    folder, slash, name = path.rpartition("/")
    if name.startswith(".") or name.endswith(".md"):
        return path, ""
    stem, dot, ending = name.partition(".")
    return folder + slash + stem, dot + ending


def _per_visit(stem: str) -> bool:
    logs = ("logs/visits/", "logs/intermediate/")
    return "/anat/" in stem or "/figures/" in stem or stem.startswith(logs)


def _with_session(stem: str) -> str:
    if "[_ses-Y]" in stem or not _per_visit(stem):
        return stem
    stem = stem.replace("sub-X/anat", "sub-X[/ses-Y]/anat")
    folder, slash, name = stem.rpartition("/")
    return folder + slash + name.replace("sub-X", "sub-X[_ses-Y]", 1)


def _rank(stem: str) -> tuple[int, str]:
    return next(i for i, pattern in enumerate(_ORDER) if fnmatchcase(stem, pattern)), stem


@cache
def _sidecars() -> dict[str, Mapping[str, Any]]:
    """Return a sidecar of each kind of image, as in a run."""
    origin = sidecars.Origin(("bids:raw:...",), "bids:raw:...", "1 mm", {"bids_msseg": ""})
    method = sidecars.Method(ModelUse("", "", ""), 0.5, 3.0, 0.5)
    visits = [VisitRecord("X", session, f"sub-X_ses-{session}", "ok") for session in ("V", "Y")]
    change = codes_sidecar(pairs_of(visits)[0], ChangeRule(), ["bids::..."])
    images = (OUTPUTS[name] for name in single_images(Visit("X", "Y", Path())))
    preproc, filled, transform = (OUTPUTS[name] for name in ("preproc", "filled", "transform"))
    return {
        **{_pattern(image): image.sidecar(origin, method) for image in images},
        _pattern(CODES): change,
        _pattern(preproc): preproc.sidecar("", origin, skull_stripped=True, steps=[""]),
        _pattern(filled): filled.sidecar("", origin, method, skull_stripped=False),
        _pattern(transform): transform.sidecar(
            "A", "B", kind="affine", sources=[], software={"a": ""}
        ),
    }


def _pattern(output: Output) -> str:
    """Return the pattern of the files of an output, for any visit."""
    return f"*{output.stem}"


def _image_keys() -> str:
    columns = {*column_dictionary(), *LABEL_COLUMNS}
    rows = [
        (f"`{pattern}.json`", ", ".join(f"`{key}`" for key in content if key not in columns))
        for pattern, content in _sidecars().items()
    ]
    intro = "## JSON files of images\n\n`Sources` are BIDS URIs; the model is named "
    intro += "with the SHA-256 of its weights.\n"
    return f"{intro}\n{table(('file', 'keys'), rows)}"


def _columns() -> str:
    codes = code_table()
    common = {
        "index": {"Description": "Value in the image"},
        "name": {"Description": "Name"},
        "abbreviation": {"Description": "Short name"},
        "mapping": {"Description": "7, the BIDS code for lesion"},
    }
    stats = column_dictionary()
    dseg = {name: common.get(name) or stats[name] for name in sidecars.dseg_columns()}
    readers = data_dictionary({}, LoadLimits(0.0, 0.0, "", 0.0, 0.0))
    parts = [
        "## Columns of msseg\n\nThe JSON file of each table repeats this. `n/a`: no value.\n",
        _section("`*_desc-lesions_stats.tsv`", stats),
        _section("`*_seg-lesions_dseg.tsv`", dseg),
        _section("`*_seg-anatomy_dseg.tsv`", LABEL_COLUMNS),
        _section(
            "`group_lesions.tsv`",
            readers,
            "Columns with `qc_` come with `--qc`, the limits of agreement with `msseg-check`.",
        ),
        _section("`group_lesions_summary.tsv`", summary_dictionary()),
        _section("`group_lesions_thresholds.tsv`", SWEEP_COLUMNS, "With `--threshold-sweep`."),
        _section("`group_lesions_atlas.tsv`", group_atlas_dictionary(), _ATLAS_NOTE),
        _section("`sub-X_desc-changes_stats.tsv`", change_dictionary()),
        "### `*_seg-changes_dseg.tsv`\n",
        table(
            ("value", "name", "meaning"), [[cell(str(v)) for v in row.values()] for row in codes]
        ),
        "## Columns of msseg-evaluate\n\n[Evaluate masks](../how-to/evaluate.md)\n",
        *(_section(f"`{stem}.tsv`", dictionary(stem)) for stem in (*TABLES, *COMPARED)),
        "## Columns of msseg-check\n\n[Reliability of masks](../how-to/check_my_scanner.md)\n",
        _section("`check.tsv`", LESION_COLUMNS),
        _section("`check_visits.tsv`", VISIT_COLUMNS),
        "## Columns of msseg-train\n\n[Train on your patients](../tutorials/training.md)\n",
        _section("`scores.tsv`", {name: {"Description": _SCORES[name]} for name in SCORES}),
        _section("`before_after.tsv`", _before_after()),
        "## Columns of msseg-consensus\n\n[Fuse several raters](../how-to/consensus.md)\n",
        _section("`group_raters.tsv`", RATER_COLUMNS),
        _section("`group_leave_one_out.tsv`", LEFT_OUT_COLUMNS),
    ]
    return "\n".join(parts)


def _before_after() -> dict[str, dict[str, str]]:
    mask_text = {
        "before": "of the starting weights",
        "after": "of weights trained without this patient",
    }
    columns = {
        "visit": "Visit",
        "site": "Site of the visit",
        "in_initial_training_data": (
            "Whether the starting weights were trained on this patient: yes, no or not known"
        ),
    }
    columns |= {
        f"{name}_{when}": f"{title[0].upper()}{title[1:]} of the mask {text}"
        for name, title in SHOWN.items()
        for when, text in mask_text.items()
    }
    return {name: {"Description": text} for name, text in columns.items()}


def _section(title: str, columns: Mapping[str, Mapping[str, Any]], note: str = "") -> str:
    rows: list[Sequence[str]] = []
    for name, about in columns.items():
        text = str(about.get("Description") or "")
        if not text:
            raise LookupError(f"{title}: the column {name} has no description")
        levels = about.get("Levels") or {}
        listed = "".join(
            f"<br>`{level}`: {cell(str(meaning))}" for level, meaning in levels.items()
        )
        rows.append((f"`{name}`", cell(text) + listed, str(about.get("Units") or "")))
    head = f"### {title}\n\n" + (f"{note}\n\n" if note else "")
    return head + table(("column", "meaning", "unit"), rows)
