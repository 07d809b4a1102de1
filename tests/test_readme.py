"""The commands, links and examples of the README work."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from configs.loading import load_config

TEXT = Path("README.md").read_text()
COMMANDS = sorted(
    {
        line.split("#")[0].strip()
        for line in re.findall(r"^make .*$|(?<=`)make [^`]+(?=`)", TEXT, re.M)
    }
)


def dry_run(command: str) -> str:
    """The commands that make would run."""
    done = subprocess.run([*shlex.split(command), "-n"], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def test_the_readme_has_commands() -> None:
    assert {"make train STAGE=asr", "make test", "make train STAGE=asr DATA=path"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_make_command_runs(command: str) -> None:
    lines = [line for line in dry_run(command).splitlines() if "train.py" in line]
    for line in lines:
        args = shlex.split(line)
        assert load_config(args[args.index("train.py") + 1 :])


def test_every_linked_file_exists() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in link]
    assert links and all(Path(link).exists() for link in links)


def test_every_stage_and_preset_is_described() -> None:
    for path in [*Path("configs/stage").glob("*.yaml"), *Path("configs/preset").glob("*.yaml")]:
        assert f"`{path.stem}`" in TEXT, path


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", TEXT, re.S))
def test_every_example_runs_as_written(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, "README.md", "exec"), {})
    assert re.fullmatch(r"\d+ bytes, after any length of conversation\n", capsys.readouterr().out)
