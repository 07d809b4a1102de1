"""The examples of docs/extending.md, applied to a copy of the repository and run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation.arguments import parser
from evaluation.saved_scores import save_lines, save_scores
from lightning_modules.trainer.checkpoint import FILE
from sweeps.report.sweep_file import read_sweep_file
from tests.small_runs import SHORT, write_wav
from tests.test_eval_duplex import untrained

TEXT = Path("docs/extending.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, re.S)
PACKAGES = (
    "configs",
    "datamodules",
    "duplexmamba",
    "duplexmamba_cli",
    "evaluation",
    "lightning_modules",
    "reporting",
    "serving",
    "sweeps",
    "tests",
)
TWO_UPDATES = [*SHORT, "trainer.max_steps=2", "stages.encoder.trainer.max_steps=2"]
TWO_UPDATES += ["stages.lm.trainer.max_steps=2"]
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with all examples applied."""
    folder = tmp_path_factory.mktemp("extended")
    for package in PACKAGES:
        shutil.copytree(package, folder / package)
    for file in ("train.py", "evaluate.py", "pyproject.toml"):
        shutil.copy(file, folder)
    for _, code in BLOCKS:
        first, _, rest = code.partition("\n")
        if first.startswith("# new file: "):
            path = folder / first.removeprefix("# new file: ")
            assert not path.exists(), path
            path.write_text(rest)
        elif first.startswith("# at the end of: "):
            path = folder / first.removeprefix("# at the end of: ")
            path.write_text(f"{path.read_text()}\n\n{rest}")
    return folder


def run_tests(folder: Path, *arguments: str) -> str:
    """What pytest prints in the copy."""
    return run(folder, "-m", "pytest", "-v", "-p", "no:cacheprovider", *arguments)


def run(folder: Path, *command: str) -> str:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def commands() -> list[list[str]]:
    """The commands of the page that start python, without `python`."""
    lines = [line for language, code in BLOCKS if not language for line in code.splitlines()]
    return [line.split()[1:] for line in lines if line.startswith("python ")]


CHECKS = [code for _, code in BLOCKS if code.startswith("# run\n")]


def is_checked(command: list[str]) -> bool:
    """Whether a check in the text runs the same training."""
    return any(all(f'"{argument}"' in code for argument in command[1:]) for code in CHECKS)


def test_there_are_five_examples() -> None:
    starts = [code.partition("\n")[0] for _, code in BLOCKS]
    assert sum(start.startswith("# at the end of: ") for start in starts) == 4
    assert sum(start.startswith("# new file: sweeps/") for start in starts) == 1


def test_the_checks_in_the_text_hold(copy: Path) -> None:
    assert len(CHECKS) == 3
    for code in CHECKS:
        run(copy, "-c", code)


def test_the_new_mixer_and_the_new_score_join_the_tests(copy: Path) -> None:
    files = [f"tests/test_{name}.py" for name in ("streaming", "scorecard", "stages")]
    mixer = "causal_lookahead and average and (padded or rows or constant)"
    joined = run_tests(copy, *files, "-k", f"{mixer} or transcript or recomputed or align")
    for case in ("[encoder causal_lookahead average]", "[transcript-length]", "[align]"):
        assert f"{case} PASSED" in joined, joined


def test_the_new_score_reads_no_transcripts_of_other_settings(copy: Path) -> None:
    checkpoint = copy / "runs" / "random"
    (checkpoint / "scores").mkdir(parents=True)
    untrained("encoder").save(checkpoint / FILE)
    save_lines(checkpoint, "wer", [{"text": "one", "understood": "one two"}])
    save_scores(parser().parse_args(["wer", str(checkpoint), "seed=2"]), {"test/wer": 1.0})
    printed = run(copy, "evaluate.py", "transcript-length", "runs/random", "seed=2")
    assert re.search(r"length/num_words +2 +1 *$", printed, re.M), printed
    with pytest.raises(AssertionError, match="(?s)same overrides.*evaluate.py wer runs/random`"):
        run(copy, "evaluate.py", "transcript-length", "runs/random")


def test_the_new_mixer_stage_format_and_score_run(copy: Path) -> None:
    corpus = copy / "corpus"
    corpus.mkdir()
    lines = []
    for i in range(20):
        write_wav(corpus / f"{i}.wav", 1 + i / 20)
        lines.append(f"{i}.wav|speaker{i % 5}|Some words, number {i % 7}")
    (corpus / "utterances.psv").write_text("\n".join(lines))
    for command in commands():
        if is_checked(command):
            continue
        if command[0] == "train.py":
            out = run(copy, *command, *TWO_UPDATES)
            assert "test/wer" in out
        else:
            run(copy, *command)
    scores = copy / "runs" / "latest" / "scores"
    assert '"length/num_words"' in (scores / "transcript-length.json").read_text()


def test_the_ablation_is_a_sweep_that_can_be_reported(copy: Path) -> None:
    sweep = read_sweep_file(copy / "sweeps" / "connector_width.yaml", "connector_width")
    assert sweep.question.startswith("How wide") and len(sweep.grid()) == 3
