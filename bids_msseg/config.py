"""Configuration of one run: :class:`RunConfig`, a frozen value, read from and written as TOML.

A file has one table for each of the four parts; the command line takes precedence over it. A value
of None is determined when the run starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from bids_msseg import __version__, readers
from bids_msseg.config_parts import Execution, Performance, Processing, Query
from bids_msseg.errors import UsageError
from bids_msseg.option_files import check_mask_sources
from bids_msseg.options import (
    Level,
    as_flag,
    check_folders,
    check_level,
    parse_toml,
    plain_value,
    read_typed,
)
from bids_msseg.spaces import FREESURFER

WORK_FOLDER: Final = ".work"


@dataclass(frozen=True, slots=True)
class RunConfig:
    """All settings of one run; UsageError or UnknownLevelError if they are not valid."""

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
            check_level(level)
        check_folders(self.bids_dir, self.output_dir, self.work_dir)
        check_mask_sources(self.output_dir, self.query.lesion_masks, self.query.exclude_masks)
        freesurfer_atlases = [
            str(atlas) for atlas in self.processing.atlas if atlas.kind == FREESURFER
        ]
        if freesurfer_atlases and FREESURFER not in self.query.derivatives:
            raise UsageError(
                f"--atlas {freesurfer_atlases[0]} needs the FreeSurfer subjects folder",
                hint=f"add --derivatives {FREESURFER}=PATH",
            )

    @property
    def work_dir(self) -> Path:
        """Folder for intermediate files; by default ``.work`` in the output folder."""
        return self.execution.work_dir or self.output_dir / WORK_FOLDER

    @property
    def with_networks(self) -> bool:
        """Whether the networks are run; with given masks, only to fill lesions."""
        return not self.query.lesion_masks or self.processing.fill_lesions

    @classmethod
    def from_options(cls, options: Mapping[str, object]) -> RunConfig:
        """Build a configuration from options, text or typed; UsageError if one is not valid."""
        return cls._build(read_typed(options, spelling=as_flag))

    @classmethod
    def from_toml(
        cls,
        text: str,
        *,
        overrides: Mapping[str, object] | None = None,
        source: str = "the configuration file",
    ) -> RunConfig:
        """Read TOML as of :meth:`to_toml`; ``overrides`` take precedence. May raise UsageError."""
        options = read_typed(
            _flatten(parse_toml(text, source), source), spelling=lambda n: f"{n} in {source}"
        )
        return cls._build({**options, **read_typed(overrides or {}, spelling=as_flag)})

    @classmethod
    def _build(cls, options: Mapping[str, Any]) -> RunConfig:
        missing = [name for name in ("bids_dir", "output_dir", "levels") if name not in options]
        if missing:
            raise UsageError(f"missing options: {', '.join(missing)}", hint="set them")
        parts = {
            name: kind(**{f.name: options[f.name] for f in fields(kind) if f.name in options})
            for name, kind in _parts().items()
        }
        return cls(options["bids_dir"], options["output_dir"], options["levels"], **parts)

    def to_toml(self) -> str:
        """Return TOML, without options that are None, for :meth:`from_toml`."""
        import tomli_w

        document: dict[str, Any] = {
            "bids_dir": str(self.bids_dir),
            "output_dir": str(self.output_dir),
            "levels": list(self.levels),
        }
        for name, kind in _parts().items():
            part = getattr(self, name)
            values = {f.name: getattr(part, f.name) for f in fields(kind)}
            document[name] = {n: plain_value(v) for n, v in values.items() if v is not None}
        return f"# bids_msseg {__version__}; --config-file reads this\n{tomli_w.dumps(document)}"

    def analysis_fingerprint_options(self) -> dict[str, Any]:
        """Return the options that change results, as JSON values in a fixed order."""
        return {f.name: plain_value(getattr(self.processing, f.name)) for f in fields(Processing)}


def _parts() -> dict[str, type[Any]]:
    return {
        "query": Query,
        "processing": Processing,
        "performance": Performance,
        "execution": Execution,
    }


def _flatten(document: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Merge the keys of all tables; raise UsageError for a key in the wrong table."""
    owners = {f.name: part for part, kind in _parts().items() for f in fields(kind)}
    owners |= {"bids_filter_file": "query", "segmenter_config": "processing"}
    owners |= {"bids_dir": "", "output_dir": "", "levels": ""}
    flat: dict[str, Any] = {}
    for name, value in document.items():
        is_table = name in _parts() and isinstance(value, Mapping)
        for key, item in value.items() if is_table else [(name, value)]:
            option = key.replace("-", "_")
            owner = owners.get(option)
            if owner is None or (is_table and owner != name):
                place = f"[{name}] of {source}" if is_table else source
                hint = _place_of(option, owners)
                raise UsageError(f"unknown option {key} in {place}", hint=hint)
            flat[option] = item
    return flat


def _place_of(option: str, owners: Mapping[str, str]) -> str:
    owner = owners.get(option)
    if owner is None:
        suggestion = readers.nearest(option, [*owners, *_parts()])
        return f"remove it or correct its name{suggestion}"
    return f"move it to [{owner}]" if owner else "move it before all tables"
