"""The parser that every program but ``msseg`` uses."""

from __future__ import annotations

import argparse
from typing import NoReturn

from bids_msseg import __version__
from bids_msseg.errors import UsageError


class Parser(argparse.ArgumentParser):
    """Parser whose errors end with the exit codes of this project, not those of argparse."""

    def error(self, message: str) -> NoReturn:
        """See :meth:`argparse.ArgumentParser.error`."""
        raise UsageError(message, hint=f"see {self.prog} --help")

    def add_common_options(self) -> None:
        """Add ``--verbose`` and ``--version``, the last options of every program."""
        program = self.prog.partition(" ")[0]
        self.add_argument("-v", "--verbose", action="count", default=0)
        self.add_argument("--version", action="version", version=f"{program} {__version__}")
