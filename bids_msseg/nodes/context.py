"""Information about a visit that its nodes have before anything has run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bids_msseg.bids.derivatives import NO_EXTRAS, Extras, is_met
from bids_msseg.bids.record_values import ModelUse
from bids_msseg.bids.sidecars import Method, Origin, bids_uri
from bids_msseg.bids.visit import Visit
from bids_msseg.reports.methods import methods_paragraph


@dataclass(frozen=True, slots=True)
class DerivativesContext:
    """A visit, the place of its results and the content of their descriptions."""

    visit: Visit
    out_dir: Path
    bids_dir: Path
    model: ModelUse | None  # None if a given mask replaces the networks
    candidate_threshold: float | None  # None for another segmenter
    threshold: float
    min_lesion_volume: float  # mm³
    derivatives: Mapping[str, Path] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    methods: str = ""
    extras: Extras = NO_EXTRAS
    maps_fingerprint: str = ""  # without options that only cut lesions
    intermediate: Path | None = None  # archive from which lesions are cut again

    @property
    def with_anatomy(self) -> bool:
        """Whether the networks must find the anatomy and, without a mask, the lesions."""
        return is_met("anatomy", self.visit, self.extras)

    def uri(self, path: Path) -> str:
        """Return the BIDS URI of an input or output."""
        return bids_uri(path, {"raw": self.bids_dir, "": self.out_dir, **self.derivatives})

    def sources(self) -> tuple[str, ...]:
        """Return the URIs of all contrasts used."""
        return tuple(self.uri(path) for path in self.visit.contrasts.values())

    def lesion_sources(self) -> tuple[str, ...]:
        """Return the URIs of the files from which lesions are derived."""
        mask, excluded = self.visit.lesion_mask, map(self.uri, self.visit.exclude_masks)
        first = self.sources() if mask is None else (self.uri(self.visit.flair), self.uri(mask))
        return (*first, *excluded)

    def flair_origin(self, *sources: str) -> Origin:
        """Return the origin of an output on the FLAIR grid."""
        flair = self.uri(self.visit.flair)
        return Origin(sources or self.sources(), flair, software=self.versions)

    def method(self) -> Method:
        """Return the description of the method that found the lesions."""
        mask_files = [] if self.visit.lesion_mask is None else [self.visit.lesion_mask]
        return Method(
            self.model,
            self.threshold,
            self.min_lesion_volume,
            self.candidate_threshold,
            masks=self._datasets(mask_files),
            excluded=self._datasets(self.visit.exclude_masks),
        )

    def _datasets(self, masks: Iterable[Path]) -> str:
        return ", ".join(dict.fromkeys(self.uri(mask).split(":")[1] for mask in masks))

    def described(self) -> DerivativesContext:
        """Return a copy with the methods paragraph."""
        name, sha256 = (self.model.name, self.model.sha256) if self.model else ("", "")
        method = self.method()
        methods = methods_paragraph(
            list(self.visit.contrasts),
            model=name,
            sha256=sha256,
            threshold=self.threshold,
            min_lesion_volume=self.min_lesion_volume,
            versions=self.versions,
            masks=method.masks,
            excluded=method.excluded,
            segmenter=self.model if method.other_segmenter else None,
        )
        return replace(self, methods=methods)

    def without(self, contrasts: Collection[str]) -> DerivativesContext:
        """Return a copy without contrasts that could not be aligned."""
        if not contrasts:
            return self
        removed: dict[str, Any] = {name.lower(): None for name in contrasts}
        return replace(self, visit=replace(self.visit, **removed)).described()
