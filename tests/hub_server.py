"""A hub in a process of its own, and a folder in which the real W&B client works with it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweeps.hub.store import Store

PROGRAM = "sweep_trial_program.py"
SWEEP = f"""
program: {PROGRAM}
project: tests
method: grid
metric: {{name: test/loss, goal: minimize}}
parameters: {{x: {{values: [1, 2]}}, y: {{values: [10, 20]}}}}
command: ["${{env}}", "${{interpreter}}", "${{program}}", "${{args_no_hyphens}}"]
"""
TIMEOUT_S = 400


class HubServer:
    """A hub that `make hub` has started, of which clients know by wandb/settings alone.

    Args:
        folder: empty folder in which the hub and the clients run.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.port = "0"
        (folder / "sweeps").mkdir()
        self.write_sweep("grid", SWEEP)
        (folder / PROGRAM).write_text(Path("tests", PROGRAM).read_text())
        # Nothing of the user's own W&B settings may reach the clients.
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("WANDB")
        }
        self.env = {
            **inherited,
            "PYTHONPATH": str(Path.cwd()),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "WANDB_ERROR_REPORTING": "false",
        }
        self.start()

    def start(self) -> None:
        """Start the hub; after the first time, at the same port."""
        command = [sys.executable, "-m", "sweeps.hub", "--port", self.port, "--root", "hub"]
        command += ["--heartbeat-timeout-s", "20", "--settings"]
        self.process = subprocess.Popen(
            command, cwd=self.folder, env=self.env, stdout=subprocess.PIPE, text=True
        )
        self.url = self.process.stdout.readline().removeprefix("hub: ").strip()
        self.port = self.url.rpartition(":")[2]

    def call(self, *command: str, **env: str) -> subprocess.Popen:
        """Start a client."""
        with open(self.folder / "client.log", "a") as log:
            return subprocess.Popen(
                command, cwd=self.folder, env={**self.env, **env}, stdout=log, stderr=log
            )

    def python(self, *lines: str) -> str:
        """The last line that a program of these lines prints, with wandb imported."""
        command = [sys.executable, "-c", "\n".join(["import wandb", *lines])]
        finished = subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True
        )
        assert finished.returncode == 0, finished.stderr
        return finished.stdout.splitlines()[-1]

    def write_sweep(self, name: str, text: str) -> Path:
        """Write a sweep file."""
        path = self.folder / "sweeps" / f"{name}.yaml"
        path.write_text(text)
        return path

    def progress(self) -> dict[str, dict[str, int]]:
        """Run -> number of steps that it has logged, and its process."""
        return {path.stem: json.loads(path.read_text()) for path in self.folder.glob("*.json")}

    def wait_for_running(self, known: set[str]) -> tuple[str, int]:
        """Name and process of the next run, which is not known and has logged several steps."""

        def running() -> tuple[str, int] | None:
            for name, progress in self.progress().items():
                if name not in known and progress["step"] > 1:
                    return name, progress["pid"]
            return None

        return wait_until(running)

    def key(self) -> str:
        """The key of the hub that runs."""
        return (self.folder / "hub" / "key").read_text()

    def store(self) -> Store:
        """Records of the hub, opened anew."""
        return Store(self.folder / "hub" / "hub.db")


def wait_until(condition: Callable[[], Any]) -> Any:
    """The first value of a function that is true."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline
        time.sleep(0.05)
