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
    """Which visits of the dataset are wanted.

    Parameters
    ----------
    participant_label, session_label : tuple of str
        Labels without ``sub-``/``ses-``; none means all.
    session_order : tuple of str
        Sessions without ``ses-`` in the order of the visits, the earliest first; none means that
        the dataset tells.
    exclude_participant_label : tuple of str
        Participants that are left out.
    ignore : tuple of {"t1w", "t2w"}
        Contrasts that are left out.
    bids_filters : mapping
        Content of ``--bids-filter-file``: for each contrast in lower case, entity to wanted value
        (text, number, list of these; None where the entity has to be absent). Keys of other apps
        may be there.
    skip_bids_validation : bool
        Do not ask for a valid dataset description.
    bids_database_dir : Path, optional
        Folder of pybids' index, made there if it is missing.
    derivatives : mapping of str to Path
        Further datasets by name, whose brain masks are used; ``freesurfer`` is the folder
        of FreeSurfer's subjects.
    lesion_masks, exclude_masks : mapping of str to Path
        Folders by name, or patterns of files with ``{subject}`` and ``{session}``: lesion masks
        that replace the networks; masks of what is no lesion.
    """

    participant_label: tuple[str, ...] = ()
    session_label: tuple[str, ...] = ()
    session_order: tuple[str, ...] = ()
    exclude_participant_label: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    bids_filters: Filters = field(default_factory=dict)
    skip_bids_validation: bool = False
    bids_database_dir: Path | None = None
    derivatives: Mapping[str, Path] = field(default_factory=dict)
    lesion_masks: Mapping[str, Path] = field(default_factory=dict)
    exclude_masks: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        roots_by_name(self.derivatives, self.lesion_masks, self.exclude_masks)

    @property
    def datasets(self) -> dict[str, Path]:
        """Folders of all files beside the dataset's own, by the name that outputs give them."""
        return roots_by_name(self.derivatives, self.lesion_masks, self.exclude_masks)


@dataclass(frozen=True, slots=True)
class Processing:
    """What changes the results: the part that decides whether a finished visit still holds.

    Parameters
    ----------
    output_spaces : tuple of OutputSpace
        Grids on which masks are written.
    atlas : tuple of AtlasChoice
        Atlases whose regions share out the lesion load.
    fill_lesions : bool
        Write FLAIR and T1w with filled lesions.
    lesion_roi : bool
        Write the mask on the T1w under the name by which fMRIPrep finds it.
    model : str, optional
        Absolute path of a model or the name of a bundled one; None is the bundled default.
    segmenter : {'cascade', 'nnunet', 'samseg', 'command'}
        What segments; see :mod:`bids_msseg.segmenters`.
    segmenter_options : mapping
        Content of ``--segmenter-config``; for others than the cascade.
    threshold : float, optional
        Probability at or above which a voxel is lesion, in (0, 1); None is the model's own.
    min_lesion_volume : float
        Smaller lesions are dropped, mm³.
    mask_values : tuple of int
        Values of given lesion masks that are lesion; none means any above zero.
    skull_stripped : {'auto', 'yes', 'no'}
        Whether the input's skulls are off already; ``auto`` looks at each image.
    fast : bool
        Trade some accuracy for time.
    random_seed : int
        Seed of everything that draws numbers.
    """

    output_spaces: tuple[OutputSpace, ...] = DEFAULT_SPACES
    atlas: tuple[AtlasChoice, ...] = ()
    fill_lesions: bool = False
    lesion_roi: bool = False
    model: str | None = None
    segmenter: str = CASCADE
    segmenter_options: Mapping[str, Any] = field(default_factory=dict)
    threshold: float | None = None
    min_lesion_volume: float = 3.0
    mask_values: tuple[int, ...] = ()
    skull_stripped: SkullStripped = "auto"
    fast: bool = False
    random_seed: int = 0


@dataclass(frozen=True, slots=True)
class Performance:
    """How much of the machine may be used.

    What is None is filled in by :func:`bids_msseg.resources.resolve_resources`.

    Parameters
    ----------
    nprocs, omp_nthreads : int, optional
        CPUs of the whole run, threads of one node.
    mem_gb : float, optional
        Memory of the whole run, GiB.
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``, for the networks.
    use_plugin : Path, optional
        File that names a nipype plugin and its arguments.
    """

    nprocs: int | None = None
    omp_nthreads: int | None = None
    mem_gb: float | None = None
    device: str = "auto"
    use_plugin: Path | None = None


@dataclass(frozen=True, slots=True)
class Execution:
    """How the run goes about it.

    Parameters
    ----------
    work_dir : Path, optional
        Folder for intermediate files; None is :attr:`bids_msseg.config.RunConfig.work_dir`.
    clean_workdir : bool
        Remove the work folders of the visits that this run processes, before it and after
        success.
    clean_outputs : bool
        Remove results of images that finished visits no longer use.
    dry_run, reports_only, boilerplate_only : bool
        At most one: say what would be done; make the reports from what is there; write the
        methods text.
    qc : Path, optional
        Folder with the files that readers saved; the group level honours them.
    threshold_sweep : bool
        The group level also writes load and count at other thresholds.
    stop_on_first_crash : bool
        End at the first visit that fails.
    resource_monitor : bool
        Record CPU and memory of every node.
    verbose : int
        How often ``-v`` was given.
    """

    work_dir: Path | None = None
    clean_workdir: bool = False
    clean_outputs: bool = False
    dry_run: bool = False
    reports_only: bool = False
    boilerplate_only: bool = False
    qc: Path | None = None
    threshold_sweep: bool = False
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
            raise UsageError(f"{' and '.join(modes)} exclude each other", hint="give one of them")
