"""Mutation testing: apply a sample of small changes and run the unit tests on each.

usage: python benchmarks/mutation.py [--sample 400] [--seed 0] [--jobs 2] [--root DIR] [--list]
[--only bids_msseg/lesions/load.py ...] [--numbers 12 57 ...]

Mutants of ``bids_msseg/lesions/``, ``imaging/normalise.py`` and ``bids/paths.py`` are generated
from the syntax tree: operators and comparisons exchanged, conditions negated, numbers increased by
one, truth values and short strings changed, ``min`` replaced by ``max``, statements left out.
Annotations, decorators, prose and error messages are not changed. Each mutant of the sample is
tested by the examples in its module and by the mirroring test file, in a process forked from one
that has imported numpy and similar packages, in a copy of the tree. It is killed if a test fails
or if it takes many times the CPU time of the original source. Prints killed and survived for each
module, then the survivors; their numbers can be passed to ``--numbers``.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import random
import resource
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

SOURCES = (
    "bids_msseg/lesions/**/*.py",
    "bids_msseg/imaging/normalise.py",
    "bids_msseg/bids/paths.py",
)
PRELOADED = (
    "cc3d",
    "hypothesis.extra.numpy",
    "nibabel",
    "pytest",
    "scipy.ndimage",
    "scipy.optimize",
    "scipy.stats",
    "SimpleITK",
    "skimage.morphology",
)
TIMES_CLEAN = 10
GRACE_S = 20
OTHER_OPERATOR: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.MatMult: ast.Add,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
OTHER_NAME = {
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "ceil": "floor",
    "floor": "ceil",
    "argmin": "argmax",
    "argmax": "argmin",
    "minimum": "maximum",
    "maximum": "minimum",
}


@dataclass(frozen=True)
class Mutant:
    """One change of one file."""

    number: int
    path: Path
    line: int
    description: str
    source: str


# Mutants


def changes_in(source: str) -> Iterator[tuple[int, int]]:
    """Yield the node number and change number of every possible change in a file."""
    for place, (_, changes) in enumerate(_places(ast.parse(source))):
        yield from ((place, number) for number in range(len(changes)))


def change(source: str, place: int, number: int) -> tuple[int, str, str]:
    """Apply one change; return its line, its description and the whole source."""
    tree = ast.parse(source)
    node, changes = next(islice(_places(tree), place, None))
    description, apply = changes[number]
    line = node.lineno  # type: ignore[attr-defined]
    apply(node)
    return line, description, ast.unparse(ast.fix_missing_locations(tree))


Change = tuple[str, Callable[[ast.AST], None]]


def _places(tree: ast.AST) -> Iterator[tuple[ast.AST, list[Change]]]:
    """Yield each executable node with its possible changes."""
    if isinstance(tree, ast.Raise) or _is_about_types(tree):
        return
    changes = list(_changes(tree))
    if changes:
        yield tree, changes
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not (_is_text(child) or _is_strict(child)):
                yield from _places(child)


def _is_about_types(node: ast.AST) -> bool:
    """Return whether a node matters to type checkers only."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    if isinstance(node, ast.Subscript):
        return ast.unparse(node.value) == "Literal"
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "TypeVar"


def _is_text(node: ast.AST) -> bool:
    """Return whether a node is a docstring, an f-string or a string with spaces."""
    if isinstance(node, ast.JoinedStr):
        return True
    value = node.value if isinstance(node, ast.Expr) else node
    return isinstance(value, ast.Constant) and (
        isinstance(node, ast.Expr) or (isinstance(value.value, str) and " " in value.value)
    )


def _is_strict(node: ast.AST) -> bool:
    """Return whether a node is the argument ``strict`` of ``zip``, a redundant check."""
    return isinstance(node, ast.keyword) and node.arg == "strict"


def _changes(node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.Compare):
        for index, operator in enumerate(node.ops):
            yield from _exchange(operator, lambda n, new, i=index: n.ops.__setitem__(i, new))
    elif isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign):
        yield from _exchange(node.op, lambda n, new: setattr(n, "op", new))
    elif isinstance(node, ast.Constant):
        yield from _constant(node)
    elif isinstance(node, ast.Name | ast.Attribute):
        yield from _name(node)
    elif isinstance(node, ast.If | ast.While | ast.IfExp):
        yield f"not ({ast.unparse(node.test)})", _negate_test
    if isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
        yield f"{ast.unparse(node)} without its sign", _drop_sign
    yield from _left_out(node)


