"""Content of an nnU-Net v2 model folder: channels, labels, folds."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bids_msseg import readers
from bids_msseg.errors import DataError, NoInputError, UsageError
from bids_msseg.imaging.normalise import CONTRASTS
from bids_msseg.segmenters.base import Identity
from bids_msseg.segmenters.programs import installed_version

PACKAGE: Final = "nnunetv2"
PROGRAM: Final = "nnUNetv2_predict_from_modelfolder"
LICENCE: Final = "nnU-Net: Apache-2.0"
CITATION: Final = "Isensee et al. 2021, Nature Methods 18:203, doi 10.1038/s41592-020-01008-z"
NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "FLAIR": ("flair", "t2flair", "t2wflair", "flairt2"),
    "T1w": ("t1", "t1w", "t1n", "mprage", "t1mprage"),
    "T2w": ("t2", "t2w"),
}
"""Channel names of each contrast, in small letters and digits."""


def identify(settings: Mapping[str, Any], name: str, program: str) -> Identity:
    """Identify the model by the options, or else by its folder's name."""
    version = f"{PACKAGE} {_version(program)}".rstrip()
    return Identity(
        "nnunet",
        settings.get("name", name),
        f"{settings['version']}, {version}" if "version" in settings else version,
        f"{LICENCE}; model: {settings.get('licence', 'not stated')}",
        "; ".join(filter(None, (settings.get("citation", ""), CITATION))),
    )


def _version(program: str) -> str:
    """Find the version of nnU-Net: that of its program, or else of this environment."""
    if program:
        return installed_version(program, PACKAGE)
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return ""


def find_ending(dataset: Mapping[str, Any]) -> str:
    """Return the image file ending in ``dataset.json``; UsageError unless it is NIfTI's."""
    ending = dataset.get("file_ending", ".nii.gz")
    if ending not in (".nii", ".nii.gz"):
        raise UsageError(
            f"the nnU-Net program reads files with the extension {ending} for this model",
            hint=f"remove program and install the package {PACKAGE} in this environment",
        )
    return str(ending)


def read_folds(value: object) -> tuple[int | str, ...]:
    """Read the option ``folds``: numbers, or ``all``."""
    items = list(value) if isinstance(value, list | tuple) else [value]
    if items == ["all"]:
        return ("all",)
    try:
        folds = tuple(readers.integer(0)(fold) for fold in items)
    except ValueError as error:
        raise ValueError("fold numbers, or all") from error
    if not folds:
        raise ValueError("fold numbers, or all")
    return folds


def read_channels(value: object) -> tuple[str, ...]:
    """Read the option ``channels``."""
    contrasts = {name.lower(): name for name in CONTRASTS}
    items = [item.lower() for item in readers.items(value)]
    if not items or not set(items) <= set(contrasts):
        raise ValueError("the contrast of each channel, in order: FLAIR, T1w or T2w")
    return tuple(contrasts[item] for item in items)


def read_descriptions(model: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read ``dataset.json`` and ``plans.json`` of a model folder; MssegError if unusable."""
    dataset, plans = (_read_json(model / name) for name in ("dataset.json", "plans.json"))
    configurations = plans.get("configurations")
    name = model.name.rpartition("__")[2]
    configuration = configurations.get(name) if isinstance(configurations, dict) else None
    if isinstance(configuration, dict) and configuration.get("previous_stage"):
        raise UsageError(
            f"{model.name} is the second stage of an nnU-Net cascade",
            hint="use a model of the configuration 3d_fullres, 3d_lowres or 2d",
        )
    return dataset, plans


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise NoInputError(
            f"the file {path} does not exist",
            hint="set model to the folder of a trained model, such as "
            "Dataset001_X/nnUNetTrainer__nnUNetPlans__3d_fullres",
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(content, dict):
        raise _damaged(path, "it is not a JSON object")
    return content


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(f"{path} cannot be used: {reason}", hint="copy the model folder again")


def find_folds(
    model: Path, checkpoint: str, requested: Sequence[int | str]
) -> tuple[int | str, ...]:
    """List the requested folds, or all that exist; NoInputError if a checkpoint is missing."""
    available = {
        path.parent.name.removeprefix("fold_") for path in model.glob(f"fold_*/{checkpoint}")
    }
    numbers = sorted(int(fold) for fold in available if fold.isdecimal())
    folds: tuple[int | str, ...] = tuple(requested or numbers or ("all",))
    missing = [f"fold_{fold}/{checkpoint}" for fold in folds if str(fold) not in available]
    if missing:
        raise NoInputError(
            f"the model folder {model} has no {', '.join(missing)}",
            hint="correct model, folds or checkpoint in the segmenter configuration",
        )
    return folds


def find_channels(dataset: Mapping[str, Any], requested: Sequence[str]) -> tuple[str, ...]:
    """Find the contrast of each input channel, in channel order; UsageError if unknown."""
    channel_names = _mapping(dataset.get("channel_names") or dataset.get("modality"))
    names = [
        channel_names[number] for number in sorted(channel_names, key=lambda key: (len(key), key))
    ]
    contrasts = list(requested) or [_contrast(name) for name in names]
    if not names or len(contrasts) != len(names) or not all(contrasts):
        raise UsageError(
            f"cannot assign contrasts to the model's channels: {', '.join(names) or 'no names'}",
            hint="set the contrast of each channel, in this order, in the segmenter "
            "configuration, such as channels = ['FLAIR', 'T1w']",
        )
    return tuple(contrasts)


def _mapping(value: object) -> dict[str, str]:
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {}


def _contrast(name: str) -> str:
    """Return the contrast of a channel name; empty if it is unknown."""
    simplified = re.sub(r"[^a-z0-9]", "", name.lower())
    return next((contrast for contrast, names in NAMES.items() if simplified in names), "")


def find_head(dataset: Mapping[str, Any], label: str) -> int:
    """Find the lesion output channel, by default of the only lesion label, or UsageError."""
    # labels: channels in the order of values; regions (lists): in order, without background
    labels = _labels(dataset)
    names = [name for name, values in labels.items() if set(values) != {0}]
    matching = [name for name in names if "lesion" in name.lower()]
    chosen = [label] if label else names if len(names) == 1 else matching
    if len(chosen) != 1 or chosen[0] not in names:
        raise UsageError(
            f"cannot choose the lesion label of the model: {', '.join(names) or 'no names'}",
            hint="set the name of the lesion label in the segmenter configuration, such as "
            "label = 'lesion'",
        )
    if any(len(values) > 1 for values in labels.values()):
        return names.index(chosen[0])
    order = sorted({values[0] for values in labels.values()})
    return order.index(labels[chosen[0]][0])


def _labels(dataset: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Read the values of each label name, without the label that training ignored."""
    content = dataset.get("labels")
    try:
        return {
            str(name): tuple(map(int, value if isinstance(value, list) else [value]))
            for name, value in (content if isinstance(content, dict) else {}).items()
            if name != "ignore" and value != []
        }
    except (TypeError, ValueError) as error:
        raise DataError(
            f"dataset.json has labels that are not numbers: {error}",
            hint="copy the model folder again",
        ) from error
