"""Segmenter that runs a trained nnU-Net v2 model folder with nnU-Net's package or program.

Isensee et al. 2021, Nature Methods 18:203, doi 10.1038/s41592-020-01008-z. nnU-Net loads its
checkpoints with pickle, which can run code: use only folders from a trusted source.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from bids_msseg import readers
from bids_msseg.errors import DataError, MssegError, UsageError
from bids_msseg.imaging.volume import Volume, load_volume, save_volume
from bids_msseg.models.weights import ModelHeader
from bids_msseg.segmenters import nnunet_folder
from bids_msseg.segmenters.base import HEAD, Identity, read_settings, time_limit
from bids_msseg.segmenters.images import VisitImages, read_probability
from bids_msseg.segmenters.nnunet_folder import PACKAGE, PROGRAM
from bids_msseg.segmenters.programs import (
    LOG_FILE,
    failure,
    locate,
    require_program,
    run_program,
)

CHECKPOINT: Final = "checkpoint_final.pth"
OUT_FILE: Final = "nnunet.nii.gz"
CASE: Final = "visit"
Probability = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class NnunetSegmenter:
    """Segmenter that runs a trained nnU-Net v2 model folder."""

    identity: Identity
    model: Path
    folds: tuple[int | str, ...]  # averaged
    channels: tuple[str, ...]  # input contrasts
    head: int  # output channel of lesions
    checkpoint: str = CHECKPOINT
    mirroring: bool = True
    step: float = 0.5  # distance of tiles as a share of a tile
    whole_head: bool = False
    program: str = ""  # empty: the installed package
    ending: str = ".nii.gz"
    timeout_s: float | None = None  # of the program
    mem_gb: float = 6.0  # GiB

    @property
    def name(self) -> str:
        """Name in records, pages and errors."""
        return self.identity.name

    def describe(self) -> ModelHeader:
        """Return the identity; the digest covers files and settings, not the path."""
        content = [self.folds, self.channels, self.head, self.mirroring, self.step]
        files = [self.model / "dataset.json", self.model / "plans.json"]
        files += [self.model / f"fold_{fold}" / self.checkpoint for fold in self.folds]
        return self.identity.header(
            [*content, self.whole_head], contrasts=self.channels, files=files
        )

    def check(self) -> None:
        """See :class:`~bids_msseg.segmenters.base.Segmenter`."""
        if self.program:
            hint = f"set program to the path of {PROGRAM} in the --segmenter-config file"
            require_program(self.program, hint=hint)
        elif importlib.util.find_spec(PACKAGE) is None:
            raise UsageError(
                f"nnU-Net models need the package {PACKAGE}",
                hint="pip install 'bids_msseg[nnunet]', or install it in a separate environment "
                f"and set program = 'PATH/bin/{PROGRAM}' in the --segmenter-config file",
            )

    def segment(self, images: VisitImages, *, threads: int, device: str) -> Volume:
        """See :class:`~bids_msseg.segmenters.base.Segmenter`."""
        paths = images.paths_of(self.channels, name=self.name)
        volumes = [load_volume(path) for path in paths]
        run = self._run_program if self.program else self._run_package
        probability = run(volumes, images.folder, threads, device)
        out = images.folder / OUT_FILE
        # nnU-Net's axes are those of SimpleITK: z, y, x
        save_volume(volumes[0].with_data(probability.transpose(2, 1, 0)), out)
        return read_probability(out, images, name=self.name)

    def _run_program(
        self, volumes: Sequence[Volume], folder: Path, threads: int, device: str
    ) -> Probability:
        """Run the folds in a separate process; return the probability (Z, Y, X)."""
        input_dir, output_dir = folder / "nnunet_in", folder / "nnunet_out"
        input_dir.mkdir()
        for number, volume in enumerate(volumes):
            save_volume(volume, input_dir / f"{CASE}_{number:04d}{self.ending}")
        kind, environment = _choose_device(device)
        run_program(
            [self.program, *self._arguments(input_dir, output_dir, kind)],
            name=self.name,
            folder=folder,
            threads=threads,
            timeout_s=self.timeout_s,
            environment={
                **environment,
                "nnUNet_def_n_proc": str(threads),
                # the program takes as many threads as there are CPUs; Python 3.13 counts so many
                "PYTHON_CPU_COUNT": str(threads),
            },
        )
        return self._read_output(output_dir / f"{CASE}.npz", folder / LOG_FILE)

    def _arguments(self, input_dir: Path, output_dir: Path, device: str) -> list[str]:
        arguments = ["-i", str(input_dir), "-o", str(output_dir), "-m", str(self.model), "-f"]
        arguments += map(str, self.folds)
        arguments += ["-chk", self.checkpoint, "-step_size", f"{self.step:g}", "-device", device]
        arguments += ["-npp", "1", "-nps", "1", "--save_probabilities"]
        return arguments if self.mirroring else [*arguments, "--disable_tta"]

    def _read_output(self, path: Path, log: Path) -> Probability:
        if not path.is_file():
            raise failure(self.name, f"did not write {path.name}", log)
        try:
            with np.load(path, allow_pickle=False) as content:
                return np.asarray(content["probabilities"][self.head], np.float32)
        except (OSError, ValueError, KeyError, IndexError, EOFError, BadZipFile) as error:
            raise DataError(
                f"{path.name} of {self.name} cannot be read: {error}",
                hint="use the package nnunetv2 2.6 or later",
            ) from error

    def _run_package(
        self, volumes: Sequence[Volume], folder: Path, threads: int, device: str
    ) -> Probability:
        """Run the folds in this process; return the probability (Z, Y, X)."""
        data = np.stack([volume.data.transpose(2, 1, 0) for volume in volumes])
        spacing = [float(edge) for edge in volumes[0].spacing[::-1]]
        log = folder / LOG_FILE
        try:
            with log.open("w", encoding="utf-8") as stream, contextlib.redirect_stdout(stream):
                return self._predict(data, spacing, threads, device)
        except (MssegError, MemoryError):
            raise
        except Exception as error:
            if "out of memory" in str(error):
                raise
            first = (str(error).splitlines() or [""])[0]
            raise failure(self.name, f"failed: {type(error).__name__}: {first}", log) from error

    def _predict(
        self, data: Probability, spacing: list[float], threads: int, device: str
    ) -> Probability:
        """Run the folds on an array (C, Z, Y, X)."""
        # nnU-Net reads it when it is imported
        os.environ.setdefault("nnUNet_def_n_proc", str(threads))
        import torch
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        from bids_msseg.models.engine import choose_engine

        torch.set_num_threads(threads)
        chosen = choose_engine(device).device
        predictor = nnUNetPredictor(
            tile_step_size=self.step,
            use_gaussian=True,
            use_mirroring=self.mirroring,
            perform_everything_on_device=chosen.startswith("cuda"),
            device=torch.device(chosen),
            verbose=False,
            verbose_preprocessing=False,
            allow_tqdm=False,
        )
        predictor.initialize_from_trained_model_folder(
            str(self.model), use_folds=self.folds, checkpoint_name=self.checkpoint
        )
        _, probabilities = predictor.predict_single_npy_array(
            data, {"spacing": spacing}, None, None, True
        )
        return np.asarray(probabilities[self.head], np.float32)


def _choose_device(device: str) -> tuple[str, dict[str, str]]:
    """Return the kind of a device, and the environment that selects the GPU."""
    from bids_msseg.models.engine import choose_engine

    kind, _, number = choose_engine(device).device.partition(":")
    if not number:
        return kind, {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if visible != [""] and int(number) < len(visible):
        number = visible[int(number)]
    return kind, {"CUDA_VISIBLE_DEVICES": number}


def open_nnunet(options: Mapping[str, object]) -> NnunetSegmenter:
    """Create an nnU-Net segmenter; MssegError if its options or model folder are unusable."""
    option_readers: dict[str, Callable[[object], Any]] = {
        "model": readers.path,
        "folds": nnunet_folder.read_folds,
        "checkpoint": readers.text,
        "channels": nnunet_folder.read_channels,
        "label": readers.text,
        "mirroring": readers.flag,
        "step": readers.number("a share of a tile, above 0 and at most 1", lambda x: 0 < x <= 1),
        "program": readers.text,
        "timeout_minutes": time_limit,
    }
    settings = read_settings(options, option_readers, required=("model",))
    model, checkpoint = settings["model"], settings.get("checkpoint", CHECKPOINT)
    dataset, plans = nnunet_folder.read_descriptions(model)
    program = _find_program(settings.get("program"))
    return NnunetSegmenter(
        nnunet_folder.identify(
            settings, str(plans.get("dataset_name") or model.parent.name), program
        ),
        model,
        nnunet_folder.find_folds(model, checkpoint, settings.get("folds", ())),
        nnunet_folder.find_channels(dataset, settings.get("channels", ())),
        nnunet_folder.find_head(dataset, settings.get("label", "")),
        checkpoint,
        mirroring=settings.get("mirroring", True),
        step=settings.get("step", 0.5),
        whole_head=settings.get("input") == HEAD,
        program=program,
        ending=nnunet_folder.find_ending(dataset) if program else ".nii.gz",
        timeout_s=settings.get("timeout_minutes"),
    )


def _find_program(requested: str | None) -> str:
    """Return the path of the program; empty if the package is used."""
    if requested is not None:
        return locate(requested)
    if importlib.util.find_spec(PACKAGE) is not None or shutil.which(PROGRAM) is None:
        return ""
    return locate(PROGRAM)
