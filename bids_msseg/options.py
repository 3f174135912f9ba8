"""Options of a run: conversion of their values, and their names in errors."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

from bids_msseg import option_files, readers
from bids_msseg.errors import UnknownLevelError, UsageError
from bids_msseg.spaces import EMBEDDED_SPACE, AtlasChoice, OutputSpace

Level = Literal["participant", "group"]
SkullStripped = Literal["auto", "yes", "no"]
LEVELS: Final[tuple[Level, ...]] = ("participant", "group")
LEVEL_SYNONYMS: Final[Mapping[str, Level]] = {
    "subject": "participant",
    "session": "participant",
    "dataset": "group",
}
"""Levels as the BIDS execution specification names them."""
CASCADE: Final = "cascade"
SEGMENTERS: Final = (CASCADE, "nnunet", "samseg", "command")
DEFAULT_SPACES: Final = (
    OutputSpace("FLAIR"),
    OutputSpace("T1w"),
    OutputSpace(EMBEDDED_SPACE, 1),
)


def _read_spaces(value: object) -> tuple[OutputSpace, ...]:
    spaces = tuple(dict.fromkeys(OutputSpace.parse(item) for item in readers.items(value)))
    if not spaces:
        raise ValueError("at least one space, for example FLAIR")
    names = [space.name for space in spaces]
    if any(space.file and names.count(space.name) > 1 for space in spaces):
        raise ValueError("a different name for each space, as in LABEL=FILE.nii.gz")
    return spaces


def _read_atlases(value: object) -> tuple[AtlasChoice, ...]:
    atlases = dict.fromkeys(AtlasChoice.parse(item) for item in readers.items(value))
    if len({atlas.name for atlas in atlases}) < len(atlases):
        raise ValueError("a different name for each atlas, as in NAME=FILE:SPACE")
    return tuple(atlases)


def _read_threshold(value: object) -> float:
    expected = "a number between 0 and 1, both excluded"
    return readers.number(expected, lambda x: 0 < x < 1)(value)


def _read_volume(value: object) -> float:
    return readers.number("a volume in mm³, 0 or more", lambda x: x >= 0)(value)


def _read_mask_sources(value: object) -> dict[str, Path]:
    """Read folders or patterns of files by name."""
    sources = readers.named_paths(value)
    for source in sources.values():
        placeholders = set(re.findall(r"\{([^{}]*)\}", str(source)))
        if placeholders and not {"subject"} <= placeholders <= {"subject", "session"}:
            raise ValueError(
                "a folder, or a pattern with {subject} and, if there are sessions, {session}, "
                "for example manual=/data/masks/sub-{subject}_lesions.nii.gz"
            )
    return sources


def _read_mask_values(value: object) -> tuple[int, ...]:
    """Read the mask values that are lesion; none means any value above zero."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    if values in ([], ["any"]):
        return ()
    try:
        return tuple(sorted({readers.integer(1)(item) for item in values}))
    except ValueError as error:
        raise ValueError("any, or whole numbers above zero") from error


def _read_memory(value: object) -> float:
    return readers.number("a number of GB above 0", lambda x: x > 0)(value)


def _read_model(value: object) -> str:
    """Make a path absolute and leave a name as it is."""
    text = readers.text(value)
    looks_like_path = os.sep in text or text.endswith(".safetensors")
    return str(readers.path(text)) if looks_like_path else text


def _read_device(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]+)?", value):
        return value
    raise ValueError("auto, cpu, cuda, mps, or cuda:N with the number of a GPU")


def _read_segmenter_options(value: object) -> dict[str, Any]:
    """Read a table of the segmenter's options; the segmenter checks keys and values."""
    if not isinstance(value, Mapping):
        raise ValueError("a table of the segmenter's options")
    return {str(key).replace("-", "_"): item for key, item in value.items()}


def _read_ignored(value: object) -> tuple[str, ...]:
    """Read the contrasts that are left out."""
    contrasts = [item.lower() for item in readers.items(value)]
    if not set(contrasts) <= {"t1w", "t2w"}:
        raise ValueError("t1w or t2w: the FLAIR is always needed")
    return tuple(dict.fromkeys(contrasts))


def _read_levels(value: object) -> tuple[Level, ...]:
    """Read the levels; return them in the order in which they run."""
    levels = [LEVEL_SYNONYMS.get(word, word) for word in readers.items(value)]
    for level in levels:
        check_level(level)
    if not levels:
        raise ValueError(readers.alternatives(LEVELS))
    return tuple(level for level in LEVELS if level in levels)


