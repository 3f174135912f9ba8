"""When a finished visit is still true: same images, same options, same model, nothing missing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bids_msseg.bids.paths import figure_path, output_path
from bids_msseg.bids.record import read_record
from bids_msseg.bids.visit import Visit
from bids_msseg.imaging.template import EMBEDDED

NATIVE_SPACES = ("FLAIR", "T1w")


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
    if path.exists() and not path.is_file():
        # a pipe would keep us waiting for ever
        return "no regular file"
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
    # what could not be aligned has no results of its own
    left_out: dict[str, Any] = {
        name.lower(): None
        for name, use in record.contrasts.items()
        if not use.used and name in visit.contrasts and name != "FLAIR"
    }
    used = replace(visit, **left_out)
    return all(path.is_file() for path in expected_files(out_dir, used, spaces))


def expected_files(
    out_dir: Path, visit: Visit, spaces: Sequence[tuple[str, int | None]]
) -> tuple[Path, ...]:
    """List what a finished visit has: images and tables with their sidecars, figures."""
    return tuple(
        output_path(out_dir, visit, extension=extension, **entities)
        for entities, extensions in _outputs(visit, spaces)
        for extension in extensions
    ) + tuple(
        figure_path(out_dir, visit, desc, extension=".png")
        for desc in ("lesions", "brain", *_registrations(visit))
    )


def _outputs(
    visit: Visit, spaces: Sequence[tuple[str, int | None]]
) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
    image = (".nii.gz", ".json")
    for entities in (
        {"label": "L", "suffix": "mask"},
        {"label": "L", "suffix": "probseg"},
        {"label": "L", "desc": "candidates", "suffix": "mask"},
        {"label": "L", "desc": "rejected", "suffix": "mask"},
        {"desc": "brain", "suffix": "mask"},
        *({"desc": "preproc", "suffix": contrast} for contrast in visit.contrasts),
    ):
        yield {"space": "FLAIR", **entities}, image
    yield {"space": "FLAIR", "seg": "lesions", "suffix": "dseg"}, (*image, ".tsv")
    yield {"desc": "lesions", "suffix": "stats"}, (".tsv", ".json")
    moves = {("FLAIR", EMBEDDED)}
    moves |= {(contrast, "FLAIR") for contrast in visit.contrasts if contrast != "FLAIR"}
    for space, resolution in spaces:
        if space not in NATIVE_SPACES:
            moves.add(("FLAIR", space))
            yield {"space": space, "res": resolution or 1, "label": "L", "suffix": "mask"}, image
        elif space in visit.contrasts and space != "FLAIR":
            yield {"space": space, "label": "L", "suffix": "mask"}, image
    for start, end in sorted(moves):
        yield (
            {"from_": start, "to": end, "mode": "image", "suffix": "xfm"},
            (".txt", ".json"),
        )


def _registrations(visit: Visit) -> list[str]:
    return [f"registration{contrast}" for contrast in visit.contrasts if contrast != "FLAIR"]
