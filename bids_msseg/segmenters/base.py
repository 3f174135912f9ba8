"""Protocol, identity and options of segmenters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from bids_msseg import readers
from bids_msseg.errors import DataError, UsageError
from bids_msseg.imaging.volume import Volume
from bids_msseg.models.weights import CascadePoint, ModelHeader
from bids_msseg.segmenters.images import VisitImages

BRAIN, HEAD = "brain", "head"
COMMON: Final[Mapping[str, Callable[[object], Any]]] = {
    "name": readers.text,
    "version": readers.text,
    "licence": readers.text,
    "citation": readers.text,
    "input": readers.choice(BRAIN, HEAD),
}
"""Options that every segmenter has."""


class Segmenter(Protocol):
    """A program or network that finds lesions; a frozen dataclass, sent to other processes."""

    @property
    def name(self) -> str:
        """Name in records, pages and errors."""

    @property
    def whole_head(self) -> bool:
        """Whether its images show the whole head instead of the brain alone."""

    @property
    def mem_gb(self) -> float:
        """Memory that a run may need, GiB."""

    def describe(self) -> ModelHeader:
        """Return the identity for records; the digest covers model and settings."""

    def check(self) -> None:
        """Raise UsageError, before the first visit, if a package or program is missing."""

    def segment(self, images: VisitImages, *, threads: int, device: str) -> Volume:
        """Return the lesion probability (float32) on the grid of the images, or MssegError."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Identity of a segmenter for records."""

    segmenter: str  # its --segmenter name
    name: str
    version: str
    licence: str
    citation: str
    threshold: float = 0.5  # of the probability, unless --threshold is given

    def header(
        self, content: object, *, contrasts: Sequence[str], files: Iterable[Path] = ()
    ) -> ModelHeader:
        """Describe the segmenter with a digest of settings and files; may raise DataError."""
        settings = [self.segmenter, self.name, self.version, content]
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for path in files:
            try:
                with path.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
            except OSError as error:
                raise DataError(
                    f"{path} cannot be read: {error.strerror or error}",
                    hint="check the model path and its permissions",
                ) from error
        return ModelHeader(
            self.name,
            self.version,
            members={},
            point=CascadePoint(threshold=self.threshold),
            notes={},
            sha256=digest.hexdigest(),
            segmenter=self.segmenter,
            licence=self.licence,
            citation=self.citation,
            contrasts=tuple(contrasts),
        )


def read_settings(
    options: Mapping[str, object],
    option_readers: Mapping[str, Callable[[object], Any]],
    *,
    required: Sequence[str] = (),
) -> dict[str, Any]:
    """Read the given options of ``--segmenter-config``; UsageError if one is not valid."""
    all_readers = {**COMMON, **option_readers}
    settings = {}
    for key, value in options.items():
        if key not in all_readers:
            raise UsageError(
                f"unknown option {key} in the segmenter configuration",
                hint=f"remove it or correct its name{readers.nearest(key, all_readers)}",
            )
        try:
            settings[key] = all_readers[key](value)
        except ValueError as error:
            raise UsageError(
                f"invalid value for {key} in the segmenter configuration: {value}",
                hint=f"use {error}",
            ) from error
    missing = [key for key in required if key not in settings]
    if missing:
        raise UsageError(
            f"missing in the segmenter configuration: {', '.join(missing)}",
            hint="set it in the --segmenter-config file",
        )
    return settings


def time_limit(value: object) -> float:
    """Read the option ``timeout_minutes``, in s."""
    return 60 * readers.number("a number of minutes above 0", lambda x: x > 0)(value)