def _option_readers() -> dict[str, Callable[[object], Any]]:
    """Return the reader of every option of a run, by name."""
    return {
        "bids_dir": readers.path,
        "output_dir": readers.path,
        "levels": _read_levels,
        "participant_label": readers.labels("sub-"),
        "session_label": readers.labels("ses-"),
        "session_order": readers.labels("ses-"),
        "exclude_participant_label": readers.labels("sub-"),
        "ignore": _read_ignored,
        "bids_filters": option_files.filters,
        "skip_bids_validation": readers.flag,
        "bids_database_dir": readers.path,
        "derivatives": readers.named_paths,
        "lesion_masks": _read_mask_sources,
        "exclude_masks": _read_mask_sources,
        "output_spaces": _read_spaces,
        "atlas": _read_atlases,
        "fill_lesions": readers.flag,
        "lesion_roi": readers.flag,
        "model": _read_model,
        "segmenter": readers.choice(*SEGMENTERS),
        "segmenter_options": _read_segmenter_options,
        "threshold": _read_threshold,
        "min_lesion_volume": _read_volume,
        "mask_values": _read_mask_values,
        "skull_stripped": readers.choice("auto", "yes", "no"),
        "fast": readers.flag,
        "random_seed": readers.integer(0, 2**32 - 1),
        "nprocs": readers.integer(1),
        "omp_nthreads": readers.integer(1),
        "mem_gb": _read_memory,
        "device": _read_device,
        "use_plugin": readers.path,
        "work_dir": readers.path,
        "clean_workdir": readers.flag,
        "clean_outputs": readers.flag,
        "dry_run": readers.flag,
        "reports_only": readers.flag,
        "boilerplate_only": readers.flag,
        "qc": readers.path,
        "threshold_sweep": readers.flag,
        "stop_on_first_crash": readers.flag,
        "resource_monitor": readers.flag,
        "verbose": readers.integer(0),
    }


def read_typed(options: Mapping[str, object], *, spelling: Callable[[str], str]) -> dict[str, Any]:
    """Convert options to the types of their fields; UsageError, with ``spelling`` of a name."""
    raw = dict(options)
    if "bids_filter_file" in raw:
        file = readers.path(raw.pop("bids_filter_file"))
        raw["bids_filters"] = option_files.read_json(file, what="the filter file")
    if "segmenter_config" in raw:
        file = readers.path(raw.pop("segmenter_config"))
        text = option_files.read_file(file, what="the configuration of the segmenter")
        raw["segmenter_options"] = parse_toml(text, str(file))
    option_readers = _option_readers()
    typed = {}
    for name, value in raw.items():
        try:
            typed[name] = option_readers[name](value)
        except ValueError as error:
            message = f"invalid value for {spelling(name)}: {_as_typed(value)}"
            raise UsageError(message, hint=f"use {error}") from error
    return typed


def _as_typed(value: object) -> str:
    """Show a value as on the command line, or as JSON if it came from a file."""
    values = [value] if isinstance(value, str) else value
    if isinstance(values, list) and values and all(isinstance(text, str) for text in values):
        return " ".join(values)
    return json.dumps(value, default=str)


def read_options(
    options: Mapping[str, object], *, spelling: Callable[[str], str] | None = None
) -> dict[str, Any]:
    """Read options, text or typed, by their names in RunConfig; UsageError if invalid."""
    return read_typed(options, spelling=spelling or as_flag)


def check_level(level: str) -> None:
    """Raise UnknownLevelError if a level does not exist."""
    if level not in LEVELS:
        raise UnknownLevelError(
            f"unknown analysis level {level}",
            hint=f"use {readers.alternatives(LEVELS)}{readers.nearest(level, LEVELS)}",
        )


def as_flag(name: str) -> str:
    """Return the name of an option on the command line."""
    names = {
        "bids_dir": "BIDS_DIR",
        "output_dir": "OUTPUT_DIR",
        "levels": "the analysis level",
        "bids_filters": "--bids-filter-file",
    }
    return names.get(name, f"--{name.replace('_', '-')}")


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """Parse the text of a configuration file."""
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{source} is not valid TOML: {error}", hint="correct it") from error


def plain_value(value: object) -> Any:
    """Convert a field's value to types that TOML and JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain_filter(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain_value(item) for item in value]
    return str(value) if isinstance(value, Path | OutputSpace | AtlasChoice) else value


def _plain_filter(value: object) -> Any:
    """Convert a filter; None becomes ``Query.NONE`` of pybids, because TOML has no null."""
    if isinstance(value, Mapping):
        return {str(key): _plain_filter(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain_filter(item) for item in value]
    return option_files.ABSENT if value is None else plain_value(value)


def check_folders(bids_dir: Path, output_dir: Path, work_dir: Path) -> None:
    """Raise UsageError for output that is the dataset, or a work folder inside it."""
    bids, output, work = (_resolved(path) for path in (bids_dir, output_dir, work_dir))
    if output == bids:
        raise UsageError(
            f"the output folder {output_dir} is the dataset itself",
            hint=f"use another folder, for example {bids_dir / 'derivatives' / 'bids_msseg'}",
        )
    if work.is_relative_to(bids) and not work.is_relative_to(output):
        raise UsageError(
            f"the work folder {work_dir} is in the dataset",
            hint="choose another --work-dir: intermediate files would make the dataset invalid",
        )


def _resolved(path: Path) -> Path:
    """Follow links; raise UsageError for a path that the system cannot follow."""
    try:
        resolved = path.resolve()
        with suppress(PermissionError):
            resolved.exists()
    except RuntimeError as error:
        raise UsageError(
            f"{path} is a circular symbolic link", hint="use a folder, or correct the link"
        ) from error
    except OSError as error:
        raise UsageError(
            f"{path} cannot be a folder: {error.strerror or error}", hint="use a shorter path"
        ) from error
    return resolved
