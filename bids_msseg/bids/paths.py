"""Paths of outputs: entities in the order of BIDS 1.11.1, transforms as in the draft BEP014."""

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
    """Return the path ``OUT/sub-X[/ses-Y]/anat/<name>``; UsageError if a value is invalid."""
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
    """Return the folder of a visit: ``OUT/sub-X[/ses-Y]``."""
    folder = participant_dir(out_dir, visit.participant)
    return folder / f"ses-{_checked('ses', visit.session)}" if visit.session else folder


def participant_dir(out_dir: Path, participant: str) -> Path:
    """Return the folder of a participant: ``OUT/sub-X``."""
    return out_dir / f"sub-{_checked('sub', participant)}"


def figure_path(
    out_dir: Path, visit: Visit, desc: str, *, suffix: str = "FLAIR", extension: str = ".svg"
) -> Path:
    """Return the path ``OUT/sub-X/figures/<prefix>_desc-<desc>_FLAIR.svg`` of a figure."""
    name = _name(_prefix(visit), {"desc": desc}, suffix, extension)
    return participant_dir(out_dir, visit.participant) / "figures" / name


def lesion_roi_path(out_dir: Path, visit: Visit) -> Path | None:
    """Return the path of the lesion mask for fMRIPrep; None if there is no T1w."""
    if visit.t1w is None:
        return None
    stem = visit.t1w.name.removesuffix(".gz").removesuffix(".nii")
    return _roi_dir(out_dir, visit) / f"{stem}_label-lesion_roi.nii.gz"


def _roi_dir(out_dir: Path, visit: Visit) -> Path:
    return visit_dir(out_dir / ROI_FOLDER, visit) / "anat"


def existing_outputs(out_dir: Path, visit: Visit) -> tuple[Path, ...]:
    """List the outputs of a visit in OUT, whichever images they are named after."""
    return (*_named_outputs(out_dir, visit), *_rois(out_dir, visit))


def stale_outputs(out_dir: Path, visit: Visit) -> tuple[Path, ...]:
    """List outputs of a visit that come from images it no longer uses."""
    stale = (path for path in _named_outputs(out_dir, visit) if _is_stale(path.name, visit))
    current_roi = lesion_roi_path(out_dir, visit)
    return (*stale, *(path for path in _rois(out_dir, visit) if path != current_roi))


def _named_outputs(out_dir: Path, visit: Visit) -> list[Path]:
    """List the files whose names have the labels of a visit and a suffix of its outputs."""
    figures = participant_dir(out_dir, visit.participant) / "figures"
    return [
        path
        for folder in (visit_dir(out_dir, visit) / "anat", figures)
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if _is_output(path.name, visit)
    ]


def _rois(out_dir: Path, visit: Visit) -> list[Path]:
    return sorted(_roi_dir(out_dir, visit).glob("sub-*_roi.nii.gz"))


def _is_output(name: str, visit: Visit) -> bool:
    entities, suffix = name_entities(name)
    labels = (entities.get("sub"), entities.get("ses"))
    return suffix in _SUFFIXES and labels == (visit.participant, visit.session)


def _is_stale(name: str, visit: Visit) -> bool:
    """Return whether an output is named after images that a visit no longer uses."""
    entities, suffix = name_entities(name)
    renamed = any(entities.get(entity) != visit.entities.get(entity) for entity in PREFIX_ENTITIES)
    named_images = {suffix, *(entities.get(entity) for entity in ("space", "from", "to"))}
    unused = named_images & (set(CONTRASTS) - visit.contrasts.keys())
    return renamed or bool(unused)


def report_path(out_dir: Path, participant: str) -> Path:
    """Return the path of the report page of a participant: ``OUT/sub-X.html``."""
    return out_dir / f"sub-{_checked('sub', participant)}.html"


def changes_path(out_dir: Path, participant: str, extension: str) -> Path:
    """Return the path of the changes table: ``OUT/sub-X/sub-X_desc-changes_stats.tsv``."""
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
    """Return the path of the record of a visit: ``OUT/logs/visits/sub-X[_ses-Y].json``."""
    name = f"sub-{_checked('sub', participant)}"
    name += f"_ses-{_checked('ses', session)}" if session else ""
    return records_dir(out_dir) / f"{name}.json"


def intermediate_dir(out_dir: Path) -> Path:
    """Return the folder with one archive per visit: ``OUT/logs/intermediate``."""
    return logs_dir(out_dir) / "intermediate"


def intermediate_path(out_dir: Path, participant: str, session: str | None) -> Path:
    """Return the archive path of a visit: ``OUT/logs/intermediate/sub-X[_ses-Y].zip``."""
    key = record_path(out_dir, participant, session).stem
    return intermediate_dir(out_dir) / f"{key}.zip"


def group_path(out_dir: Path, extension: str, part: str = "") -> Path:
    """Return the path of a group output: ``OUT/group_lesions[_<part>]<extension>``."""
    return _top_path(out_dir, "group_lesions", extension, part)


def check_path(out_dir: Path, extension: str, part: str = "") -> Path:
    """Return the path of an output of ``msseg-check``: ``OUT/check[_<part>]<extension>``."""
    return _top_path(out_dir, "check", extension, part)


def check_record_path(out_dir: Path, participant: str, session: str | None) -> Path:
    """Return the path of a result of ``msseg-check``: ``OUT/logs/check/sub-X[_ses-Y].json``."""
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
    """Return a valid part of a path; raise UsageError for other characters."""
    if value is None or not pattern.fullmatch(value):
        raise UsageError(
            f"{value!r} is not a valid {name} for a file name",
            hint="use letters and digits only, as BIDS requires",
        )
    return value
