"""Subprocesses that train prerequisite stages, and end no later than this process."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from lightning_modules.trainer.exits import stoppable
from lightning_modules.trainer.logging import AGENT_VARIABLES

OWN_VARIABLES = (*AGENT_VARIABLES, "WANDB_SERVICE")
"""Environment variables that subprocesses must not get: sweep trial and W&B client."""
ROOT = Path(__file__).resolve().parents[2]
"""Folder from which this package is imported: the checkout, or site-packages."""


def stage_command(args: Sequence[str], stage: str) -> list[str]:
    """Return the command that trains one prerequisite stage of a training.

    Args:
        args: configuration files and overrides of the whole training.
        stage: name of the prerequisite stage.
    """
    return [sys.executable, "-m", "lightning_modules.trainer", *args, f"--only-stage={stage}"]


@contextlib.contextmanager
def run_parallel(commands: Sequence[list[str]]) -> Iterator[None]:
    """Run commands while the context is open, with their output on this process's screen.

    A command that still runs when the context closes gets SIGTERM, and time to write its
    checkpoint.
    """
    processes = []
    for command in commands:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=_subprocess_environment()
        )
        processes.append(process)
    relays = [threading.Thread(target=_relay, args=(process,)) for process in processes]
    for relay in relays:
        relay.start()
    try:
        yield
    finally:
        # all of them first: each takes a while to write its checkpoint
        for process in processes:
            process.terminate()
        for process, relay in zip(processes, relays, strict=True):
            process.wait()
            relay.join()


def run_to_completion(command: list[str]) -> None:
    """Run a command to its end and pass SIGTERM on to it; if it fails, exit with its exit code."""
    with stoppable():
        process = subprocess.Popen(command, env=_subprocess_environment())
        try:
            process.wait()
        finally:
            # no effect on a process that has ended
            process.terminate()
            process.wait()
    if process.returncode:
        sys.exit(process.returncode)


def _subprocess_environment() -> dict[str, str]:
    environment = {}
    for name, value in os.environ.items():
        if name not in OWN_VARIABLES:
            environment[name] = value
    # `python /path/to/train.py` works in any folder, and so must the commands that it starts
    paths = [str(ROOT), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return environment


def _relay(process: subprocess.Popen[str]) -> None:
    """Print the output through this process's stdout, so that a progress bar makes way for it."""
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            print(line, end="", file=sys.stdout, flush=True)
