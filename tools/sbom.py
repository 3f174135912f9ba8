"""Write the Python packages of an environment as an SBOM: CycloneDX 1.6 in JSON.

It runs inside an image and needs only Python, without network. The SBOM that ``docker buildx``
attaches to a released image lists Debian's packages as well.

usage: docker run --rm -i --entrypoint python IMAGE - < tools/sbom.py > msseg.cdx.json
"""

from __future__ import annotations

import json
import os
import re
import sys
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from typing import Any
from urllib.parse import quote

MAIN = "bids-msseg"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EXTRA = re.compile(r";.*\bextra\b")


def canonical(name: str) -> str:
    """Normalise a name as PyPI does (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def purl(name: str, version: str) -> str:
    """Return the package URL of a distribution on PyPI."""
    return f"pkg:pypi/{canonical(name)}@{quote(version, safe='')}"


def licenses(about: metadata.PackageMetadata) -> list[dict[str, Any]]:
    """Return the licence in the metadata: an SPDX expression, or else its names."""
    expression = about.get("License-Expression")
    if expression:
        return [{"expression": expression}]
    classified = [
        text.rpartition(" :: ")[2]
        for text in about.get_all("Classifier") or []
        if text.startswith("License :: ")
    ]
    licence = (about.get("License") or "").strip()
    # some put the whole text of a licence there
    named = classified or ([licence] if licence and "\n" not in licence else [])
    return [{"license": {"name": name}} for name in named]


def component(package: metadata.Distribution) -> dict[str, Any]:
    """Describe one distribution as a component of the SBOM."""
    name, version = package.metadata["Name"], package.version
    entry = {
        "type": "application" if canonical(name) == MAIN else "library",
        "bom-ref": purl(name, version),
        "name": name,
        "version": version,
        "purl": purl(name, version),
    }
    licensed = licenses(package.metadata)
    return {**entry, "licenses": licensed} if licensed else entry


def installed(packages: Iterable[metadata.Distribution]) -> dict[str, metadata.Distribution]:
    """Sort distributions by name; of duplicates keep the first, which Python imports."""
    distributions: dict[str, metadata.Distribution] = {}
    for package in packages:
        name = package.metadata.get("Name")
        if name:
            distributions.setdefault(canonical(name), package)
    return dict(sorted(distributions.items()))


def needs(package: metadata.Distribution) -> set[str]:
    """Return the requirements of a distribution, without those of its extras."""
    plain = [text for text in package.requires or [] if not _EXTRA.search(text)]
    return {canonical(match[0]) for text in plain if (match := _NAME.match(text))}


def bill(packages: Iterable[metadata.Distribution], created: datetime) -> dict[str, Any]:
    """Make the bill of materials.

    Parameters
    ----------
    packages : iterable of importlib.metadata.Distribution
    created : datetime
        With its time zone.

    Returns
    -------
    dict
        CycloneDX 1.6; the same packages give the same serial number.
    """
    distributions = installed(packages)
    described = {name: component(package) for name, package in distributions.items()}
    refs = {name: entry["bom-ref"] for name, entry in described.items()}
    main = described.pop(MAIN, None)
    about: dict[str, Any] = {
        "timestamp": created.astimezone(UTC).isoformat(timespec="seconds"),
        "tools": {"components": [{"type": "application", "name": "bids_msseg tools/sbom.py"}]},
    }
    if main:
        about["component"] = main
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, ' '.join(refs.values()))}",
        "version": 1,
        "metadata": about,
        "components": list(described.values()),
        "dependencies": [
            {
                "ref": refs[name],
                "dependsOn": [
                    refs[required]
                    for required in sorted(needs(distributions[name]))
                    if required in refs
                ],
            }
            for name in distributions
        ],
    }


def main() -> None:
    """Print the SBOM of this Python; ``SOURCE_DATE_EPOCH`` sets its time."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    created = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    json.dump(bill(metadata.distributions(), created), sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
