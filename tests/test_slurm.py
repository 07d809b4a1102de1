"""The batch scripts for Slurm, with programs in place of Slurm's, Python and the agent."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_modules.trainer.callbacks import ResumeCheckpoint
from lightning_modules.trainer.run import death_of_helpers_is_a_stop
from tests.hub_server import wait_until

SCRIPTS = sorted(Path("scripts").glob("slurm_*.sh"))
PROGRAM = """#!/bin/bash
echo "$(basename "$0") $*" >> notes
[ "$(basename "$0")" = scontrol ] && exit
trap 'echo checkpoint >> notes; exit 143' TERM
touch started
while [ ! -e finish ]; do sleep 0.05; done
"""
CALLS = {
    "slurm_agent": "wandb agent --forward-signals --term-timeout 90 --count 1 seed=4",
    "slurm_train": "python train.py seed=4",
}
each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)


def start(script: Path, folder: Path) -> subprocess.Popen:
    """Start a script as the fourth task of array 17; returns when its program runs."""
    (folder / "bin").mkdir()
    for name in ("python", "wandb", "scontrol"):
        program = folder / "bin" / name
        program.write_text(PROGRAM)
        program.chmod(0o755)
    variables = {"SLURM_JOB_ID": "21", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "4"}
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    argument = "seed=TASK" if script.stem == "slurm_train" else "seed=4"
    process = subprocess.Popen(
        ["bash", str(script.resolve()), argument],
        cwd=folder,
        env={**os.environ, **variables, "PATH": path},
    )
    wait_until((folder / "started").exists)
    return process


def notes(folder: Path) -> list[str]:
    return (folder / "notes").read_text().splitlines()


@each_script
def test_before_its_time_ends_a_job_is_saved_and_requeued(script: Path, tmp_path: Path) -> None:
    process = start(script, tmp_path)
    process.send_signal(signal.SIGUSR1)
    assert process.wait() == 0
    assert notes(tmp_path) == [CALLS[script.stem], "checkpoint", "scontrol requeue 17_4"]


@each_script
def test_a_job_that_has_finished_is_not_requeued(script: Path, tmp_path: Path) -> None:
    process = start(script, tmp_path)
    (tmp_path / "finish").touch()
    assert process.wait() == 0
    assert notes(tmp_path) == [CALLS[script.stem]]


@each_script
def test_a_script_asks_for_a_task_and_leaves_gpus_to_the_command_line(script: Path) -> None:
    lines = script.read_text().splitlines()
    options = {line for line in lines if line.startswith("#SBATCH")}
    assert {"#SBATCH --ntasks=1", "#SBATCH --signal=B:USR1@120", "#SBATCH --requeue"} <= options
    assert not any("gpu" in option or "gres" in option for option in options)


def test_an_error_after_sigterm_is_a_preemption(tmp_path: Path) -> None:
    resume = ResumeCheckpoint(tmp_path / "last.ckpt", 60)
    with pytest.raises(RuntimeError), death_of_helpers_is_a_stop(resume):
        raise RuntimeError("espeak-ng ended unexpectedly")
    resume._stop_requested = True
    with pytest.raises(SIGTERMException), death_of_helpers_is_a_stop(resume):
        raise RuntimeError("espeak-ng ended unexpectedly")
