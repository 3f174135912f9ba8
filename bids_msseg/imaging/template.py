"""Templates: one is part of the package, all others come from TemplateFlow.

Symmetric ICBM 152 nonlinear average 2009a: Fonov et al. 2011, doi
10.1016/j.neuroimage.2010.07.033. TemplateFlow: Ciric et al. 2022, doi 10.1038/s41592-022-01681-2.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_msseg.errors import DataError, NoInputError, TemporaryError
from bids_msseg.imaging.conform import canonical
from bids_msseg.imaging.volume import Volume, load_or_raise, load_volume

EMBEDDED = "MNI152NLin2009aSym"
NIFTI = [".nii.gz", ".nii"]


@dataclass(frozen=True, slots=True)
class Template:
    """Brain image, mask and regions of a standard space."""

    name: str
    volume: Volume  # T1w, zero outside the brain, axes closest to RAS+
    mask: NDArray[np.bool_]
    regions: NDArray[np.uint8] | None  # RegionAnatomy codes; embedded template only
    directory: Path


def load_template(
    name: str = EMBEDDED, *, resolution: int = 1, home: Path | None = None, online: bool = True
) -> Template:
    """Load a template by name; NoInputError if missing, TemporaryError if fetching fails."""
    if name == EMBEDDED and resolution == 1:
        return _embedded()
    with _templateflow_home(home):
        return _from_templateflow(name, resolution, home, online)


def find_label_image(
    name: str,
    atlas: str,
    *,
    desc: str | None = None,
    resolution: int = 1,
    home: Path | None = None,
    online: bool = True,
) -> Path:
    """Find a ``_dseg`` by ``atlas-``, else ``seg-``; NoInputError unless exactly one matches."""
    hint = _prefill(name, f"atlas='{atlas}', resolution={resolution}, suffix='dseg'")
    query: dict[str, Any] = {"resolution": resolution, "cohort": None, "extension": NIFTI}
    query |= {"suffix": "dseg"}
    if desc is not None:
        query["desc"] = desc
    with _templateflow_home(home):
        _check_home(home, online, hint)
        with _fetching(name, hint):
            client = _client(home)
            paths = _label_images(client, name, atlas, query, online=online)
        path = _only_match(paths, f"{name} has no atlas {atlas} at resolution {resolution}", hint)
        if online and not has_content(path):
            with _fetching(name, hint):
                client.get(name, **query | _entities(path))
    if not has_content(path):
        raise NoInputError(f"the atlas file {path.name} is empty", hint=hint)
    return path


def embedded_directory() -> Path:
    """Return the folder of the embedded template, laid out as by TemplateFlow."""
    return Path(str(resources.files("bids_msseg") / "data" / "template" / f"tpl-{EMBEDDED}"))


def _embedded() -> Template:
    directory = embedded_directory()
    stem = f"tpl-{EMBEDDED}_res-1_"
    return Template(
        name=EMBEDDED,
        volume=load_volume(directory / f"{stem}desc-brain_T1w.nii.gz"),
        mask=load_volume(directory / f"{stem}desc-brain_mask.nii.gz", np.uint8).data > 0,
        regions=load_volume(directory / f"{stem}seg-regions_dseg.nii.gz", np.uint8).data,
        directory=directory,
    )


def template_regions() -> Volume:
    """Return the regions of the embedded template as an image of RegionAnatomy codes."""
    template = load_template()
    return template.volume.with_data(np.asarray(template.regions))


@contextmanager
def _templateflow_home(home: Path | None) -> Iterator[None]:
    """Set TEMPLATEFLOW_HOME to ``home``, if given, while the context is open."""
    # the first import of TemplateFlow unpacks thousands of empty files there or to ~/.cache
    before = os.environ.get("TEMPLATEFLOW_HOME")
    if home is not None:
        os.environ["TEMPLATEFLOW_HOME"] = str(home)
    try:
        yield
    finally:
        if home is not None and before is None:
            del os.environ["TEMPLATEFLOW_HOME"]
        elif home is not None and before is not None:
            os.environ["TEMPLATEFLOW_HOME"] = before


def _from_templateflow(name: str, resolution: int, home: Path | None, online: bool) -> Template:
    """Load a template from local files; fetch it only if they are missing."""
    hint = _prefill(name, f"resolution={resolution}, suffix=['T1w', 'mask']")
    _check_home(home, online, hint)
    query: dict[str, Any] = {"resolution": resolution, "cohort": None, "extension": NIFTI}
    query |= {"atlas": None, "hemi": None, "label": None}
    with _fetching(name, hint):
        client = _client(home)
        files = _find_brain_files(client, name, query, fetch=False)
        if files is None and online:
            files = _find_brain_files(client, name, query, fetch=True)
    if files is None:
        location = "in TemplateFlow" if online else "in the local TemplateFlow folder"
        raise NoInputError(
            f"no T1w image of the brain of {name} at resolution {resolution} {location}",
            hint=f"check the name at https://www.templateflow.org/browse; {hint}",
        )
    return _assemble(name, *files)


def _check_home(home: Path | None, online: bool, hint: str) -> None:
    if not online and home is not None and not (home.is_dir() and any(home.iterdir())):
        raise NoInputError(f"the template folder {home} is empty or missing", hint=hint)


@contextmanager
def _fetching(name: str, hint: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the client passes on the errors of other libraries
        message = f"the template {name} could not be fetched: {error}"
        raise TemporaryError(message, hint=hint) from error


def _find_brain_files(
    client: Any, name: str, query: dict[str, Any], *, fetch: bool
) -> tuple[Path, Path | None] | None:
    """Find the brain's T1w and perhaps a mask, or else the head's T1w and a mask."""
    brain = _first_file(client, name, query | {"suffix": "T1w", "desc": "brain"}, fetch=fetch)
    mask = _first_file(client, name, query | {"suffix": "mask", "desc": "brain"}, fetch=fetch)
    if brain is not None:
        return brain, mask
    head = _first_file(client, name, query | {"suffix": "T1w", "desc": None}, fetch=fetch)
    return None if head is None or mask is None else (head, mask)


def _first_file(client: Any, name: str, query: dict[str, Any], *, fetch: bool) -> Path | None:
    """Return the first matching file with content; empty files are stubs."""
    paths = _list_files(client, name, query, fetch=fetch)
    if fetch and paths:
        client.get(name, **query)
    return next((p for p in paths if has_content(p)), None)


def _list_files(client: Any, name: str, query: dict[str, Any], *, fetch: bool) -> list[Path]:
    paths = sorted(client.ls(name, **query))
    if fetch and not paths:
        # a folder that was filled by hand lacks the list of the other files
        client.cache.update(local=True, overwrite=False, silent=True)
        paths = sorted(client.ls(name, **query))
    return paths


def _label_images(
    client: Any, name: str, atlas: str, query: dict[str, Any], *, online: bool
) -> list[Path]:
    """List images by ``atlas-``, or else by ``seg-``; stubs only if ``online``."""
    steps = (False, True) if online else (False,)
    for fetch, entity in product(steps, ("atlas", "segmentation")):
        paths = _list_files(client, name, query | {entity: atlas}, fetch=fetch)
        usable = [path for path in paths if online or has_content(path)]
        if usable:
            return usable
    return []


def _only_match(paths: list[Path], message: str, hint: str) -> Path:
    if not paths:
        hint = f"check the name at https://www.templateflow.org/browse; {hint}"
        raise NoInputError(message, hint=hint)
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise NoInputError(
            f"{len(paths)} label images match: {names}", hint="select one by its desc- entity"
        )
    return paths[0]


def _entities(path: Path) -> dict[str, str]:
    """Return the entities that distinguish the images of an atlas."""
    entities = dict(part.split("-", 1) for part in path.name.split("_") if "-" in part)
    keys = {"atlas": "atlas", "seg": "segmentation", "scale": "scale", "desc": "desc"}
    return {name: entities[key] for key, name in keys.items() if key in entities}


def has_content(path: Path) -> bool:
    """Return whether a file has content; TemplateFlow's stubs have none."""
    return path.is_file() and path.stat().st_size > 0


