"""``msseg-export``: a model as a folder of ONNX files, and back."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from bids_msseg.cli.parser import Parser
from bids_msseg.errors import CannotCreateError, ExitCode, MssegError, UsageError
from bids_msseg.process import refuse, supervise

LOGGER = logging.getLogger("bids_msseg")


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = Parser(
        prog="msseg-export",
        description="Write a model as a folder of ONNX files, or such a folder as a model.",
    )
    parser.add_argument(
        "model",
        help="a shipped model's name or a .safetensors file, to export; or a folder that was "
        "exported, to import",
    )
    parser.add_argument(
        "output", type=Path, help="new folder for the ONNX files; or a new .safetensors file"
    )
    parser.add_common_options()
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    try:
        options = build_parser().parse_args(argv)
    except MssegError as error:
        return int(refuse(error, program="msseg-export"))
    back = Path(options.model).is_dir()
    job = import_model if back else export_model
    return int(supervise(lambda: job(options.model, options.output), verbose=options.verbose))


def export_model(model: str, folder: Path) -> ExitCode:
    """Write a model as ONNX files and compare them with it.

    Parameters
    ----------
    model : str
        A path or the name of a shipped model.
    folder : path
        New or empty.

    Raises
    ------
    CannotCreateError
        If the folder holds something.
    DataError
        If the model is damaged, or an exported net says something else.
    NoInputError, UsageError
        If there is no such model, or a package is missing.
    """
    from bids_msseg.cascade.checkpoint import load_cascade
    from bids_msseg.cascade.onnx_format import export_cascade, require_onnx
    from bids_msseg.models.weights import find_model, read_header

    require_onnx()
    path = find_model(model)
    cascade = load_cascade(path)
    worst = export_cascade(cascade, folder, notes=read_header(path).notes)
    LOGGER.info("%s: logits differ from those of %s by %.1g at most", folder, path.name, worst)
    return ExitCode.SUCCESS


def import_model(folder: str, target: Path) -> ExitCode:
    """Write an exported model as a weights file again.

    Parameters
    ----------
    folder : str
    target : path
        A new ``.safetensors`` file.

    Raises
    ------
    CannotCreateError
        If the file is there.
    DataError
        If the folder was not exported by this program, or is damaged.
    UsageError
        If the target has another suffix, or a package is missing.
    """
    from bids_msseg.cascade.checkpoint import save_cascade
    from bids_msseg.cascade.onnx_format import import_cascade, read_description

    if target.suffix != ".safetensors":
        raise UsageError(
            f"{folder} is a folder, so {target} would be a weights file",
            hint="let its name end in .safetensors",
        )
    if target.exists():
        raise CannotCreateError(f"{target} is there already", hint="give another name")
    cascade = import_cascade(Path(folder))
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = save_cascade(
        target,
        cascade.candidate,
        cascade.refinement,
        judges=cascade.judges,
        name=cascade.name,
        version=cascade.version,
        point=cascade.point,
        notes=read_description(Path(folder))["notes"],
    )
    LOGGER.info("%s: SHA-256 %s", target, digest)
    return ExitCode.SUCCESS


if __name__ == "__main__":
    raise SystemExit(main())
