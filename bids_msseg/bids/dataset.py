"""Top-level files of the output dataset, and checks of the output folders."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from bids_msseg import __version__
from bids_msseg.bids.derivatives import OUTPUTS
from bids_msseg.bids.files import plain, read_json, read_small, write_json, write_tsv
from bids_msseg.bids.paths import ROI_FOLDER
from bids_msseg.bids.record_values import ModelUse
from bids_msseg.bids.sidecars import link_name
from bids_msseg.errors import UsageError, convert_os_error
from bids_msseg.io.atomic import write_atomic

APP: Final = "bids_msseg"
BIDS_VERSION: Final = "1.11.1"
TEMPLATEFLOW_URL: Final = "https://templateflow.s3.amazonaws.com/"
IGNORED: Final = (
    "*.html",
    "figures",
    "*_xfm.*",
    "*_stats.*",
    "group_*",
    "check*",
    ROI_FOLDER,
    ".work",
)
"""Outputs without a BIDS name. With ``figures/``, the validator would report these folders."""
_WITH_SIDECAR: Final = [output for output in OUTPUTS.values() if ".json" in output.extensions]
_README_MARK: Final = "<!-- written by bids_msseg; delete this line to keep your own text -->"


def write_dataset_files(
    out_dir: Path,
    bids_dir: Path,
    *,
    options: Mapping[str, Any] | None = None,
    derivatives: Mapping[str, Path] | None = None,
    lesion_masks: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    segmenter: ModelUse | None = None,
) -> None:
    """Write the files that make a folder a BIDS derivative dataset; safe for concurrent jobs."""
    environment = os.environ if environment is None else environment
    raw = read_description(bids_dir)
    description = dataset_description(
        out_dir,
        bids_dir,
        raw,
        derivatives=derivatives or {},
        lesion_masks=lesion_masks,
        environment=environment,
        segmenter=segmenter,
    )
    with convert_os_error(f"cannot write into {out_dir}", hint="make the folder writable"):
        if read_description(out_dir) != description:
            write_json(out_dir / "dataset_description.json", description)
        write_ignore(out_dir / ".bidsignore")
        _write_readme(out_dir / "README.md", raw, options or {})
        _write_descriptions(out_dir)


def dataset_description(
    out_dir: Path,
    bids_dir: Path,
    raw: Mapping[str, Any],
    *,
    derivatives: Mapping[str, Path],
    environment: Mapping[str, str],
    lesion_masks: Sequence[str] = (),
    segmenter: ModelUse | None = None,
) -> dict[str, Any]:
    """Return ``dataset_description.json`` of the outputs, from that of the source (``raw``)."""
    links = {"raw": _link(out_dir, bids_dir, raw)}
    for name, folder in derivatives.items():
        links[link_name(name)] = _link(out_dir, folder, read_description(folder))
    content: dict[str, Any] = {
        "Name": _title(raw),
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "License": raw.get("License") or "As the source dataset",
        "Authors": _authors(raw),
        "GeneratedBy": _generated_by(environment, lesion_masks, segmenter),
        "SourceDatasets": _source_datasets(raw, links["raw"]),
        "DatasetLinks": {**links, "templateflow": TEMPLATEFLOW_URL},
        "HowToAcknowledge": "Cite the methods text in the reports, which names what was used.",
    }
    return {name: value for name, value in content.items() if value}


def _generated_by(
    environment: Mapping[str, str], lesion_masks: Sequence[str], segmenter: ModelUse | None
) -> list[dict[str, Any]]:
    """Describe this app and the segmenter that replaced its networks, if any."""
    description = "Lesion segmentation by a cascade of two 3-D convolutional networks"
    if lesion_masks:
        description = f"Tables and pages of the given lesion masks {', '.join(lesion_masks)}"
    if segmenter is not None:
        description = "Preparation of the images, lists of lesions, reports"
    entry: dict[str, Any] = {"Name": APP, "Version": __version__, "Description": description}
    if image := environment.get("BIDS_MSSEG_IMAGE"):
        entry["Container"] = {"Type": "docker", "Tag": image}
    elif image := environment.get("APPTAINER_NAME") or environment.get("SINGULARITY_NAME"):
        entry["Container"] = {"Type": "singularity", "Tag": Path(image).name}
    if segmenter is None:
        return [entry]
    cited = f"; cite {segmenter.citation}" if segmenter.citation else ""
    segmenter_entry = {
        "Name": segmenter.name,
        "Version": segmenter.version,
        "Description": f"Lesion segmentation ({segmenter.segmenter}){cited}",
    }
    return [entry, {name: value for name, value in segmenter_entry.items() if value}]


def _authors(raw: Mapping[str, Any]) -> list[str]:
    """Return the source's authors and ours, because the validator wants more than one."""
    authors = raw.get("Authors")
    names = [str(name) for name in authors] if isinstance(authors, list) else []
    return [*(names or ["The authors of the source dataset"]), "The bids_msseg developers"]


