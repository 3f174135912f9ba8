"""Folder of templates during a run: TemplateFlow needs a writable copy of a container's."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

CONTAINER_TEMPLATES: Final = "BIDS_MSSEG_TEMPLATES"
"""Variable that names the folder of templates inside an image."""
FOLDER: Final = "templateflow"
"""Name of the home in the work folder."""


def prepare_template_home(work_dir: Path, environment: Mapping[str, str]) -> Path | None:
    """Copy the container's templates to the work folder; None if the user's home is used."""
    container_templates = environment.get(CONTAINER_TEMPLATES, "")
    if "TEMPLATEFLOW_HOME" in environment or (not container_templates and _user_has_templates()):
        return None
    home = work_dir / FOLDER
    if container_templates and not home.exists() and _has_content(Path(container_templates)):
        _copy(Path(container_templates), home)
    return home


def _user_has_templates() -> bool:
    # a user without an entry in the password file, as in containers, has no home at all
    # and one who was given another's home may not look into it
    with suppress(RuntimeError, OSError):
        return Path("~/.cache/templateflow").expanduser().is_dir()
    return False


def _has_content(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _copy(source: Path, target: Path) -> None:
    """Copy a folder atomically, as other runs may share the work folder."""
    part = Path(tempfile.mkdtemp(prefix="templateflow-", dir=target.parent))
    try:
        shutil.copytree(source, part / "home", copy_function=shutil.copyfile)
        with suppress(OSError):
            (part / "home").rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
