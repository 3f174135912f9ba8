"""Archives of intermediate results: outputs of the steps before lesions are delineated.

With an archive, another threshold or smallest lesion needs neither networks nor registration.
Files that OUT holds unchanged, such as preprocessed images and transforms, are named with their
digest and not stored twice. No image in the archive extends beyond the rim that the figures show.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from bids_msseg.bids.files import plain

MANIFEST: Final = "steps.json"
_FILE: Final = "_file"
"""End of the names of outputs that are files."""
_BROKEN: Final = (
    OSError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    LookupError,
    TypeError,
    AttributeError,
    ValueError,
)
"""What an archive raises that is damaged, or that somebody else has written."""

Outputs = Mapping[str, Any]


def write_archive(
    target: Path,
    steps: Mapping[str, Outputs],
    *,
    published: Mapping[str, str],
    fingerprint: str,
    versions: Mapping[str, str],
) -> None:
    """Write the intermediate results of a visit to an archive.

    Outputs whose name ends with ``_file`` are paths. ``published`` maps ``STEP.OUTPUT`` to the
    place below OUT of files that are published unchanged; only their digests are stored.
    """
    content: dict[str, dict[str, Any]] = {step: {} for step in steps}
    with zipfile.ZipFile(target, "w") as archive:
        for step, name, value in _all_outputs(steps):
            if not name.endswith(_FILE):
                content[step][name] = {"value": value}
                continue
            data, published_path = Path(value).read_bytes(), published.get(f"{step}.{name}")
            if published_path is None:
                member = f"{step}/{Path(value).name}"
                # without a time: the archive says what was found, not when
                archive.writestr(zipfile.ZipInfo(member), data)
                content[step][name] = {"member": member}
            else:
                digest = hashlib.sha256(data).hexdigest()
                content[step][name] = {"published": published_path, "sha256": digest}
        manifest = {"fingerprint": fingerprint, "versions": versions, "steps": content}
        archive.writestr(zipfile.ZipInfo(MANIFEST), json.dumps(plain(manifest)))


def _all_outputs(steps: Mapping[str, Outputs]) -> Iterator[tuple[str, str, Any]]:
    for step, outputs in steps.items():
        for name, value in outputs.items():
            yield step, name, value


def is_usable(
    archive: Path, out_dir: Path, *, fingerprint: str, versions: Mapping[str, str]
) -> bool:
    """Return whether an archive is complete and has this fingerprint and these versions."""
    if not archive.is_file():
        return False
    try:
        with zipfile.ZipFile(archive) as opened:
            manifest = json.loads(opened.read(MANIFEST))
            if (manifest["fingerprint"], manifest["versions"]) != (fingerprint, dict(versions)):
                return False
            return opened.testzip() is None and all(
                _is_available(entry, opened, out_dir)
                for _, _, entry in _all_outputs(manifest["steps"])
            )
    except _BROKEN:
        return False


def _is_available(entry: Mapping[str, Any], archive: zipfile.ZipFile, out_dir: Path) -> bool:
    if "member" in entry:
        return entry["member"] in archive.namelist()
    if "published" in entry:
        path = out_dir / entry["published"]
        digest = str(entry["sha256"])
        return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest
    return "value" in entry


def stored_steps(archive: Path) -> frozenset[str]:
    """List the steps of an archive that can be used."""
    return frozenset(_steps(archive))


def stored_outputs(archive: Path, step: str, folder: Path) -> dict[str, Any]:
    """Read the outputs of a step from an archive.

    ``archive`` must have the path of :func:`~bids_msseg.bids.paths.intermediate_path`, from which
    OUT follows. Files that are not in OUT are extracted to ``folder``.
    """
    out_dir = archive.parents[2]
    outputs: dict[str, Any] = {}
    for name, entry in _steps(archive)[step].items():
        if "member" in entry:
            target = folder / Path(entry["member"]).name
            with zipfile.ZipFile(archive) as opened:
                target.write_bytes(opened.read(entry["member"]))
            outputs[name] = str(target)
        elif "published" in entry:
            outputs[name] = str(out_dir / entry["published"])
        else:
            outputs[name] = entry["value"]
    return outputs


def _steps(archive: Path) -> dict[str, dict[str, Any]]:
    with zipfile.ZipFile(archive) as opened:
        steps: dict[str, dict[str, Any]] = json.loads(opened.read(MANIFEST))["steps"]
    return steps
