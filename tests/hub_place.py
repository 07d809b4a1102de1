"""A folder in which the real W&B client works with a hub."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweeps.hub.store import Store

SWEEP = """
program: sweep_point.py
project: tests
method: grid
metric: {name: test/loss, goal: minimize}
parameters: {x: {values: [1, 2]}, y: {values: [10, 20]}}
command: ["${env}", "${interpreter}", "${program}", "${args_no_hyphens}"]
"""


class Place:
    """A folder with a hub as `make hub` starts it, which tells the client where it is by wandb/settings alone."""

    def __init__(self, folder: Path):
        self.folder, self.port = folder, "0"
        (folder / "sweeps").mkdir()
        self.write_sweep("grid", SWEEP)
        (folder / "sweep_point.py").write_text(Path("tests/sweep_point.py").read_text())
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        others = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
        own = {
            "PYTHONPATH": str(Path.cwd()),
            "PATH": path,
            "HOME": str(folder),
            "WANDB_ERROR_REPORTING": "false",
        }
        self.env = {**others, **own}
        self.start()

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "sweeps.hub",
            "--port",
            self.port,
            "--root",
            "hub",
            "--heartbeat-timeout-s",
            "20",
        ]
        command += ["--settings"]
        self.hub = subprocess.Popen(
            command, cwd=self.folder, env=self.env, stdout=subprocess.PIPE, text=True
        )
        self.url = self.hub.stdout.readline().removeprefix("hub: ").strip()
        self.port = self.url.rpartition(":")[2]

    def call(self, *command: str, **env: str) -> subprocess.Popen:
        with open(self.folder / "client.log", "a") as log:
            return subprocess.Popen(
                command, cwd=self.folder, env={**self.env, **env}, stdout=log, stderr=log
            )

    def python(self, *lines: str) -> str:
        """The last line that they print, with wandb imported."""
        command = [sys.executable, "-c", "\n".join(["import wandb", *lines])]
        done = subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    def write_sweep(self, name: str, text: str) -> Path:
        path = self.folder / "sweeps" / f"{name}.yaml"
        path.write_text(text)
        return path

    def progress(self) -> dict[str, dict[str, int]]:
        """Run -> the steps it has logged and its process."""
        return {path.stem: json.loads(path.read_text()) for path in self.folder.glob("*.json")}

    def caught(self, known: set[str]) -> tuple[str, int]:
        """Name and process of the next run that is in its midst."""

        def found() -> tuple[str, int] | None:
            new = {name: at for name, at in self.progress().items() if name not in known}
            return next(((name, at["pid"]) for name, at in new.items() if at["step"] > 1), None)

        return until(found)

    def stored(self) -> Store:
        return Store(self.folder / "hub" / "hub.db")


def until(found: Callable[[], Any]) -> Any:
    end = time.monotonic() + 400
    while not (value := found()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return value
