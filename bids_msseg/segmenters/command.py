"""Segmenter that runs any program or container from a command-line template."""

from __future__ import annotations

import os
import shlex
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bids_msseg import readers
from bids_msseg.errors import UsageError
from bids_msseg.imaging.normalise import CONTRASTS
from bids_msseg.imaging.volume import Volume
from bids_msseg.models.weights import ModelHeader
from bids_msseg.segmenters.base import HEAD, Identity, read_settings, time_limit
from bids_msseg.segmenters.images import VisitImages, read_probability
from bids_msseg.segmenters.programs import require_program, run_program

PLACEHOLDERS: Final = ("flair", "t1w", "t2w", "brain", "out", "folder", "threads")
OUT_FILE: Final = "out.nii.gz"


@dataclass(frozen=True, slots=True)
class CommandSegmenter:
    """Segmenter that runs a program on files and reads the image that it writes."""

    identity: Identity
    command: tuple[str, ...]  # with placeholders
    shell: bool = False  # the command is one line for /bin/sh
    out: str = OUT_FILE  # in the folder of the input
    label: int | None = None  # the label that is lesion, if the output holds labels
    timeout_s: float | None = None
    whole_head: bool = False
    mem_gb: float = 4.0  # GiB

    @property
    def name(self) -> str:
        """Name in records, pages and errors."""
        return self.identity.name

    def describe(self) -> ModelHeader:
        """Return the identity; the digest covers the command with its path."""
        names = placeholders(self.command)
        content = [self.command, self.shell, self.out, self.label, self.whole_head]
        contrasts = [
            contrast for contrast in CONTRASTS if contrast.lower() in names or "folder" in names
        ]
        return self.identity.header(content, contrasts=contrasts)

    def check(self) -> None:
        """See :class:`~bids_msseg.segmenters.base.Segmenter`."""
        program = self.command[0]
        if not (self.shell or "{" in program):
            hint = "install it, or use its full path in the command of --segmenter-config"
            require_program(program, hint=hint)

    def segment(self, images: VisitImages, *, threads: int, device: str) -> Volume:  # noqa: ARG002
        """See :class:`~bids_msseg.segmenters.base.Segmenter`; ``device`` is ignored."""
        out = images.folder / self.out
        values = self._values(images, out, threads)
        command: str | list[str]
        if self.shell:
            quoted = {name: shlex.quote(value) for name, value in values.items()}
            command = self.command[0].format(**quoted)
        else:
            command = [word.format(**values) for word in self.command]
        run_program(
            command,
            name=self.name,
            folder=images.folder,
            threads=threads,
            timeout_s=self.timeout_s,
        )
        return read_probability(out, images, name=self.name, label=self.label)

    def _values(self, images: VisitImages, out: Path, threads: int) -> dict[str, str]:
        """Return the values of the placeholders; DataError if a contrast is missing."""
        names = placeholders(self.command)
        images.paths_of(
            (contrast for contrast in CONTRASTS if contrast.lower() in names), name=self.name
        )
        return {
            **{name.lower(): str(path) for name, path in images.files.items()},
            "brain": str(images.brain),
            "out": str(out),
            "folder": str(images.folder),
            "threads": str(threads),
        }


def open_command(options: Mapping[str, object]) -> CommandSegmenter:
    """Create a command segmenter from its options; UsageError if they are unusable."""
    option_readers: dict[str, Callable[[object], Any]] = {
        "command": _command,
        "shell": readers.flag,
        "out": _file_name,
        "label": readers.integer(1),
        "timeout_minutes": time_limit,
    }
    settings = read_settings(options, option_readers, required=("command", "name"))
    identity = Identity(
        "command",
        settings["name"],
        settings.get("version", ""),
        settings.get("licence", ""),
        settings.get("citation", ""),
    )
    command = _words(settings["command"], shell=settings.get("shell", False))
    _check_placeholders(command)
    return CommandSegmenter(
        identity,
        command,
        shell=settings.get("shell", False),
        out=settings.get("out", OUT_FILE),
        label=settings.get("label"),
        timeout_s=settings.get("timeout_minutes"),
        whole_head=settings.get("input") == HEAD,
    )


def placeholders(words: Iterable[str]) -> set[str]:
    """List the names of the placeholders in a command."""
    return {name for word in words for _, name, _, _ in string.Formatter().parse(word) if name}


def _command(value: object) -> str | tuple[str, ...]:
    if isinstance(value, str) and value.strip():
        return value
    words = tuple(readers.items(value))
    if not words or isinstance(value, str):
        raise ValueError("a command line, or a list of its words")
    return words


def _file_name(value: object) -> str:
    name = readers.text(value)
    if Path(name).name != name or name in (".", ".."):
        raise ValueError("a file name without a folder")
    return name


def _words(command: str | tuple[str, ...], *, shell: bool) -> tuple[str, ...]:
    """Split a command into words, unless a shell does; make the program path absolute."""
    if shell:
        if isinstance(command, str):
            return (command,)
        raise UsageError(
            "the segmenter command is a list of words, but shell is true",
            hint="write the command as one line, or remove shell",
        )
    try:
        words = shlex.split(command) if isinstance(command, str) else command
    except ValueError as error:
        raise UsageError(
            f"the segmenter command cannot be split into words: {error}",
            hint="close its quotes, or write it as a list of words",
        ) from error
    program, *rest = words
    if os.sep in program and "{" not in program:
        # it runs in the folder of a visit
        program = str(Path(program).absolute())
    return (program, *rest)


def _check_placeholders(words: tuple[str, ...]) -> None:
    allowed = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
    hint = f"use {allowed}; write {{{{ or }}}} for a literal brace"
    try:
        fields = [part for word in words for part in string.Formatter().parse(word)]
    except ValueError as error:
        raise UsageError(f"invalid segmenter command: {error}", hint=hint) from error
    for _, name, form, conversion in fields:
        if name is not None and (name not in PLACEHOLDERS or form or conversion):
            raise UsageError(f"unknown placeholder {{{name}}} in the segmenter command", hint=hint)
    if not placeholders(words) & {"out", "folder"}:
        raise UsageError(
            "the segmenter command does not say where to write the output",
            hint="use {out}, or {folder} and the option out",
        )
