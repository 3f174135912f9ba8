"""Configuration files, weights, devices, plugins and templates that cannot be used."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from typing import Any

from .place import Case, Place

DOWNLOAD = "copy or download the weights file again"


def _option(*words: object) -> Callable[[Place], object]:
    return lambda place: place.option(*words)


def _config(text: str | bytes) -> Callable[[Place], object]:
    content = text if isinstance(text, bytes) else text.encode()
    return lambda p: p.option("--config-file", p.beside("run.toml", content))


CONFIGS = [
    Case(
        "configuration not there",
        _option("--config-file", "/no/such"),
        64,
        "cannot be read",
        "path",
    ),
    Case("configuration is not TOML", _config("a = = 1"), 64, "is not valid TOML", "correct it"),
    Case("configuration is binary", _config(b"\xff\0"), 64, "not UTF-8", "UTF-8"),
    Case(
        "configuration is 100 000 deep",
        _config("a = " + "[" * 100_000),
        64,
        "is not valid TOML",
        "correct it",
    ),
    Case(
        "unknown key",
        _config("treshold = 0.4"),
        64,
        "unknown option treshold",
        "did you mean threshold",
    ),
    Case(
        "unknown table",
        _config("[procesing]\nfast = true"),
        64,
        "unknown option",
        "correct its name",
    ),
    Case(
        "key in the wrong table",
        _config("[query]\nthreshold = 0.4"),
        64,
        "unknown option",
        "move it to",
    ),
    Case("number as text", _config('[processing]\nthreshold = "much"'), 64, "threshold in", "use"),
    Case("switch as number", _config("[processing]\nfast = 1"), 64, "fast in", "true or false"),
    Case(
        "path with NUL", _config('[execution]\nwork_dir = "a\\u0000b"'), 64, "work_dir in", "use"
    ),
    Case(
        "date as filter",
        _config("[query]\nbids_filters = {flair = {run = 2026-01-01}}"),
        64,
        "bids_filters",
        "use",
    ),
]

WORDS = [
    Case("threshold of 2", _option("--threshold", "2"), 64, "--threshold: 2", "use"),
    Case("threshold of NaN", _option("--threshold", "nan"), 64, "--threshold: nan", "use"),
    Case(
        "negative lesion volume",
        _option("--min-lesion-volume", "-1"),
        64,
        "--min-lesion-volume",
        "use|help",
    ),
    Case(
        "unknown option",
        _option("--treshold", "0.4"),
        64,
        "unknown option --treshold",
        "did you mean --threshold",
    ),
    Case("no CPU", _option("--nprocs", "0"), 64, "--nprocs: 0", "at least 1"),
    Case("no memory", _option("--mem-gb", "0"), 64, "--mem-gb: 0", "use"),
    Case(
        "seed that is no number",
        _option("--random-seed", "x"),
        64,
        "--random-seed",
        "whole number",
    ),
    Case(
        "answer that is none",
        _option("--skull-stripped", "maybe"),
        64,
        "--skull-stripped",
        "auto, yes or no",
    ),
    Case("GPU that is not there", _option("--device", "cuda"), 64, "finds no GPU", "--device cpu"),
    Case("device that does not exist", _option("--device", "tpu"), 64, "--device: tpu", "use"),
    Case(
        "derivatives not there", _option("-d", "brains=/no/such"), 66, "no folder", "--derivatives"
    ),
    Case("derivatives without name", _option("-d", "/no/such"), 66, "no folder", "--derivatives"),
    Case(
        "lesion masks not there",
        _option("--lesion-masks", "drawn=/no/such"),
        66,
        "no folder",
        "--lesion-masks",
    ),
    Case(
        "pattern of lesion masks without a subject",
        _option("--lesion-masks", "drawn=/{session}.nii.gz"),
        64,
        "--lesion-masks",
        "subject",
    ),
    Case(
        "no visit has a lesion mask",
        lambda place: place.option("--lesion-masks", f"drawn={place.root}"),
        66,
        "no lesion mask in",
        "label-L_mask",
    ),
    Case(
        "exclusion masks not there",
        _option("--exclude-masks", "infarct=/no/such"),
        66,
        "no folder",
        "--exclude-masks",
    ),
    Case("mask value of 0", _option("--mask-values", "0"), 64, "--mask-values: 0", "above zero"),
    Case(
        "space of no template",
        _option("--output-spaces", "MNI152:res-x"),
        64,
        "--output-spaces",
        "use",
    ),
    Case("space that climbs", _option("--output-spaces", "../../x"), 64, "--output-spaces", "use"),
]


def _level(place: Place) -> None:
    place.positional[2] = "participants"


def _no_level(place: Place) -> None:
    place.positional.pop()


LEVELS = [
    Case("unknown level", _level, 17, "analysis level participants", "did you mean participant"),
    Case("no level", _no_level, 64, "missing", "use msseg"),
]


def _plugin(content: bytes) -> Callable[[Place], object]:
    return lambda p: p.option("--use-plugin", p.beside("plugin.yml", content))


PLUGIN = "write YAML such as"
PLUGINS = [
    Case(
        "plugin file not there",
        _option("--use-plugin", "/no/such"),
        64,
        "no plugin file",
        "--use-plugin",
    ),
    Case("plugin file is not YAML", _plugin(b"plugin: ["), 64, "does not describe", PLUGIN),
    Case(
        "plugin file runs Python",
        _plugin(b"!!python/object/apply:os.system ['true']"),
        64,
        "does not",
        PLUGIN,
    ),
    Case("plugin file is a list", _plugin(b"- plugin"), 64, "does not describe", PLUGIN),
    Case("plugin file is binary", _plugin(b"\xff\0\1"), 64, "does not describe", PLUGIN),
    Case("plugin file is 100 000 deep", _plugin(b"[" * 100_000), 64, "does not describe", PLUGIN),
    Case(
        "plugin with wrong arguments",
        _plugin(b"plugin: Linear\nplugin_args: 5"),
        64,
        "does not",
        PLUGIN,
    ),
    Case(
        "plugin that nipype does not have",
        _plugin(b"plugin: Lineal"),
        64,
        "unknown nipype plugin Lineal",
        "use one of",
    ),
    Case(
        "plugin without processes",
        _plugin(b"plugin: MultiProc\nplugin_args: {n_procs: 0}"),
        64,
        "invalid n_procs in",
        "a whole number from 1",
    ),
    Case(
        "plugin of a scheduler that is not here",
        _plugin(b"plugin: OAR"),
        64,
        "program oarsub was not found",
        "where oarsub is installed",
    ),
]


def _weights(
    change: Callable[[bytes], bytes], name: str = "w.safetensors"
) -> Callable[[Place], object]:
    def spoil(place: Place) -> None:
        place.option("--model", place.beside(name, change(place.model.read_bytes())))

    return spoil


def _entries(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(content[:8], "little")
    entries: dict[str, Any] = json.loads(content[8 : 8 + length])
    return entries, content[8 + length :]


def _joined(entries: Mapping[str, Any], data: bytes) -> bytes:
    head = json.dumps(entries).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + data


def _described(change: Callable[[dict[str, Any]], object]) -> Callable[[Place], object]:
    """Change the description in the weights file."""

    def edit(content: bytes) -> bytes:
        entries, data = _entries(content)
        description = json.loads(entries["__metadata__"]["bids_msseg"])
        change(description)
        entries["__metadata__"]["bids_msseg"] = json.dumps(description)
        return _joined(entries, data)

    return _weights(edit)


def _named(change: Callable[[dict[str, Any]], object]) -> Callable[[Place], object]:
    """Change the list of tensors."""

    def edit(content: bytes) -> bytes:
        entries, data = _entries(content)
        change(entries)
        return _joined(entries, data)

    return _weights(edit)


def _first(entries: Mapping[str, Any]) -> str:
    return next(name for name in entries if name != "__metadata__")


def _flipped(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


def _not_numbers(content: bytes) -> bytes:
    return content[:-2] + b"\x00\x7e"


def _pickled(_: bytes) -> bytes:
    return pickle.dumps({"weights": list(range(9))})


def _endless(content: bytes) -> bytes:
    return (2**62).to_bytes(8, "little") + content[8:]


def _widths(*widths: int) -> Callable[[dict[str, Any]], object]:
    return lambda about: about["members"]["candidate0"].update(widths=list(widths))


def _folder(place: Place) -> None:
    folder = place.root / "w.safetensors"
    folder.mkdir()
    place.option("--model", folder)


def _torch_file(place: Place) -> None:
    import torch

    path = place.root / "w.safetensors"
    torch.save({"weights": torch.zeros(9)}, path)
    place.option("--model", path)


OURS = "is not a usable cascade"
WEIGHTS = [
    Case(
        "weights not there",
        _option("--model", "/no/w.safetensors"),
        66,
        "weights file not found",
        "msseg-train",
    ),
    Case(
        "weights of no such name",
        _option("--model", "cascade-99"),
        64,
        "no bundled model",
        "use one of",
    ),
    Case("weights are a folder", _folder, 66, "weights file not found", "msseg-train"),
    Case("weights of 0 bytes", _weights(lambda _: b""), 65, OURS, DOWNLOAD),
    Case("weights cut off in the header", _weights(lambda c: c[:99]), 65, OURS, DOWNLOAD),
    Case(
        "weights cut off by a byte", _weights(lambda c: c[:-1]), 65, "bytes of weights", DOWNLOAD
    ),
    Case("weights with bytes at the end", _weights(lambda c: c + b"x"), 65, "bytes of", DOWNLOAD),
    Case("weights are text", _weights(lambda _: b"not weights at all"), 65, OURS, DOWNLOAD),
    Case("weights are a pickle", _weights(_pickled), 65, OURS, DOWNLOAD),
    Case("weights are a file of torch", _torch_file, 65, OURS, DOWNLOAD),
    Case("weights with an endless header", _weights(_endless), 65, "not a safetensors", DOWNLOAD),
    Case("weights with one bit changed", _weights(_flipped), 65, "checksum", DOWNLOAD),
    Case("weights that are not numbers", _weights(_not_numbers), 65, OURS, DOWNLOAD),
    Case(
        "weights without description", _named(lambda e: e.pop("__metadata__")), 65, OURS, DOWNLOAD
    ),
    Case("weights without one tensor", _named(lambda e: e.pop(_first(e))), 65, OURS, DOWNLOAD),
    Case(
        "weights with a renamed tensor",
        _named(lambda e: e.update(x=e.pop(_first(e)))),
        65,
        OURS,
        DOWNLOAD,
    ),
    Case(
        "weights of another shape",
        _named(lambda e: e[_first(e)].update(shape=[3])),
        65,
        OURS,
        DOWNLOAD,
    ),
    Case(
        "weights of an unknown type",
        _named(lambda e: e[_first(e)].update(dtype="F7")),
        65,
        OURS,
        DOWNLOAD,
    ),
    Case(
        "weights outside the file",
        _named(lambda e: e[_first(e)].update(data_offsets=[-8, 4])),
        65,
        OURS,
        DOWNLOAD,
    ),
    Case("architecture with other widths", _described(_widths(8, 16)), 65, OURS, DOWNLOAD),
    Case("architecture without widths", _described(_widths()), 65, OURS, DOWNLOAD),
    Case("architecture of a terabyte", _described(_widths(10**6, 10**6)), 65, OURS, DOWNLOAD),
    Case("architecture 100 levels deep", _described(_widths(*[4] * 100)), 65, OURS, DOWNLOAD),
    Case(
        "unknown kind of net",
        _described(lambda a: a["members"]["candidate0"].update(kind="vit")),
        65,
        OURS,
        DOWNLOAD,
    ),
    Case(
        "one net is missing",
        _described(lambda a: a["members"].pop("refinement0")),
        65,
        OURS,
        DOWNLOAD,
    ),
    Case(
        "weights of another format",
        _described(lambda a: a.update(format="x-9")),
        65,
        "its format is",
        "msseg-train",
    ),
    Case(
        "operating point is missing", _described(lambda a: a.pop("point")), 65, "'point'", DOWNLOAD
    ),
    Case(
        "operating point with an unknown number",
        _described(lambda a: a["point"].update(x=1)),
        65,
        OURS,
        DOWNLOAD,
    ),
    Case(
        "operating point of a word",
        _described(lambda a: a["point"].update(candidate_threshold="low")),
        65,
        OURS,
        DOWNLOAD,
    ),
    Case(
        "operating point of NaN",
        _described(lambda a: a["point"].update(threshold=float("nan"))),
        65,
        OURS,
        DOWNLOAD,
    ),
    Case(
        "operating point beyond 1",
        _described(lambda a: a["point"].update(candidate_threshold=7)),
        65,
        OURS,
        DOWNLOAD,
    ),
]


def _unknown_template(place: Place) -> None:
    place.option("--output-spaces", "MNI152NoSuch")


TEMPLATES = [
    Case(
        "template that nobody knows",
        _unknown_template,
        66,
        "no T1w image of the brain of MNI152NoSuch|could not be fetched",
        "templateflow",
    ),
    Case(
        "template offline",
        _option("--output-spaces", "OASIS30ANTs:res-1"),
        75,
        "could not be fetched|no T1w",
        "TEMPLATEFLOW_HOME",
    ),
]

OPTION_CASES = [*CONFIGS, *WORDS, *LEVELS, *PLUGINS, *WEIGHTS, *TEMPLATES]
