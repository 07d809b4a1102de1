"""The installed package: the wheel has every file, and works outside a checkout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small_runs import SHORT, write_corpus

ROOT = Path(__file__).resolve().parents[1]
DATA_FILES = [
    "configs/base.yaml",
    "configs/preset/tiny.yaml",
    "configs/stage/asr.yaml",
    "duplexmamba/ops/kernels/scan.cpp",
    "duplexmamba/ops/kernels/vector.h",
    "evaluation/scorecard/page.html",
    "reporting/base.html",
    "serving/page/index.html",
    "serving/page/worklet.js",
    "sweeps/report/page.html",
    "sweeps/slice_size.yaml",
]
pytestmark = pytest.mark.timeout(600)


def pip(*args: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *args]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the package was installed from its wheel, without its dependencies."""
    pytest.importorskip("setuptools", reason="needs setuptools to build the wheel")
    pytest.importorskip("pip", reason="needs pip to build the wheel")
    wheels = tmp_path_factory.mktemp("wheels")
    # setuptools writes build/ and *.egg-info next to the sources: build from a copy
    sources = tmp_path_factory.mktemp("sources")
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listing.stdout.split("\0"):
        if name and (ROOT / name).is_file() and not name.startswith(("tests/", "docs/", "models/")):
            copy = sources / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((ROOT / name).read_bytes())
    no_index = ["--no-deps", "--no-index"]
    pip("wheel", *no_index, "--no-build-isolation", "--wheel-dir", str(wheels), str(sources))
    [wheel] = wheels.glob("duplexmamba-*.whl")
    folder = tmp_path_factory.mktemp("site")
    pip("install", *no_index, "--target", str(folder), str(wheel))
    return folder


def run_installed(installed: Path, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, with the installed package instead of the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *args], cwd=folder, env=environment, capture_output=True, text=True
    )


def list_packages() -> list[str]:
    """Folders of the checkout with an __init__.py, apart from tests and benchmarks."""
    folders = []
    for file in ROOT.glob("*/**/__init__.py"):
        name = file.parent.relative_to(ROOT)
        if name.parts[0] not in ("tests", "benchmarks", "build") and name.parts[0][0] != ".":
            folders.append(str(name))
    return folders


def test_the_wheel_has_all_packages_and_data_files(installed: Path) -> None:
    assert [name for name in DATA_FILES if not (installed / name).is_file()] == []
    packages = list_packages()
    assert "lightning_modules/trainer" in packages
    assert [name for name in packages if not (installed / name / "__init__.py").is_file()] == []
    assert (installed / "bin" / "duplexmamba").is_file()
    assert not any((installed / name).exists() for name in ("train.py", "tests", "benchmarks"))


def test_the_command_line_trains_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    work = tmp_path / "work"
    work.mkdir()
    where = run_installed(installed, work, "-c", "import configs; print(configs.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(installed), where.stdout + where.stderr
    overrides = [*SHORT, "trainer.max_steps=2", f"data.path={corpus}", "data.synthetic_share=0"]
    command = ["-m", "duplexmamba_cli", "train", "--stage", "encoder", "--preset", "tiny"]
    done = run_installed(installed, work, *command, *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    [summary] = work.glob("runs/encoder-tiny-*/summary.json")
    assert json.loads(summary.read_text())["test/cer"] >= 0
    assert str(ROOT) not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "command", ["train", "evaluate", "serve", "data", "plan", "voices", "sweep", "report"]
)
def test_every_command_shows_options_and_an_example(
    command: str, installed: Path, tmp_path: Path
) -> None:
    done = run_installed(installed, tmp_path, "-m", "duplexmamba_cli", command, "--help")
    assert done.returncode == 0, done.stderr
    assert f"{command} " in done.stdout and "options:" in done.stdout
    examples = [line for line in done.stdout.splitlines() if line.startswith("  ")]
    assert any(f"{command} " in line or f"{command} runs" in line for line in examples)


def test_paths_of_configuration_files_are_found_in_the_package(
    installed: Path, tmp_path: Path
) -> None:
    code = (
        "from duplexmamba_cli.config_files import find_config_files\n"
        "print(*find_config_files(['configs/preset/tiny.yaml', 'configs/none.yaml', 'a.b=c']))"
    )
    done = run_installed(installed, tmp_path, "-c", code)
    found = f"{installed}/configs/preset/tiny.yaml"
    assert done.stdout.split() == [found, "configs/none.yaml", "a.b=c"], done.stderr
