"""What one run was asked to do: :class:`RunConfig`, a frozen value, read from and written as TOML.

The command line and a configuration file speak the same words: every option is a field of one of
the four parts of :class:`RunConfig`, under the option's name with underscores. A file has one
table for each part::

    [query]
    participant_label = ["01", "07"]

    [processing]
    threshold = 0.4
    output_spaces = ["FLAIR", "MNI152NLin2009aSym:res-1"]

Where both name an option, the command line wins; where neither does, the default below holds.
``None`` means "find out when the run starts", so that a file written on one machine serves on
another.

Public names: :class:`RunConfig`, :class:`Query`, :class:`Processing`, :class:`Performance`,
:class:`Execution`, :class:`OutputSpace`, :func:`read_options`.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal

from bids_msseg import __version__, readers
from bids_msseg.errors import UnknownLevelError, UsageError

Level = Literal["participant", "group"]
SkullStripped = Literal["auto", "yes", "no"]
Filters = Mapping[str, Any]

LEVELS: Final[tuple[Level, ...]] = ("participant", "group")
LEVEL_SYNONYMS: Final[Mapping[str, Level]] = {
    "subject": "participant",
    "session": "participant",
    "dataset": "group",
}
"""Levels as the BIDS execution specification names them."""
NATIVE_SPACES: Final = ("FLAIR", "T1w")
WORK_FOLDER: Final = ".work"


@dataclass(frozen=True, slots=True)
class OutputSpace:
    """A grid on which results are written.

    Parameters
    ----------
    name : str
        ``FLAIR``, ``T1w`` (the visit's own grids) or the identifier of a TemplateFlow template.
    resolution : int, optional
        Index of the template's grid, as in ``res-1``.
    """

    name: str
    resolution: int | None = None

    @classmethod
    def parse(cls, text: str) -> OutputSpace:
        """Read ``NAME`` or ``NAME:res-N``.

        Parameters
        ----------
        text : str
            A space as the user writes it; the native ones in any case, the T1w also as ``anat``.

        Returns
        -------
        OutputSpace

        Raises
        ------
        ValueError
            If the text is not of that form; it says what is expected.

        Examples
        --------
        >>> OutputSpace.parse("MNI152NLin2009aSym:res-1")
        OutputSpace(name='MNI152NLin2009aSym', resolution=1)
        >>> OutputSpace.parse("flair")
        OutputSpace(name='FLAIR', resolution=None)
        """
        match = re.fullmatch(r"([A-Za-z0-9]+)(?::res-0*([1-9][0-9]*))?", text)
        if match is None:
            raise ValueError("FLAIR, T1w, or a TemplateFlow name such as MNI152NLin2009aSym:res-1")
        name, resolution = match.groups()
        native = {"anat": "T1w", "flair": "FLAIR", "t1w": "T1w"}.get(name.lower())
        if native and resolution:
            raise ValueError(f"{native} without :res-{resolution}, which only templates have")
        if name.lower() in ("t1", "t2", "t2w"):
            raise ValueError("FLAIR, T1w, or a TemplateFlow name: no other native grid is offered")
        return cls(native or name, int(resolution) if resolution else None)

    @property
    def is_native(self) -> bool:
        """Whether it is a grid of the visit itself, not of a template."""
        return self.name in NATIVE_SPACES

    def __str__(self) -> str:
        return self.name if self.resolution is None else f"{self.name}:res-{self.resolution}"


DEFAULT_SPACES: Final = (
    OutputSpace("FLAIR"),
    OutputSpace("T1w"),
    OutputSpace("MNI152NLin2009aSym", 1),
)


def _read_spaces(value: object) -> tuple[OutputSpace, ...]:
    spaces = [OutputSpace.parse(item) for item in readers.items(value)]
    if not spaces:
        raise ValueError("at least one space, FLAIR for example")
    return tuple(dict.fromkeys(spaces))


def _read_threshold(value: object) -> float:
    words = "a number between 0 and 1, both excluded"
    return readers.number(words, lambda x: 0 < x < 1)(value)


def _read_volume(value: object) -> float:
    return readers.number("a volume in mm³, 0 or more", lambda x: x >= 0)(value)


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


def _read_ignored(value: object) -> tuple[str, ...]:
    """Read the contrasts that are left out."""
    contrasts = [item.lower() for item in readers.items(value)]
    if not set(contrasts) <= {"t1w", "t2w"}:
        raise ValueError("t1w or t2w: the FLAIR is always needed")
    return tuple(dict.fromkeys(contrasts))


def _read_levels(value: object) -> tuple[Level, ...]:
    """Put the levels into the order in which they run."""
    levels = [LEVEL_SYNONYMS.get(word, word) for word in readers.items(value)]
    for level in levels:
        _check_level(level)
    if not levels:
        raise ValueError(readers.alternatives(LEVELS))
    return tuple(level for level in LEVELS if level in levels)


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
        Further datasets by name, whose brain masks are used.
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


@dataclass(frozen=True, slots=True)
class Processing:
    """What changes the results: the part that decides whether a finished visit still holds.

    Parameters
    ----------
    output_spaces : tuple of OutputSpace
        Grids on which masks are written.
    model : str, optional
        Absolute path of a model or the name of a shipped one; None is the shipped default.
    threshold : float, optional
        Probability above which a voxel is lesion, in (0, 1); None is the model's own.
    min_lesion_volume : float
        Smaller lesions are dropped, mm³.
    skull_stripped : {'auto', 'yes', 'no'}
        Whether the input's skulls are off already; ``auto`` looks at each image.
    fast : bool
        Trade some accuracy for time.
    random_seed : int
        Seed of everything that draws numbers.
    """

    output_spaces: tuple[OutputSpace, ...] = DEFAULT_SPACES
    model: str | None = None
    threshold: float | None = None
    min_lesion_volume: float = 3.0
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
        Folder for intermediate files; None is :attr:`RunConfig.work_dir`'s default.
    clean_workdir : bool
        Empty that folder first.
    clean_outputs : bool
        Remove results of images that finished visits no longer use.
    dry_run, reports_only, boilerplate_only : bool
        At most one: say what would be done; make the reports from what is there; write the
        methods text.
    qc : Path, optional
        Folder with the files that readers saved; the group level honours them.
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


@dataclass(frozen=True, slots=True)
class RunConfig:
    r"""Everything one run was asked to do.

    Parameters
    ----------
    bids_dir, output_dir : Path
        The dataset, and where the derivatives go; absolute when read from text.
    levels : tuple of {'participant', 'group'}
        In the order in which they run.
    query : Query
    processing : Processing
    performance : Performance
    execution : Execution
    notes : tuple of str
        What was taken otherwise than it was written; for the log.

    Raises
    ------
    UnknownLevelError
        For a level that does not exist.
    UsageError
        If folders lie where they would spoil the dataset.

    Examples
    --------
    >>> config = RunConfig.from_toml(
    ...     "[processing]\nthreshold = 0.4",
    ...     overrides={"bids_dir": "/bids", "output_dir": "/out", "levels": ["participant"]},
    ... )
    >>> config.processing.threshold, str(config.work_dir)
    (0.4, '/out/.work')
    """

    bids_dir: Path
    output_dir: Path
    levels: tuple[Level, ...]
    query: Query = field(default_factory=Query)
    processing: Processing = field(default_factory=Processing)
    performance: Performance = field(default_factory=Performance)
    execution: Execution = field(default_factory=Execution)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        for level in self.levels:
            _check_level(level)
        _check_folders(self.bids_dir, self.output_dir, self.work_dir)

    @property
    def work_dir(self) -> Path:
        """Folder for intermediate files: as asked for, else ``.work`` in the output folder."""
        return self.execution.work_dir or self.output_dir / WORK_FOLDER

    @classmethod
    def from_options(cls, options: Mapping[str, object]) -> RunConfig:
        """Build from options by name, each as text or of its own type.

        Parameters
        ----------
        options : mapping of str to object
            ``bids_dir``, ``output_dir``, ``levels`` and any field of the four parts, or
            ``bids_filter_file``.

        Returns
        -------
        RunConfig

        Raises
        ------
        UsageError
            For a value that an option cannot have, or a missing folder or level.
        """
        return cls._build(_typed(options, spelling=_as_flag))

    @classmethod
    def from_toml(
        cls,
        text: str,
        *,
        overrides: Mapping[str, object] | None = None,
        source: str = "the configuration file",
    ) -> RunConfig:
        """Read what :meth:`to_toml` wrote, or a part of it written by hand.

        Parameters
        ----------
        text : str
            TOML; keys may stand in their part's table or before all tables, with ``-`` or ``_``.
        overrides : mapping of str to object, optional
            Options that win over the text's, as for :meth:`from_options`.
        source : str, optional
            What the text is called in errors.

        Returns
        -------
        RunConfig

        Raises
        ------
        UsageError
            If it is not TOML, has a key that is no option, or a value that the option cannot have.
        """
        options = _typed(
            _flatten(_parse_toml(text, source), source), spelling=lambda n: f"{n} in {source}"
        )
        return cls._build({**options, **_typed(overrides or {}, spelling=_as_flag)})

    @classmethod
    def _build(cls, options: Mapping[str, Any]) -> RunConfig:
        missing = [name for name in ("bids_dir", "output_dir", "levels") if name not in options]
        if missing:
            raise UsageError(f"missing: {', '.join(missing)}", hint="name what is missing")
        parts = {
            name: kind(**{f.name: options[f.name] for f in fields(kind) if f.name in options})
            for name, kind in _parts().items()
        }
        return cls(options["bids_dir"], options["output_dir"], options["levels"], **parts)

    def to_toml(self) -> str:
        """Write everything that :meth:`from_toml` reads back to an equal value.

        Returns
        -------
        str
            TOML; options whose value is None are left out.
        """
        import tomli_w

        document: dict[str, Any] = {
            "bids_dir": str(self.bids_dir),
            "output_dir": str(self.output_dir),
            "levels": list(self.levels),
        }
        for name, kind in _parts().items():
            part = getattr(self, name)
            values = {f.name: getattr(part, f.name) for f in fields(kind)}
            document[name] = {n: _plain(v) for n, v in values.items() if v is not None}
        return f"# bids_msseg {__version__}; --config-file reads this\n{tomli_w.dumps(document)}"

    def analysis_fingerprint_options(self) -> dict[str, Any]:
        """Name the options that change results, so that a re-run can tell whether one did.

        Returns
        -------
        dict
            JSON values, in a fixed order: equal dictionaries mean equal results from equal inputs.

        Examples
        --------
        >>> config = RunConfig(Path("/bids"), Path("/out"), ("participant",))
        >>> config.analysis_fingerprint_options()["output_spaces"]
        ['FLAIR', 'T1w', 'MNI152NLin2009aSym:res-1']
        """
        return {f.name: _plain(getattr(self.processing, f.name)) for f in fields(Processing)}


def _parts() -> dict[str, type[Any]]:
    return {
        "query": Query,
        "processing": Processing,
        "performance": Performance,
        "execution": Execution,
    }


def _option_readers() -> dict[str, Callable[[object], Any]]:
    """Name every option of a run, and how its value is read."""
    return {
        "bids_dir": readers.path,
        "output_dir": readers.path,
        "levels": _read_levels,
        "participant_label": readers.labels("sub-"),
        "session_label": readers.labels("ses-"),
        "session_order": readers.labels("ses-"),
        "exclude_participant_label": readers.labels("sub-"),
        "ignore": _read_ignored,
        "bids_filters": readers.filters,
        "skip_bids_validation": readers.flag,
        "bids_database_dir": readers.path,
        "derivatives": readers.named_paths,
        "output_spaces": _read_spaces,
        "model": _read_model,
        "threshold": _read_threshold,
        "min_lesion_volume": _read_volume,
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
        "stop_on_first_crash": readers.flag,
        "resource_monitor": readers.flag,
        "verbose": readers.integer(0),
    }


def _typed(options: Mapping[str, object], *, spelling: Callable[[str], str]) -> dict[str, Any]:
    """Turn every option into its field's type; `spelling` says how an error calls the option."""
    given = dict(options)
    if "bids_filter_file" in given:
        file = readers.path(given.pop("bids_filter_file"))
        given["bids_filters"] = readers.read_json(file, what="the filter file")
    read = _option_readers()
    typed = {}
    for name, value in given.items():
        try:
            typed[name] = read[name](value)
        except ValueError as error:
            shown = value if isinstance(value, str) else json.dumps(value, default=str)
            raise UsageError(f"{spelling(name)} is {shown}", hint=f"give {error}") from error
    return typed


def read_options(
    options: Mapping[str, object], *, spelling: Callable[[str], str] | None = None
) -> dict[str, Any]:
    """Read options by name, for programs that know only some of them.

    Parameters
    ----------
    options : mapping of str to object
        Each as text or of its own type; names as in :class:`RunConfig`.
    spelling : callable, optional
        What an error calls an option; its flag where not given.

    Returns
    -------
    dict

    Raises
    ------
    UsageError
        For a value that an option cannot have.

    Examples
    --------
    >>> read_options({"threshold": "0.4", "device": "cpu"})
    {'threshold': 0.4, 'device': 'cpu'}
    """
    return _typed(options, spelling=spelling or _as_flag)


def _check_level(level: str) -> None:
    if level not in LEVELS:
        raise UnknownLevelError(
            f"there is no analysis level {level}",
            hint=f"give {readers.alternatives(LEVELS)}{readers.nearest(level, LEVELS)}",
        )


def _check_folders(bids_dir: Path, output_dir: Path, work_dir: Path) -> None:
    bids, output, work = (_resolved(path) for path in (bids_dir, output_dir, work_dir))
    if output == bids:
        raise UsageError(
            f"the output folder {output_dir} is the dataset itself",
            hint=f"write somewhere else, for example to {bids_dir / 'derivatives' / 'bids_msseg'}",
        )
    if work.is_relative_to(bids) and not work.is_relative_to(output):
        raise UsageError(
            f"the work folder {work_dir} lies in the dataset",
            hint="choose another --work-dir: intermediate files would make the dataset invalid",
        )


def _resolved(path: Path) -> Path:
    """Follow links; a path that the system cannot follow is the user's to mend."""
    try:
        resolved = path.resolve()
        with suppress(PermissionError):
            resolved.exists()
    except RuntimeError as error:
        raise UsageError(
            f"{path} is a link that leads in a circle", hint="name a folder, or mend the link"
        ) from error
    except OSError as error:
        raise UsageError(
            f"{path} cannot be a folder: {error.strerror or error}", hint="give a shorter path"
        ) from error
    return resolved


def _parse_toml(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{source} is not TOML: {error}", hint="mend it there") from error


def _flatten(document: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Bring every table's keys together; a key belongs to its own table or before all tables."""
    owners = {f.name: part for part, kind in _parts().items() for f in fields(kind)}
    owners |= {"bids_filter_file": "query", "bids_dir": "", "output_dir": "", "levels": ""}
    flat: dict[str, Any] = {}
    for name, value in document.items():
        is_table = name in _parts() and isinstance(value, Mapping)
        for key, item in value.items() if is_table else [(name, value)]:
            option = key.replace("-", "_")
            owner = owners.get(option)
            if owner is None or (is_table and owner != name):
                place = f"[{name}] of {source}" if is_table else source
                raise UsageError(f"{place} has no option {key}", hint=_place_of(option, owners))
            flat[option] = item
    return flat


def _place_of(option: str, owners: Mapping[str, str]) -> str:
    owner = owners.get(option)
    if owner is None:
        suggestion = readers.nearest(option, [*owners, *_parts()])
        return f"remove it or correct its name{suggestion}"
    return f"move it to [{owner}]" if owner else "move it before all tables"


def _plain(value: object) -> Any:
    """Turn a field's value into what TOML and JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain_filter(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path | OutputSpace) else value


def _plain_filter(value: object) -> Any:
    """TOML has no null: an entity that has to be absent is written as pybids calls it."""
    if isinstance(value, Mapping):
        return {str(key): _plain_filter(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain_filter(item) for item in value]
    return readers.ABSENT if value is None else _plain(value)


def _as_flag(name: str) -> str:
    """Call an option as the command line does."""
    own = {
        "bids_dir": "BIDS_DIR",
        "output_dir": "OUTPUT_DIR",
        "levels": "the analysis level",
        "bids_filters": "--bids-filter-file",
    }
    return own.get(name, f"--{name.replace('_', '-')}")
