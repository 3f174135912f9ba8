"""Archives of intermediate results: outputs of the steps before lesions are delineated.

Another threshold or smallest lesion then needs neither networks nor registration. Files that OUT
holds unchanged are named with their digest and not stored twice.
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
"""Errors of an archive that is damaged or was written by another program."""

Outputs = Mapping[str, Any]


def write_archive(
    target: Path,
    steps: Mapping[str, Outputs],
    *,
    published: Mapping[str, str],
    fingerprint: str,
    versions: Mapping[str, str],
) -> None:
    """Write intermediate results; ``published`` maps STEP.OUTPUT to a path below OUT."""
    content: dict[str, dict[str, Any]] = {step: {} for step in steps}
    with zipfile.ZipFile(target, "w") as archive:
        for step, name, value in _all_outputs(steps):
            if not name.endswith(_FILE):
                content[step][name] = {"value": value}
                continue
            data, published_path = Path(value).read_bytes(), published.get(f"{step}.{name}")
            if published_path is None:
                member = f"{step}/{Path(value).name}"
                # without a time, so that equal results have equal archives
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
    """Read the outputs of a step from an archive in OUT; extract other files to ``folder``."""
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
