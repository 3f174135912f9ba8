"""Segmenter for SAMSEG with its lesion model, from FreeSurfer or the package ``samseg``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bids_msseg import readers
from bids_msseg.imaging.volume import Volume
from bids_msseg.models.weights import ModelHeader
from bids_msseg.segmenters.base import BRAIN, Identity, read_settings, time_limit
from bids_msseg.segmenters.images import VisitImages, read_probability
from bids_msseg.segmenters.programs import (
    installed_version,
    locate,
    require_program,
    run_program,
)

PROGRAM: Final = "run_samseg"
THRESHOLD: Final = 0.3
"""Its own default for lesions."""
PATTERN: Final[Mapping[str, str]] = {"T1w": "0", "FLAIR": "1", "T2w": "1"}
"""Order of the inputs, and how bright a lesion is: 1 brighter than cortex, 0 of any intensity."""
POSTERIOR: Final = Path("posteriors", "Lesions.mgz")
LICENCE: Final = "MIT (metadata of the package); FreeSurfer's licence where FreeSurfer installs it"
CITATION: Final = "Cerri et al. 2021, NeuroImage 225:117471, doi 10.1016/j.neuroimage.2020.117471"


@dataclass(frozen=True, slots=True)
class SamsegSegmenter:
    """Segmenter that runs ``run_samseg --lesion`` and reads the lesion posterior."""

    identity: Identity
    program: str = PROGRAM
    options: tuple[str, ...] = ()  # further command-line words
    timeout_s: float | None = None
    whole_head: bool = True  # SAMSEG's registration expects the tissue around the brain
    mem_gb: float = 5.0  # GiB

    @property
    def name(self) -> str:
        """Name in records, pages and errors."""
        return self.identity.name

    def describe(self) -> ModelHeader:
        """Return the identity; the digest covers version, options and input."""
        content = [self.options, self.whole_head]
        return self.identity.header(content, contrasts=list(PATTERN))

    def check(self) -> None:
        """See :class:`~bids_msseg.segmenters.base.Segmenter`."""
        require_program(
            self.program,
            hint="install samseg and tensorflow in a separate environment, and set "
            "program = 'PATH/bin/run_samseg' in the --segmenter-config file",
        )

    def segment(self, images: VisitImages, *, threads: int, device: str) -> Volume:  # noqa: ARG002
        """See :class:`~bids_msseg.segmenters.base.Segmenter`; it runs on CPUs."""
        out = images.folder / "samseg"
        run_program(
            [self.program, *self._arguments(images, out, threads)],
            name=self.name,
            folder=images.folder,
            threads=threads,
            timeout_s=self.timeout_s,
        )
        return read_probability(out / POSTERIOR, images, name=self.name)

    def _arguments(self, images: VisitImages, out: Path, threads: int) -> list[str]:
        contrasts = [name for name in PATTERN if name in images.files]
        return [
            "--input",
            *(str(images.files[name]) for name in contrasts),
            "--output",
            str(out),
            "--pallidum-separate",
            "--lesion",
            "--lesion-mask-pattern",
            *(PATTERN[name] for name in contrasts),
            "--save-posteriors",
            "Lesions",
            "--threads",
            str(threads),
            *self.options,
        ]


def open_samseg(options: Mapping[str, object]) -> SamsegSegmenter:
    """Create a SAMSEG segmenter from its options; UsageError if one is unusable."""
    option_readers: dict[str, Callable[[object], Any]] = {
        "program": readers.text,
        "options": readers.items,
        "timeout_minutes": time_limit,
    }
    settings = read_settings(options, option_readers)
    program = locate(settings.get("program", PROGRAM))
    identity = Identity(
        "samseg",
        settings.get("name", "SAMSEG"),
        settings.get("version") or installed_version(program, "samseg"),
        settings.get("licence", LICENCE),
        settings.get("citation", CITATION),
        THRESHOLD,
    )
    return SamsegSegmenter(
        identity,
        program,
        tuple(settings.get("options", ())),
        timeout_s=settings.get("timeout_minutes"),
        whole_head=settings.get("input") != BRAIN,
    )