def _client(home: Path | None) -> Any:
    """Open the index of TemplateFlow; the import is here because it is slow."""
    from templateflow.client import TemplateFlowClient

    return TemplateFlowClient(root=home) if home is not None else TemplateFlowClient()


def _prefill(name: str, query: str) -> str:
    call = f"api.get('{name}', {query})"
    return (
        "on a computer with internet access, run "
        f'`TEMPLATEFLOW_HOME=DIR python -c "from templateflow import api; {call}"`, '
        "copy DIR to this computer and set TEMPLATEFLOW_HOME to it"
    )


def _assemble(name: str, image_path: Path, mask_path: Path | None) -> Template:
    """Read the files and set the image to zero outside the brain."""
    volume = _read(image_path)
    if mask_path is None:
        mask = volume.data > 0
    else:
        mask_volume = _read(mask_path)
        mask = mask_volume.data > 0.5
        same = mask.shape == volume.shape and np.allclose(
            mask_volume.affine, volume.affine, atol=1e-3
        )
        if not same:
            raise DataError(
                f"{image_path.name} and {mask_path.name} are not on the same grid",
                hint="delete both so that they are downloaded again",
            )
    inside = volume.with_data(np.where(mask, volume.data, np.float32(0)))
    return Template(name, inside, np.asarray(mask, bool), None, image_path.parent)


def _read(path: Path) -> Volume:
    hint = "delete it so that it is downloaded again"
    return canonical(load_or_raise(path, f"the template file {path} is damaged", hint=hint))
