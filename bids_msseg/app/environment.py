"""Environment of a run: variables, scratch folder, device, templates, plugin, resources."""

from __future__ import annotations

import getpass
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_msseg.app.selection import (
    calibration_digest,
    find_segmenter,
    output_spaces,
    read_model_header,
)
from bids_msseg.config import RunConfig
from bids_msseg.errors import NoInputError
from bids_msseg.io.atomic import make_scratch, remove_stale_files
from bids_msseg.models.weights import find_model
from bids_msseg.options import DEFAULT_SPACES
from bids_msseg.resources import Resources, resolve_resources
from bids_msseg.spaces import OutputSpace
from bids_msseg.template_home import FOLDER, prepare_template_home

if TYPE_CHECKING:
    from bids_msseg.workflow.execution import Execution
    from bids_msseg.workflow.plan import Settings

PLUGIN_CHUNK = 10_000


@contextmanager
def run_environment(work_dir: Path, *, dry: bool) -> Iterator[None]:
    """Set the environment of libraries for a run (no home folder, no servers); restore it."""
    variables = {"NO_ET": "1", "NIPYPE_NO_ET": "1", "TEMPLATEFLOW_AUTOUPDATE": "0"}
    # checking for a GPU must not prevent forked workers from using it
    variables["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    # the CPU runs operations that Apple's GPUs do not support
    variables["PYTORCH_ENABLE_MPS_FALLBACK"] = "1"
    # nipype names a scheduler's jobs by it; cron and containers may not set it
    variables["LOGNAME"] = _user()
    templates = None if dry else prepare_template_home(work_dir, os.environ)
    if templates is not None:
        variables["TEMPLATEFLOW_HOME"] = str(templates)
    variables = {name: value for name, value in variables.items() if name not in os.environ}
    scratch = None if dry else _scratch(work_dir)
    if scratch is not None:
        variables |= dict.fromkeys(("NIPYPE_CONFIG_DIR", "MPLCONFIGDIR", "TMPDIR"), scratch)
    previous = {name: os.environ.get(name) for name in variables}
    previous_tempdir = tempfile.tempdir
    os.environ.update(variables)
    tempfile.tempdir = scratch or previous_tempdir
    try:
        yield
    finally:
        tempfile.tempdir = previous_tempdir
        for name, value in previous.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def removing_new_empty_folders(*folders: Path) -> Iterator[None]:
    """Remove folders at the end that did not exist before and are empty, inner ones first."""
    new = [folder for folder in folders if not os.path.lexists(folder)]
    try:
        yield
    finally:
        for folder in new:
            with suppress(OSError):  # not empty, or never made
                folder.rmdir()


def _user() -> str:
    """Return the name of the user, or the user ID if a container has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _scratch(work_dir: Path) -> str:
    """Create a folder for temporary files; remove those of runs that were killed."""
    remove_stale_files(work_dir)
    return str(make_scratch(work_dir))


def check_device(device: str) -> None:
    """Check that a requested GPU is available, before anything is computed."""
    if device not in ("auto", "cpu"):
        from bids_msseg.models.engine import choose_engine

        choose_engine(device)


def check_needs(config: RunConfig, *, networks: bool = True) -> None:
    """Check before the first visit that networks, templates and shared files are usable."""
    if networks:
        _check_networks(config)
    _check_spaces(config)
    _check_files(config)


def _check_networks(config: RunConfig) -> None:
    """Check the weights, or the requirements of another segmenter."""
    segmenter = find_segmenter(config)
    if segmenter is not None:
        segmenter.check()
        return
    from bids_msseg.models.checkpoint import check_cascade

    check_cascade(find_model(config.processing.model))


def _check_spaces(
    config: RunConfig, *, home: Path | None = None, filled: Path | None = None
) -> None:
    """Load the required templates, except those that the folder ``filled`` contains."""
    from bids_msseg.imaging.template import load_template

    for space in _template_spaces(config):
        if filled is None or not _is_in(filled, space):
            load_template(space.name, resolution=space.resolution or 1, home=home)


def _template_spaces(config: RunConfig) -> tuple[OutputSpace, ...]:
    """List the templates of output spaces and atlases."""
    options = config.processing
    spaces = (*options.output_spaces, *(OutputSpace(atlas.space, 1) for atlas in options.atlas))
    return tuple(space for space in dict.fromkeys(spaces) if space.is_template)


def _check_files(config: RunConfig) -> None:
    """Read the atlases and grids that all visits share."""
    from bids_msseg.imaging.header import check_header
    from bids_msseg.pipeline.atlas import load_atlas

    for atlas in config.processing.atlas:
        if not atlas.is_per_visit:
            load_atlas(atlas)
    for space in config.processing.output_spaces:
        if space.file and not space.is_per_visit:
            check_header(Path(space.file), series=True)


def check_spaces_without_trace(config: RunConfig) -> None:
    """Check the templates for a dry run; discard downloads, and only read the work folder."""
    if set(_template_spaces(config)) <= set(DEFAULT_SPACES):
        return
    with tempfile.TemporaryDirectory() as folder:
        home = prepare_template_home(Path(folder), os.environ)
        filled = None if home is None else config.work_dir / FOLDER
        _check_spaces(config, home=home, filled=filled)


def _is_in(folder: Path, space: OutputSpace) -> bool:
    """Return whether a folder contains a template."""
    from bids_msseg.imaging.template import load_template

    if not folder.is_dir():
        return False
    try:
        load_template(space.name, resolution=space.resolution or 1, home=folder, online=False)
    except NoInputError:
        return False
    return True


def visit_settings(config: RunConfig, resources: Resources) -> Settings:
    """Collect the settings that the nodes of all visits share."""
    from bids_msseg.workflow.plan import Settings

    segmenter = find_segmenter(config)
    is_cascade = segmenter is None
    return Settings(
        model_file=find_model(config.processing.model) if is_cascade else Path(),
        skull_stripped=config.processing.skull_stripped,
        fast=config.processing.fast,
        seed=config.processing.random_seed,
        mask_values=config.processing.mask_values,
        device=config.performance.device,
        threads=resources.omp_nthreads,
        spaces=output_spaces(config),
        measure=config.execution.resource_monitor,
        calibration=calibration_digest(config, read_model_header(config).sha256)
        if is_cascade
        else "",
        segmenter=segmenter,
    )


def find_resources(config: RunConfig) -> Resources:
    """Find the processes, threads and memory that a run may use."""
    performance = config.performance
    return resolve_resources(
        nprocs=performance.nprocs, omp_nthreads=performance.omp_nthreads, mem_gb=performance.mem_gb
    )


def choose_execution(
    config: RunConfig, resources: Resources, plugin: tuple[str, dict[str, Any]] | None
) -> Execution:
    """Choose nipype's plugin: the requested one, or one that suits the resources."""
    from bids_msseg.workflow.execution import Execution

    base = Execution(
        work_dir=config.work_dir,
        out_dir=config.output_dir,
        stop_on_first_crash=config.execution.stop_on_first_crash,
        clean=config.execution.clean_workdir,
    )
    if plugin is not None:
        name, arguments = plugin
        if name == "MultiProc":
            arguments = {"raise_insufficient": False, **arguments}
        return replace(base, plugin=name, plugin_args=arguments, chunk=PLUGIN_CHUNK)
    if resources.nprocs < 2:
        return base
    arguments = {
        "n_procs": resources.nprocs,
        "memory_gb": resources.mem_gb,
        "raise_insufficient": False,
    }
    return replace(base, plugin="MultiProc", plugin_args=arguments, chunk=2 * resources.nprocs)


def requested_plugin(config: RunConfig) -> tuple[str, dict[str, Any]] | None:
    """Read name and arguments of the requested nipype plugin; None if there is none."""
    path = config.performance.use_plugin
    if path is None:
        return None
    from bids_msseg.workflow.plugins import read_plugin

    return read_plugin(path)
