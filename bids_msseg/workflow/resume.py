"""When a finished visit is still true: same images, same options, same model, nothing missing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bids_msseg.bids.paths import output_path
from bids_msseg.bids.record import read_record
from bids_msseg.bids.visit import Visit


def fingerprint(visit: Visit, options: Mapping[str, Any], model_sha256: str, version: str) -> str:
    """Digest everything that a visit's results depend on.

    Parameters
    ----------
    visit : Visit
        Images and brain mask are read whole: a changed voxel changes the digest.
    options : mapping
        Options that change results; JSON values.
    model_sha256, version : str

    Returns
    -------
    str
        SHA-256 in hexadecimal.
    """
    files = dict(visit.contrasts)
    if visit.brain_mask is not None:
        files["brain_mask"] = visit.brain_mask
    said = visit.metadata.get("FLAIR", {}).get("SkullStripped")
    content = {
        "files": {name: _digest(path) for name, path in files.items()},
        "prefix": visit.prefix,
        "skull_stripped": said,
        "options": options,
        "model": model_sha256,
        "version": version,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        # the first node will say clearly what is wrong with the file
        return f"unreadable: {error.errno}"


def is_finished(
    out_dir: Path,
    visit: Visit,
    wanted: str,
    *,
    spaces: Sequence[tuple[str, int | None]] = (),
) -> bool:
    """Tell whether OUT already holds the results that a run would write.

    Parameters
    ----------
    out_dir : path
    visit : Visit
    wanted : str
        Fingerprint of the run to come.
    spaces : sequence of (name, resolution)
        Further spaces in which masks are expected.

    Returns
    -------
    bool
    """
    record = read_record(out_dir, visit.participant, visit.session)
    if record is None or record.status != "ok" or record.fingerprint != wanted:
        return False
    return all(path.is_file() for path in expected_files(out_dir, visit, spaces))


def expected_files(
    out_dir: Path, visit: Visit, spaces: Sequence[tuple[str, int | None]]
) -> tuple[Path, ...]:
    """List the images and tables that a finished visit has."""
    flair: list[dict[str, str]] = [
        {"label": "L", "suffix": "mask"},
        {"label": "L", "suffix": "probseg"},
        {"label": "L", "desc": "candidates", "suffix": "mask"},
        {"label": "L", "desc": "rejected", "suffix": "mask"},
        {"seg": "lesions", "suffix": "dseg"},
        {"desc": "brain", "suffix": "mask"},
        *({"desc": "preproc", "suffix": contrast} for contrast in visit.contrasts),
    ]
    files = [
        output_path(out_dir, visit, space="FLAIR", extension=extension, **entities)
        for entities in flair
        for extension in (".nii.gz", ".json")
    ]
    for space, resolution in spaces:
        if space == "FLAIR" or (space == "T1w" and visit.t1w is None):
            continue
        res = None if space == "T1w" else resolution or 1
        files.append(
            output_path(
                out_dir,
                visit,
                space=space,
                res=res,
                label="L",
                suffix="mask",
                extension=".nii.gz",
            )
        )
    files.append(output_path(out_dir, visit, desc="lesions", suffix="stats", extension=".tsv"))
    return tuple(files)
