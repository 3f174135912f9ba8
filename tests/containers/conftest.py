"""Docker and Apptainer images, built and run by installed engines or ``tools/ctr.sh``.

``make containers`` runs these tests. Environment:

CTR              scratch folder, accessible to other users, on a disk with 8 GB
MSSEG_IMAGE      existing image to use instead of building one
MSSEG_SIF        existing SIF file or sandbox below CTR to use instead of building one
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CTR = str(ROOT / "tools/ctr.sh")
CLUSTER = ["--cleanenv", "--containall"]
IMAGES_OWN = 1000
"""User ID of the image's own user."""
SUMMARY = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SUMMARY] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip container tests unless the marker expression selects them."""
    if "container" in str(config.option.markexpr):
        return
    for item in items:
        if item.get_closest_marker("container"):
            item.add_marker(pytest.mark.skip(reason="`make containers` runs it"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the measured times and sizes."""
    for line in terminalreporter.config.stash.get(SUMMARY, []):
        terminalreporter.write_line(line)


@dataclass(frozen=True)
class Ended:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


def call(words: Sequence[object], *, stdin: Path | None = None, cwd: Path = ROOT) -> Ended:
    """Run a command and wait for it."""
    source = subprocess.DEVNULL if stdin is None else stdin.open("rb")
    done = subprocess.run(
        [str(word) for word in words],
        stdin=source,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        cwd=cwd,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@dataclass
class Clock:
    """Timer of commands that collects lines for the summary."""

    lines: list[str]

    def time(self, what: str, words: Sequence[object], *, cwd: Path = ROOT) -> Ended:
        begin = time.monotonic()
        ended = call(words, cwd=cwd)
        self.lines.append(f"{what}: {time.monotonic() - begin:.0f} s")
        return ended


@pytest.fixture(scope="session")
def clock(pytestconfig: pytest.Config) -> Clock:
    return Clock(pytestconfig.stash[SUMMARY])


@dataclass(frozen=True)
class Docker:
    """An image and the program that runs it."""

    program: Sequence[str]
    image: str

    def command(
        self,
        words: Sequence[object],
        binds: Mapping[Path, str],
        *,
        options: Sequence[str] = (),
        entrypoint: str = "",
    ) -> list[str]:
        """Return a ``docker run`` command; ``binds`` maps host folders to container paths."""
        mounts = [f"--volume={here}:{there}" for here, there in binds.items()]
        start = [f"--entrypoint={entrypoint}"] if entrypoint else []
        return [*self.program, "run", *options, *mounts, *start, self.image, *map(str, words)]


@dataclass(frozen=True)
class Apptainer:
    """A SIF file or sandbox and the program that runs it."""

    program: Sequence[str]
    image: Path

    def command(
        self,
        words: Sequence[object],
        binds: Mapping[Path, str],
        *,
        action: str = "run",
        options: Sequence[str] = CLUSTER,
    ) -> list[str]:
        """Return an ``apptainer run`` command, or one with another action."""
        mounts = [f"--bind={here}:{there}" for here, there in binds.items()]
        return [*self.program, action, *options, *mounts, str(self.image), *map(str, words)]


def works(*words: str) -> bool:
    return shutil.which(words[0]) is not None and call(words).code == 0


def prepare_ctr_script() -> str:
    """Prepare ``tools/ctr.sh`` and return its path; skip the test if it cannot run."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("neither an engine nor, as root on Debian, tools/ctr.sh")
    if not os.environ.get("CTR", "").startswith("/"):
        pytest.skip("tools/ctr.sh needs CTR, a scratch folder")
    done = call([CTR, "prepare"])
    assert done.code == 0, done.err
    return CTR


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """Folder accessible to other users; below CTR, the only folder of ``ctr.sh apptainer``."""
    above = os.environ.get("CTR") or None
    if above is not None:
        Path(above).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="msseg-", dir=above) as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def docker(clock: Clock) -> Docker:
    """Build the image, with Docker if it is available."""
    if works("docker", "info"):
        program, build = ["docker"], ["docker", "build"]
    else:
        ours = prepare_ctr_script()
        program, build = [ours, "podman"], [ours, "build"]
    if ready := os.environ.get("MSSEG_IMAGE"):
        return Docker(program, ready)
    ended = clock.time("docker build", [*build, "-t", "msseg", "."])
    assert ended.code == 0, ended.err
    clock.lines += [
        f"  {line}" for line in ended.err.splitlines() if "MNI152NLin2009cAsym is" in line
    ]
    return Docker(program, "msseg")


@pytest.fixture(scope="session")
def apptainer(clock: Clock, scratch: Path) -> Apptainer:
    """Build from the definition file, with Apptainer if it is installed."""
    own = next((name for name in ("apptainer", "singularity") if shutil.which(name)), None)
    program = [own] if own else [prepare_ctr_script(), "apptainer"]
    if ready := os.environ.get("MSSEG_SIF"):
        return Apptainer(program, Path(ready))
    folder = scratch / "images"
    folder.mkdir()
    folder.chmod(0o777)
    target = folder / "msseg.sif"
    words: list[object] = [*program, "build", "--fakeroot", target, "Singularity.def"]
    if own:
        ended = clock.time("apptainer build", words)
    else:
        words.insert(-2, "--sandbox")
        ended = build_below_scratch(clock, scratch, words)
    assert ended.code == 0, ended.err
    return Apptainer(program, target)


def build_below_scratch(clock: Clock, scratch: Path, words: Sequence[object]) -> Ended:
    """Build from a copy of the sources below CTR, with a temporary registry of ``ctr.sh``."""
    source = scratch / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "requirements.lock"):
        shutil.copy(ROOT / name, source)
    (source / "tools").mkdir()
    shutil.copy(ROOT / "tools/install_image.sh", source / "tools")
    shutil.copy(ROOT / "Singularity.def", source)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "bids_msseg", source / "bids_msseg", ignore=ignore)
    started = call([CTR, "registry-start"])
    assert started.code == 0, started.err
    try:
        return clock.time("apptainer build", words, cwd=source)
    finally:
        call([CTR, "registry-stop"])


DEMO_OPTIONS = ("--fast", "--fill-lesions", "--atlas", "sides", "--lesion-roi")
TRUTH = "own={bids}/derivatives/truth"
AGAIN = ("--threshold", "0.7", "--exclude-masks", TRUTH)
"""What the networks are not run again for."""
COMMANDS: Mapping[str, Sequence[Sequence[str]]] = {
    "demo": (
        ("msseg", "{bids}", "{out}", "participant", "group", *DEMO_OPTIONS),
        ("msseg", "{bids}", "{out}", "participant", "group", *DEMO_OPTIONS, *AGAIN),
        ("msseg", "{bids}", "{out}", "group", "--threshold-sweep"),
        ("msseg-check", "{bids}", "{out}", "--draws", "1", "--max-visits", "1"),
    ),
    "given": (("msseg", "{bids}", "{out}", "participant", "group", "--lesion-masks", TRUTH),),
}
"""All functions that need no other segmenter, by dataset."""


@dataclass(frozen=True)
class Dataset:
    """An input dataset, commands for it, and their outputs without a container."""

    bids: Path
    commands: Sequence[Sequence[str]]
    bare: Path
    after_each: Sequence[Mapping[str, bytes]]  # images and tables after every command

    def inside(self) -> list[list[str]]:
        """Return the commands with the paths inside a container."""
        return [[word.format(bids="/bids", out="/out") for word in one] for one in self.commands]


@dataclass
class Datasets:
    """Input datasets; the app runs once on each without a container."""

    scratch: Path
    clock: Clock
    done: dict[str, Dataset] = field(default_factory=dict)

    def demo(self, name: str = "demo") -> Dataset:
        """Return a coarse dataset of ``msseg-demo``: two visits of one participant."""
        if name not in self.done:
            bids = self.scratch / name / "bids"
            words = ["-m", "bids_msseg.cli.demo", bids, "--grid", "coarse"]
            ended = call([sys.executable, *words, "--participants", "1"])
            assert ended.code == 0, ended.err
            self._run(name, bids, COMMANDS[name])
        return self.done[name]

    def head(self, shared_data: Path) -> Dataset:
        """Return a dataset with the FLAIR of one raw head."""
        if "head" not in self.done:
            bids = self.scratch / "head" / "bids"
            raw = shared_data / "raw-heads"
            shutil.copytree(raw / "sub-09", bids / "sub-09", copy_function=shutil.copyfile)
            shutil.copyfile(raw / "dataset_description.json", bids / "dataset_description.json")
            for folder in (bids, *bids.rglob("*/")):
                folder.chmod(0o755)
            self._run("head", bids, [("msseg", "{bids}", "{out}", "participant", "group")])
        return self.done["head"]

    def _run(self, name: str, bids: Path, commands: Sequence[Sequence[str]]) -> None:
        out = self.scratch / name / "bare"
        after_each = []
        for number, (program, *words) in enumerate(commands, 1):
            start = Path(sys.executable).with_name(program)
            filled = [word.format(bids=bids, out=out) for word in words]
            ended = self.clock.time(f"{name}, command {number}, bare", [start, *filled])
            assert ended.code == 0, ended.err
            after_each.append(results(out))
        self.done[name] = Dataset(bids, commands, out, after_each)


@pytest.fixture(scope="session")
def datasets(scratch: Path, clock: Clock) -> Datasets:
    return Datasets(scratch, clock)


def open_folder(path: Path, owner: int = IMAGES_OWN) -> Path:
    """Create a folder owned by the container's user if root runs the tests, else by the caller."""
    path.mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(path, owner, owner)
    return path


def as_user(owner: int = IMAGES_OWN) -> list[str]:
    """Return the ``docker run`` option for the owner of :func:`open_folder`'s folder."""
    mine = owner if os.geteuid() == 0 else os.geteuid()
    group = owner if os.geteuid() == 0 else os.getegid()
    return [] if mine == IMAGES_OWN else [f"--user={mine}:{group}"]


def results(folder: Path) -> dict[str, bytes]:
    """Return the decompressed images and the tables of an output folder by path, without times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name.parts[0] == ".work" or not path.is_file():
            continue
        if path.name.endswith(".nii.gz"):
            found[name.as_posix()] = gzip.decompress(path.read_bytes())
        elif path.suffix == ".tsv":
            found[name.as_posix()] = without_times(path.read_bytes())
    return found


def without_times(table: bytes) -> bytes:
    """Return a table without its column ``seconds``."""
    rows = [line.split(b"\t") for line in table.splitlines()]
    kept = [number for number, name in enumerate(rows[0]) if name != b"seconds"]
    return b"\n".join(b"\t".join(row[number] for number in kept) for row in rows)


def names(folder: Path) -> set[str]:
    """Return all files of an output folder except the work folder and logs (names with times)."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {name.as_posix() for name in found if name.parts[0] not in (".work", "logs")}


@dataclass(frozen=True)
class Tools:
    """Helper functions for the container tests."""

    results = staticmethod(results)
    names = staticmethod(names)
    call = staticmethod(call)
    open_folder = staticmethod(open_folder)
    as_user = staticmethod(as_user)


@pytest.fixture(scope="session")
def tools() -> Tools:
    return Tools()
