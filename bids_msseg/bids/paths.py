"""Paths of outputs.

Entities are in the order of the schema of BIDS 1.11.1 (``rules/entities.yaml``); names of
transforms follow the draft BEP014.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bids_msseg.bids.visit import CONTRASTS, LABEL, PREFIX_ENTITIES, name_entities
from bids_msseg.errors import UsageError

if TYPE_CHECKING:
    from bids_msseg.bids.visit import Visit

_LABEL: Final = re.compile(LABEL)
_SUFFIXES: Final = (*CONTRASTS, "mask", "probseg", "dseg", "stats", "xfm")
_SUFFIX: Final = re.compile(r"[0-9a-zA-Z]+")
_EXTENSION: Final = re.compile(r"(?:\.[0-9a-z]+)+")
ROI_FOLDER: Final = "lesion_roi"
"""Below OUT; its content goes into the raw dataset."""


def output_path(
    out_dir: Path,
    visit: Visit,
    *,
    suffix: str,
    extension: str,
    space: str | None = None,
    res: str | int | None = None,
    seg: str | None = None,
    label: str | None = None,
    desc: str | None = None,
    from_: str | None = None,
    to: str | None = None,
    mode: str | None = None,
) -> Path:
    """Return the path of an output: ``OUT/sub-X[/ses-Y]/anat/<name>``.

    The name starts with sub, ses, acq, ce, rec and run of the FLAIR; ``extension`` includes the
    dot. Makes no folder. Raises UsageError if a value has characters other than letters, digits
    and ``+``.

    Examples
    --------
    >>> from bids_msseg.bids.visit import Visit
    >>> visit = Visit("01", "1", Path("f.nii.gz"), entities={"run": "02"})
    >>> output_path(Path("/out"), visit, suffix="mask", extension=".nii.gz", space="FLAIR",
    ...             label="L", desc="rejected").as_posix()
    '/out/sub-01/ses-1/anat/sub-01_ses-1_run-02_space-FLAIR_label-L_desc-rejected_mask.nii.gz'
    >>> output_path(Path("/out"), visit, suffix="xfm", extension=".txt", from_="T1w", to="FLAIR",
    ...             mode="image").name
    'sub-01_ses-1_run-02_from-T1w_to-FLAIR_mode-image_xfm.txt'
    """
    entities = {
        "from": from_,
        "to": to,
        "mode": mode,
        "space": space,
        "seg": seg,
        "res": None if res is None else str(res),
        "label": label,
        "desc": desc,
    }
    name = _name(_prefix(visit), entities, suffix, extension)
    return visit_dir(out_dir, visit) / "anat" / name


def visit_dir(out_dir: Path, visit: Visit) -> Path:
    """Return the folder of a visit: ``OUT/sub-X[/ses-Y]``.

    Raises UsageError if a label is not a BIDS label.
    """
    folder = participant_dir(out_dir, visit.participant)
    return folder / f"ses-{_checked('ses', visit.session)}" if visit.session else folder


def participant_dir(out_dir: Path, participant: str) -> Path:
    """Return the folder of a participant: ``OUT/sub-X``.

    Raises UsageError if the label is not a BIDS label.
    """
    return out_dir / f"sub-{_checked('sub', participant)}"


def figure_path(
    out_dir: Path, visit: Visit, desc: str, *, suffix: str = "FLAIR", extension: str = ".svg"
) -> Path:
    """Return the path ``OUT/sub-X/figures/<prefix>_desc-<desc>_FLAIR.svg`` of a figure.

    Raises UsageError if a value has characters other than letters, digits and ``+``.
    """
    name = _name(_prefix(visit), {"desc": desc}, suffix, extension)
    return participant_dir(out_dir, visit.participant) / "figures" / name


def lesion_roi_path(out_dir: Path, visit: Visit) -> Path | None:
    """Return the path of the lesion mask for fMRIPrep; None if there is no T1w.

    The mask is ``OUT/lesion_roi/sub-X[/ses-Y]/anat/<name of the T1w>_label-lesion_roi.nii.gz``.
    Raises UsageError if a label is not a BIDS label.
    """
    if visit.t1w is None:
        return None
    stem = visit.t1w.name.removesuffix(".gz").removesuffix(".nii")
    return _roi_dir(out_dir, visit) / f"{stem}_label-lesion_roi.nii.gz"


def _roi_dir(out_dir: Path, visit: Visit) -> Path:
    return visit_dir(out_dir / ROI_FOLDER, visit) / "anat"


def stale_outputs(out_dir: Path, visit: Visit) -> tuple[Path, ...]:
    """List outputs of a visit that come from images it no longer uses.

    These are named after another FLAIR, or belong to a contrast that is not among those of
    ``visit``. Raises UsageError if a label is not a BIDS label.
    """
    figures = participant_dir(out_dir, visit.participant) / "figures"
    folders = (visit_dir(out_dir, visit) / "anat", figures)
    stale = [
        path
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if _is_stale(path.name, visit)
    ]
    rois = sorted(_roi_dir(out_dir, visit).glob("sub-*_roi.nii.gz"))
    current_roi = lesion_roi_path(out_dir, visit)
    return (*stale, *(path for path in rois if path != current_roi))


def _is_stale(name: str, visit: Visit) -> bool:
    entities, suffix = name_entities(name)
    if (entities.get("sub"), entities.get("ses")) != (visit.participant, visit.session):
        return False
    renamed = any(entities.get(entity) != visit.entities.get(entity) for entity in PREFIX_ENTITIES)
    named_images = {suffix, *(entities.get(entity) for entity in ("space", "from", "to"))}
    unused = named_images & (set(CONTRASTS) - visit.contrasts.keys())
    return suffix in _SUFFIXES and (renamed or bool(unused))


def report_path(out_dir: Path, participant: str) -> Path:
    """Return the path of the report page of a participant: ``OUT/sub-X.html``.

    Raises UsageError if the label is not a BIDS label.
    """
    return out_dir / f"sub-{_checked('sub', participant)}.html"


def changes_path(out_dir: Path, participant: str, extension: str) -> Path:
    """Return the path of the changes table: ``OUT/sub-X/sub-X_desc-changes_stats.tsv``.

    ``extension`` includes the dot. Raises UsageError if the label or the extension is invalid.

    Examples
    --------
    >>> changes_path(Path("/out"), "01", ".tsv").as_posix()
    '/out/sub-01/sub-01_desc-changes_stats.tsv'
    """
    ending = _checked("extension", extension, _EXTENSION)
    folder = participant_dir(out_dir, participant)
    return folder / f"{folder.name}_desc-changes_stats{ending}"


def logs_dir(out_dir: Path) -> Path:
    """Return the folder of logs, crash files and records: ``OUT/logs``."""
    return out_dir / "logs"


def records_dir(out_dir: Path) -> Path:
    """Return the folder with one record per visit: ``OUT/logs/visits``."""
    return logs_dir(out_dir) / "visits"


def record_path(out_dir: Path, participant: str, session: str | None) -> Path:
    """Return the path of the record of a visit: ``OUT/logs/visits/sub-X[_ses-Y].json``.

    Raises UsageError if a label is not a BIDS label.

    Examples
    --------
    >>> record_path(Path("/out"), "01", "1").as_posix()
    '/out/logs/visits/sub-01_ses-1.json'
    """
    name = f"sub-{_checked('sub', participant)}"
    name += f"_ses-{_checked('ses', session)}" if session else ""
    return records_dir(out_dir) / f"{name}.json"


def intermediate_dir(out_dir: Path) -> Path:
    """Return the folder with one archive per visit: ``OUT/logs/intermediate``."""
    return logs_dir(out_dir) / "intermediate"


def intermediate_path(out_dir: Path, participant: str, session: str | None) -> Path:
    """Return the archive path of a visit: ``OUT/logs/intermediate/sub-X[_ses-Y].zip``.

    It holds the intermediate results. Raises UsageError if a label is not a BIDS label.

    Examples
    --------
    >>> intermediate_path(Path("/out"), "01", "1").as_posix()
    '/out/logs/intermediate/sub-01_ses-1.zip'
    """
    key = record_path(out_dir, participant, session).stem
    return intermediate_dir(out_dir) / f"{key}.zip"


def group_path(out_dir: Path, extension: str, part: str = "") -> Path:
    """Return the path of a group output: ``OUT/group_lesions[_<part>]<extension>``.

    Raises UsageError if the part or the extension is invalid.

    Examples
    --------
    >>> group_path(Path("/out"), ".tsv").as_posix()
    '/out/group_lesions.tsv'
    >>> group_path(Path("/out"), ".tsv", "summary").name
    'group_lesions_summary.tsv'
    """
    return _top_path(out_dir, "group_lesions", extension, part)


def check_path(out_dir: Path, extension: str, part: str = "") -> Path:
    """Return the path of an output of ``msseg-check``: ``OUT/check[_<part>]<extension>``.

    Raises UsageError if the part or the extension is invalid.

    Examples
    --------
    >>> check_path(Path("/out"), ".tsv", "visits").as_posix()
    '/out/check_visits.tsv'
    """
    return _top_path(out_dir, "check", extension, part)


def check_record_path(out_dir: Path, participant: str, session: str | None) -> Path:
    """Return the path of a check record: ``OUT/logs/check/sub-X[_ses-Y].json``.

    The record holds the results of ``msseg-check`` for a visit. Raises UsageError if a label is
    not a BIDS label.
    """
    return logs_dir(out_dir) / "check" / record_path(out_dir, participant, session).name


def _top_path(out_dir: Path, stem: str, extension: str, part: str) -> Path:
    middle = f"_{_checked('part', part)}" if part else ""
    return out_dir / f"{stem}{middle}{_checked('extension', extension, _EXTENSION)}"


def _prefix(visit: Visit) -> str:
    pairs = {"sub": visit.participant, "ses": visit.session}
    pairs |= {name: visit.entities.get(name) for name in PREFIX_ENTITIES}
    return "_".join(_pairs(pairs))


def _name(prefix: str, entities: dict[str, str | None], suffix: str, extension: str) -> str:
    ending = _checked("suffix", suffix, _SUFFIX) + _checked("extension", extension, _EXTENSION)
    return "_".join([prefix, *_pairs(entities), ending])


def _pairs(entities: dict[str, str | None]) -> list[str]:
    return [f"{name}-{_checked(name, v)}" for name, v in entities.items() if v is not None]


def _checked(name: str, value: str | None, pattern: re.Pattern[str] = _LABEL) -> str:
    if value is None or not pattern.fullmatch(value):
        raise UsageError(
            f"{value!r} is not a valid {name} for a file name",
            hint="use letters and digits only, as BIDS requires",
        )
    return value