def _exchange(operator: ast.AST, put: Callable[..., object]) -> Iterator[Change]:
    replacement = OTHER_OPERATOR.get(type(operator))
    if replacement is not None:
        description = f"{type(operator).__name__} -> {replacement.__name__}"
        yield description, lambda node: put(node, replacement())


def _constant(node: ast.Constant) -> Iterator[Change]:
    value = node.value
    if isinstance(value, bool):
        new: object = not value
    elif isinstance(value, int | float):
        new = value + 1
    elif isinstance(value, str):
        new = f"XX{value}"
    else:
        return
    yield f"{value!r} -> {new!r}", lambda n: setattr(n, "value", new)


def _name(node: ast.Name | ast.Attribute) -> Iterator[Change]:
    key = "id" if isinstance(node, ast.Name) else "attr"
    replacement = OTHER_NAME.get(getattr(node, key))
    if replacement is not None and isinstance(node.ctx, ast.Load):
        yield f"{getattr(node, key)} -> {replacement}", lambda n: setattr(n, key, replacement)


def _negate_test(node: ast.AST) -> None:
    node.test = ast.UnaryOp(ast.Not(), node.test)  # type: ignore[attr-defined]


def _drop_sign(node: ast.AST) -> None:
    node.op, node.operand = ast.UAdd(), node.operand  # type: ignore[attr-defined]
    if isinstance(node.operand, ast.Compare | ast.BoolOp):  # type: ignore[attr-defined]
        node.op = ast.Not()  # type: ignore[attr-defined]
        node.operand = ast.UnaryOp(ast.Not(), node.operand)  # type: ignore[attr-defined]


def _left_out(node: ast.AST) -> Iterator[Change]:
    """Yield changes that leave out statements: calls and assignments to array elements."""
    for name in ("body", "orelse"):
        block = getattr(node, name, None)
        if not isinstance(block, list):
            continue
        for index, statement in enumerate(block):
            if _acts(statement):
                description = f"without {ast.unparse(statement)}"[:70]
                yield (
                    description,
                    lambda n, b=name, i=index: getattr(n, b).__setitem__(i, ast.Pass()),
                )


def _acts(statement: ast.AST) -> bool:
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Call)
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    return isinstance(statement, ast.Assign | ast.AugAssign) and isinstance(
        targets[0], ast.Subscript
    )


def sample(root: Path, size: int, seed: int) -> list[Mutant]:
    """Draw mutants from all files, with their numbers in the full list.

    Returns all of them if there are fewer than ``size``.
    """
    paths = [path for pattern in SOURCES for path in sorted(root.glob(pattern))]
    sources = {path: path.read_text(encoding="utf-8") for path in paths}
    mutations = [
        (path, *position) for path, source in sources.items() for position in changes_in(source)
    ]
    print(
        f"{len(mutations)} mutants, {min(size, len(mutations))} drawn with seed {seed}", flush=True
    )
    numbers = random.Random(seed).sample(range(len(mutations)), min(size, len(mutations)))  # noqa: S311
    chosen = []
    for number in sorted(numbers):
        path, place, change_number = mutations[number]
        mutated = change(sources[path], place, change_number)
        chosen.append(Mutant(number, path.relative_to(root), *mutated))
    return chosen


# Judging


def tests_of(root: Path, path: Path) -> list[str]:
    """Return the test files that mirror a source file.

    For ``b_c.py`` these are ``test_b_c[_numbers].py``, else those of ``b``.
    """
    folder, stem = root / "tests" / path.parent.relative_to("bids_msseg"), path.stem
    while stem:
        names = [folder / f"test_{stem}_numbers.py", folder / f"test_{stem}.py"]
        existing = [name.relative_to(root).as_posix() for name in names if name.is_file()]
        if existing:
            return existing
        stem = stem.rpartition("_")[0]
    return []


def preload() -> None:
    """Import slow packages that are not mutated, and disable shrinking in hypothesis."""
    for name in PRELOADED:
        importlib.import_module(name)
    from hypothesis import Phase, settings

    settings.register_profile(
        "mutants", phases=[Phase.explicit, Phase.generate], derandomize=True, database=None
    )
    settings.load_profile("mutants")


def start(tree: Path, path: Path, limit_s: int, *, clean: bool = False) -> int:
    """Fork a process that runs the tests of one file in a copy of the tree."""
    process = os.fork()
    if process:
        return process
    try:
        os.setsid()
        sys.dont_write_bytecode = not clean
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s))
        resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
        devnull = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(devnull, stream)
        os.chdir(tree)
        sys.path.insert(0, str(tree))
        code = _run_pytest(tree, path)
    except BaseException:  # noqa: BLE001 any error kills the mutant
        code = 1
    os._exit(code)