def _source_datasets(raw: Mapping[str, Any], link: str) -> list[dict[str, str]]:
    """Return the DOI of the source dataset or, if it has none, the link to it."""
    doi = str(raw.get("DatasetDOI") or "")
    if not doi:
        return [{"URL": link}]
    # OpenNeuro's DOIs include the version: doi:10.18112/openneuro.ds000001.v1.0.0
    release = re.search(r"/openneuro\.(ds\d+)\.v([\w.]+)$", doi)
    if release is None:
        return [{"DOI": doi}]
    url = f"https://openneuro.org/datasets/{release[1]}/versions/{release[2]}"
    return [{"DOI": doi, "URL": url, "Version": release[2]}]


def _link(out_dir: Path, source: Path, description: Mapping[str, Any]) -> str:
    """Return a link to a source dataset that does not reveal the local folders."""
    # a short relative path, otherwise the DOI, otherwise a URN that does not resolve
    relative = Path(os.path.relpath(source.absolute(), out_dir.absolute()))
    down = [part for part in relative.parts if part != os.pardir]
    shared = Path(os.path.commonpath([source.absolute(), out_dir.absolute()]))
    if len(down) <= 1 or (shared != Path(shared.anchor) and len(down) <= 2):
        return quote(relative.as_posix())
    doi = str(description.get("DatasetDOI") or "")
    if doi:
        return doi if "://" in doi else f"https://doi.org/{doi.removeprefix('doi:')}"
    return f"urn:{APP}:{quote(link_name(str(description.get('Name') or 'source')))}"


def write_ignore(path: Path) -> None:
    """Write ``.bidsignore``, with our lines after existing ones."""
    text = _read_text(path)
    if text is None:
        return
    lines = text.splitlines()
    missing = [line for line in IGNORED if line not in lines]
    if missing:
        write_atomic(path, "\n".join([*lines, *missing]) + "\n")


