"""The four parts of :class:`~bids_msseg.config.RunConfig`; every option is a field of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bids_msseg.errors import UsageError
from bids_msseg.option_files import roots_by_name
from bids_msseg.options import CASCADE, DEFAULT_SPACES, SkullStripped
from bids_msseg.spaces import AtlasChoice, OutputSpace

Filters = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Query:
    """Selection of visits (labels without prefix; none selects all) and of further inputs."""

    participant_label: tuple[str, ...] = ()
    session_label: tuple[str, ...] = ()
    session_order: tuple[str, ...] = ()  # the earliest visit first
    exclude_participant_label: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    bids_filters: Filters = field(default_factory=dict)
    skip_bids_validation: bool = False
    bids_database_dir: Path | None = None
    derivatives: Mapping[str, Path] = field(default_factory=dict)  # brain masks, FreeSurfer
    lesion_masks: Mapping[str, Path] = field(default_factory=dict)  # replace the networks
    exclude_masks: Mapping[str, Path] = field(default_factory=dict)  # mark non-lesions

    def __post_init__(self) -> None:
        roots_by_name(self.derivatives, self.lesion_masks, self.exclude_masks)

    @property
    def datasets(self) -> dict[str, Path]:
        """Folders of all files outside the dataset, by the name used in outputs."""
        return roots_by_name(self.derivatives, self.lesion_masks, self.exclude_masks)


@dataclass(frozen=True, slots=True)
class Processing:
    """Options that change the results; a finished visit is valid while they are unchanged."""

    output_spaces: tuple[OutputSpace, ...] = DEFAULT_SPACES
    atlas: tuple[AtlasChoice, ...] = ()
    fill_lesions: bool = False
    lesion_roi: bool = False  # name the T1w mask for fMRIPrep
    model: str | None = None
    segmenter: str = CASCADE
    segmenter_options: Mapping[str, Any] = field(default_factory=dict)
    threshold: float | None = None  # of the probability; None for the model's own
    min_lesion_volume: float = 3.0  # mm³
    mask_values: tuple[int, ...] = ()  # empty: any above zero
    skull_stripped: SkullStripped = "auto"
    fast: bool = False
    random_seed: int = 0


@dataclass(frozen=True, slots=True)
class Performance:
    """CPU, memory (GiB) and device settings of a run; ``resolve_resources`` replaces None."""

    nprocs: int | None = None
    omp_nthreads: int | None = None
    mem_gb: float | None = None
    device: str = "auto"  # or cpu, cuda, cuda:N, mps
    use_plugin: Path | None = None  # file with a nipype plugin and its arguments


@dataclass(frozen=True, slots=True)
class Execution:
    """Settings of how a run is carried out."""

    work_dir: Path | None = None
    clean_workdir: bool = False
    clean_outputs: bool = False  # remove results of unused images and of absent visits
    dry_run: bool = False
    reports_only: bool = False
    boilerplate_only: bool = False
    qc: Path | None = None  # folder of readers' ratings, for the group level
    threshold_sweep: bool = False  # at the group level
    stop_on_first_crash: bool = False
    resource_monitor: bool = False
    verbose: int = 0

    def __post_init__(self) -> None:
        modes = [
            f"--{name.replace('_', '-')}"
            for name in ("dry_run", "reports_only", "boilerplate_only")
            if getattr(self, name)
        ]
        if len(modes) > 1:
            raise UsageError(f"{' and '.join(modes)} cannot be combined", hint="use one of them")