def _run_pytest(tree: Path, path: Path) -> int:
    import pytest

    arguments = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not realdata"]
    return int(
        pytest.main([*arguments, "--doctest-modules", *tests_of(tree, path), path.as_posix()])
    )


def clean_seconds(tree: Path, path: Path) -> float:
    """Run the tests of an unchanged file; return the CPU seconds."""
    process = start(tree, path, 600, clean=True)
    _, status, usage = os.wait4(process, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"the tests of {path} fail as it is: {tests_of(tree, path)}")
    return usage.ru_utime + usage.ru_stime


def run_tests(chosen: list[Mutant], trees: list[Path]) -> Iterator[tuple[Mutant, str]]:
    """Yield each mutant with its outcome: killed, out of time or survived."""
    for path in sorted({mutant.path for mutant in chosen}):
        # in every tree, as each then has its tests compiled
        seconds = max(clean_seconds(tree, path) for tree in trees)
        limit_s = int(TIMES_CLEAN * seconds) + GRACE_S
        yield from _test_file([mutant for mutant in chosen if mutant.path == path], trees, limit_s)


def _test_file(
    mutants: list[Mutant], trees: list[Path], limit_s: int
) -> Iterator[tuple[Mutant, str]]:
    waiting, running, free = list(reversed(mutants)), {}, list(trees)
    path = mutants[0].path
    original = (trees[0] / path).read_bytes()
    while waiting or running:
        while waiting and free:
            mutant, tree = waiting.pop(), free.pop()
            (tree / path).write_text(mutant.source, encoding="utf-8")
            running[start(tree, path, limit_s)] = mutant, tree
        process, status = os.wait()
        mutant, tree = running.pop(process)
        free.append(tree)
        yield mutant, _ending(os.waitstatus_to_exitcode(status))
    for tree in trees:
        (tree / path).write_bytes(original)


def _ending(code: int) -> str:
    if code == 0:
        return "survived"
    return "out of time" if code < 0 else "killed"


def print_table(ends: list[tuple[Mutant, str]]) -> float:
    """Print killed and survived for each file, then survivors; return the share killed."""
    counts = {path: Counter[str]() for path in sorted({mutant.path for mutant, _ in ends})}
    for mutant, end in ends:
        counts[mutant.path][end] += 1
    print("| module | mutants | killed | of these out of time | survived |\n|---|---|---|---|---|")
    for path, count in counts.items():
        killed = count["killed"] + count["out of time"]
        print(
            f"| {path.relative_to('bids_msseg')} | {count.total()} | {killed} "
            f"| {count['out of time']} | {count['survived']} |"
        )
    survivors = [mutant for mutant, end in ends if end == "survived"]
    share = 1 - len(survivors) / max(len(ends), 1)
    print(f"\n{len(ends) - len(survivors)} of {len(ends)} killed ({share:.1%}); survivors:\n")
    for mutant in survivors:
        print(f"{mutant.number} {mutant.path}:{mutant.line} {mutant.description}")
    return share


def main() -> int:
    """Draw mutants, test them, print the table; return 1 if fewer than 85 % are killed."""
    options = _parse()
    chosen = sample(options.root, options.sample, options.seed)
    if options.numbers:
        chosen = [mutant for mutant in chosen if mutant.number in options.numbers]
    if options.only:
        chosen = [mutant for mutant in chosen if mutant.path in options.only]
    if options.list:
        for mutant in chosen:
            print(f"{mutant.number} {mutant.path}:{mutant.line} {mutant.description}")
        return 0
    preload()
    with tempfile.TemporaryDirectory() as folder:
        trees = [Path(folder) / str(number) for number in range(options.jobs)]
        for tree in trees:
            for part in ("bids_msseg", "tests"):
                shutil.copytree(options.root / part, tree / part)
            shutil.copy2(options.root / "pyproject.toml", tree)
        ends = []
        for mutant, end in run_tests(chosen, trees):
            ends.append((mutant, end))
            location = f"{len(ends)}/{len(chosen)} {mutant.number} {mutant.path}:{mutant.line}"
            print(f"{location} {mutant.description}: {end}", file=sys.stderr, flush=True)
    ends.sort(key=lambda pair: pair[0].number)
    return int(print_table(ends) < 0.85)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="See whether unit tests notice small changes.")
    parser.add_argument("--sample", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1])
    parser.add_argument("--only", type=Path, nargs="+", help="files")
    parser.add_argument("--numbers", type=int, nargs="+", help="mutants of the sample")
    parser.add_argument("--list", action="store_true", help="say what was drawn, and stop")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