def _write_readme(path: Path, raw: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Write the README unless a person has written one."""
    text = _read_text(path)
    if text is None or (text and not text.startswith(_README_MARK)):
        return
    rows = [f"- {name}: {value}" for name, value in sorted(plain(options).items())]
    settings = "\n".join(["", "## Options of the latest run", "", *rows, ""]) if rows else ""
    outputs = "\n".join(f"- `{output.stem}`: {output.description}" for output in _WITH_SIDECAR)
    name = raw.get("Name") or "a BIDS dataset"
    body = _README.format(mark=_README_MARK, name=name, outputs=outputs)
    if text != body + settings:
        write_atomic(path, body + settings)


_README: Final = """\
{mark}
# Multiple-sclerosis lesions of {name}

Written by bids_msseg. A visit can have, under `sub-*/[ses-*/]anat/`:

{outputs}

With `--lesion-roi`, `lesion_roi/` has the masks on the T1w under the names by which fMRIPrep finds
them in the raw dataset.

Where a participant has two visits or more, `sub-*/sub-*_desc-changes_stats.tsv` has one row
per lesion and pair of visits, and the later visit has `space-FLAIR_seg-changes_dseg`.

`sub-*.html` are the reports, `group_lesions.tsv` has one row per visit, `logs` holds the records.
Where `msseg-check` was run, `check.html` shows how reliable lesion masks are on these scans.
Segmentations are for research; they are not a diagnosis.
"""


def _write_descriptions(out_dir: Path) -> None:
    """Write the table that explains the ``desc-`` labels, and its sidecar."""
    table, sidecar = out_dir / "descriptions.tsv", out_dir / "descriptions.json"
    if not table.exists():
        texts = {output.entities.get("desc"): output.description for output in _WITH_SIDECAR}
        texts["changes"] = "Change of each lesion between two visits"
        rows = [{"desc_id": f"desc-{n}", "description": text} for n, text in texts.items() if n]
        write_tsv(table, ("desc_id", "description"), rows)
    if not sidecar.exists():
        write_json(sidecar, {"Description": "Meaning of the desc- labels in file names"})


def _read_text(path: Path) -> str | None:
    """Read a text file; empty if it does not exist, None if it cannot be read."""
    try:
        return read_small(path).decode("utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError):
        return None


def read_description(folder: Path) -> dict[str, Any]:
    """Read the ``dataset_description.json`` of a dataset; empty if it cannot be read."""
    return read_json(folder / "dataset_description.json")


def generator_names(description: Mapping[str, Any]) -> list[str]:
    """Return the names of the programs that made a dataset, from its description."""
    generators = description.get("GeneratedBy")
    return [
        str(generator.get("Name"))
        for generator in (generators if isinstance(generators, list) else [generators])
        if isinstance(generator, dict)
    ]


def check_directories(
    bids_dir: Path, out_dir: Path, work_dir: Path, *, create: bool = True
) -> tuple[str, ...]:
    """Check that the folders do not conflict (UsageError), create them, and return warnings."""
    bids, out, work = (path.resolve() for path in (bids_dir, out_dir, work_dir))
    _check_out(bids, out)
    _check_work(bids, out, work)
    if create:
        _make_writable(out, "output")
        _make_writable(work, "work")
    return (*_name_warning(bids, out), *_source_warning(bids, out))


def is_other_dataset(bids_dir: Path, out_dir: Path) -> bool:
    """Return whether the earlier results in OUT are from a dataset with another name or title."""
    previous_title = str(read_description(out_dir).get("Name") or "")
    return previous_title not in ("", _title(read_description(bids_dir)))


def _source_warning(bids: Path, out: Path) -> tuple[str, ...]:
    """Warn if earlier results are from another dataset, whose labels may be the same."""
    previous_title = str(read_description(out).get("Name") or "")
    raw = read_description(bids)
    title = _title(raw)
    if not raw.get("Name") or previous_title in ("", title):
        return ()
    warning = (
        f"the output folder {out} holds “{previous_title}”, but this run writes “{title}”: "
        "visits with the same labels are treated as the same visit"
    )
    return (warning,)


def _title(raw: Mapping[str, Any]) -> str:
    return str(
        plain(f"{APP}: multiple-sclerosis lesions of {raw.get('Name') or 'a BIDS dataset'}")
    )


def _check_out(bids: Path, out: Path) -> None:
    derivatives = bids / "derivatives"
    hint = f"use another folder, for example {derivatives / APP}"
    if out == bids:
        raise UsageError("the output folder is the BIDS dataset itself", hint=hint)
    if out.is_relative_to(bids) and derivatives not in out.parents:
        raise UsageError(f"the output folder {out} is inside the BIDS dataset", hint=hint)
    if bids.is_relative_to(out) and not bids.is_relative_to(out / "sourcedata"):
        raise UsageError(f"the output folder {out} holds the BIDS dataset", hint=hint)
    problem = _foreign_dataset(out)
    if problem:
        raise UsageError(f"the output folder {out} {problem}", hint="use an empty folder")


def _foreign_dataset(out: Path) -> str:
    """Describe another dataset in OUT, which must not be overwritten; empty if there is none."""
    path = out / "dataset_description.json"
    if not os.path.lexists(path):
        return ""
    content = read_json(path)
    if not path.exists():
        return "holds a dataset_description.json that is not fetched (run datalad get)"
    if not content:
        return "holds an unreadable dataset_description.json"
    if content.get("DatasetType") != "derivative":
        return "holds a raw BIDS dataset"
    names = generator_names(content)
    return "" if APP in names else f"holds the outputs of {names[0] if names else 'another app'}"


def _check_work(bids: Path, out: Path, work: Path) -> None:
    hint = f"use another folder, for example {out / '.work'}"
    if work in (bids, out) or bids.is_relative_to(work) or out.is_relative_to(work):
        raise UsageError(f"the work folder {work} holds the inputs or the outputs", hint=hint)
    if work.is_relative_to(bids) and not work.is_relative_to(out):
        raise UsageError(f"the work folder {work} is inside the BIDS dataset", hint=hint)


def _make_writable(folder: Path, kind: str) -> None:
    hint = "choose a writable folder, or free disk space"
    with convert_os_error(f"the {kind} folder {folder} cannot be written", hint=hint):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0")


def _name_warning(bids: Path, out: Path) -> tuple[str, ...]:
    """Warn if a folder directly below ``derivatives`` lacks the pipeline's name."""
    if out.parent != bids / "derivatives" or APP in out.name:
        return ()
    return (f"BIDS requires {APP} in the name of {out}: it will not pass the validator",)
