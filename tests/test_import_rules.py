from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {
    "SimpleITK",
    "bids",
    "cc3d",
    "deepbet",
    "matplotlib",
    "nibabel",
    "nipype",
    "numpy",
    "pandas",
    "scipy",
    "templateflow",
    "torch",
}


def _python(
    code: str, *words: str, env: dict[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter without the user's environment variables."""
    bare = {"PATH": os.defpath, "PYTHONPATH": str(ROOT)} | (env or {})
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=bare,
    )


def test_packages_import_only_from_lower_layers() -> None:
    lint_imports = Path(sysconfig.get_path("scripts")) / "lint-imports"
    done = subprocess.run(
        [lint_imports, "--no-cache"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr


LOAD = """
import sys
before = set(sys.modules)
{code}
print(sorted({{name.split(".")[0] for name in set(sys.modules) - before}} & {heavy!r}))
"""


@pytest.mark.parametrize(
    "code",
    [
        "import bids_msseg",
        "import bids_msseg; dir(bids_msseg); hasattr(bids_msseg, 'nothing')",
        "import bids_msseg.cli.segment_file",
        "import bids_msseg.cli.check",
        "from bids_msseg.cli.check import main; assert main(['/absent', '/o']) == 66",
        "from bids_msseg.cli.segment_file import main; assert main(['/a', '-o', 'o']) == 66",
        "import bids_msseg.cli.run",
        "import bids_msseg.config, bids_msseg.errors, bids_msseg.process, bids_msseg.resources",
        "import bids_msseg.progress",
        "from bids_msseg.cli.run import parse_args; parse_args(['/b', '/o', 'group']).to_toml()",
        "from bids_msseg.cli.run import bids_exec_spec; bids_exec_spec()",
        "from bids_msseg.cli.run import main; assert main(['/b', '/o', 'nothing']) == 17",
        "from bids_msseg.cli.run import main; assert main(['/absent', '/o', 'participant']) == 66",
    ],
)
def test_entry_points_do_not_import_heavy_packages(code: str) -> None:
    done = _python(LOAD.format(code=code, heavy=HEAVY))
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("flag", ["--help", "--version", "--bids-exec-spec"])
def test_help_and_version_need_no_home_or_writable_folder(flag: str, tmp_path: Path) -> None:
    here = tmp_path / "readonly"
    here.mkdir()
    here.chmod(0o555)
    code = "import sys; from bids_msseg.cli.run import main; sys.exit(main(sys.argv[1:]))"
    done = _python(code, flag, env={"PYTHONDONTWRITEBYTECODE": "1"}, cwd=here)
    assert (done.returncode, done.stderr) == (0, "")
    assert "msseg" in done.stdout
    assert list(here.iterdir()) == []


def test_help_works_with_ascii_encoding() -> None:
    code = "from bids_msseg.cli.run import main; main(['--help'])"
    done = _python(code, env={"PYTHONIOENCODING": "ascii"})
    assert done.stderr == ""
    assert "in mm? [3]" in done.stdout


def test_package_runs_as_python_module() -> None:
    code = (
        "import runpy, sys; sys.argv = ['msseg', *sys.argv[1:]]; "
        "runpy.run_module('bids_msseg', run_name='__main__')"
    )
    assert _python(code, "--version").stdout.startswith("bids_msseg ")
    assert _python(code, "/b", "/o", "nothing").returncode == 17


def test_python_api_imports_neither_pybids_nor_nipype() -> None:
    done = _python(LOAD.format(code="from bids_msseg import segment", heavy={"bids", "nipype"}))
    assert done.stdout == "[]\n", done.stderr


MAX_LINES, MAX_MODULES = 400, 20


def test_modules_and_folders_are_within_size_limits() -> None:
    modules = sorted((ROOT / "bids_msseg").rglob("*.py"))
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules}
    folders = Counter(path.parent for path in modules if path.name != "__init__.py")
    assert [f"{path}: {count}" for path, count in lines.items() if count > MAX_LINES] == []
    assert [f"{path}: {count}" for path, count in folders.items() if count > MAX_MODULES] == []
