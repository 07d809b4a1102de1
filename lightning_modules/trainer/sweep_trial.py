"""A program as a point of a W&B sweep: what `wandb agent` gives it, and what agent and run folder get back."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import wandb
import yaml
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from configs.recipes import STAGES
from lightning_modules.trainer.logging import in_sweep
from lightning_modules.trainer.summary import SUMMARY

FILE = "sweep.json"
SWEEP_FILE, KEPT = "DUPLEXMAMBA_SWEEP", "sweep.yaml"
"""The variable that names a sweep's file where that is not sweeps/<name>.yaml, and the name of the copy."""
OF_AGENT = ("WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_RUN_ID")
"""Variables by which an agent tells a program that it is a point."""
OF_HUB = "hub-"
"""How the ids of sweeps begin that the hub, not the W&B cloud, has made."""


@dataclasses.dataclass(frozen=True)
class Point:
    """What the agent has said."""

    sweep: str
    """Its id."""
    name: str
    """The stem of its file."""
    run_id: str
    """The same when a point that was preempted comes back."""
    parameters: dict[str, Any]
    runs: Path

    @classmethod
    def of(cls, words: list[str]) -> "Point":
        """Of the agent's variables, and the words of the configuration."""
        given = dict(word.split("=", 1) for word in words if "=" in word)
        sweep = os.environ["WANDB_SWEEP_ID"]
        stored = yaml.safe_load(Path(os.environ["WANDB_SWEEP_PARAM_PATH"]).read_text())
        parameters = {
            name: v["value"]
            for name, v in stored.items()
            if name not in ("wandb_version", "_wandb")
        }
        name = given.get("run.sweep", sweep.removesuffix(".yaml"))
        return cls(
            sweep, name, os.environ["WANDB_RUN_ID"], parameters, Path(given.get("run.dir", "runs"))
        )

    @property
    def folder(self) -> Path:
        return self.runs / f"{self.name}-{self.run_id}"

    def words(self, stage: str) -> list[str]:
        """The run's folder goes by the id, and the stages upstream leave the agent's run alone."""
        others = [
            f"stages.{upstream}.wandb.mode=disabled" for upstream in STAGES if upstream != stage
        ]
        return [f"run.id={self.folder.name}", f"run.sweep={self.name}", *others]

    def note(self, state: str, error: str | None = None) -> None:
        """Write sweep.json, in one piece."""
        self.folder.mkdir(parents=True, exist_ok=True)
        noted = {
            "sweep": self.sweep,
            "name": self.name,
            "parameters": self.parameters,
            "state": state,
        }
        temporary = self.folder / f".{FILE}"
        temporary.write_text(
            json.dumps({**noted, **({"error": error} if error else {})}, indent=1) + "\n"
        )
        temporary.replace(self.folder / FILE)

    def keep_file(self) -> None:
        """A copy of the sweep's file beside its points."""
        file = Path(os.environ.get(SWEEP_FILE, f"sweeps/{self.name}.yaml"))
        kept = self.runs / "sweeps" / self.name / KEPT
        if file.is_file() and file.resolve() != kept.resolve():
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, kept)


@contextlib.contextmanager
def sweep_point(words: list[str]) -> Iterator[list[str]]:
    """The words by which the program is to go; under an agent its W&B run and sweep.json, from beginning to end.

    A run that SIGTERM stops is marked so that another agent goes on with it; a point that cannot be is marked failed.
    """
    words = [plain(word) for word in words if not word.startswith("_wandb=")]
    if not in_sweep():
        yield words
        return
    point = Point.of(words)
    words += point.words(stage_of(words))
    if getattr(rank_zero_only, "rank", 0) != 0:
        yield words
        return
    point.keep_file()
    point.note("running")
    with stoppable():
        try:
            run = begin(point)
            yield words
        except SIGTERMException:
            point.note("preempted")
            if wandb.run is not None:
                wandb.run.mark_preempting()
            wandb.finish(exit_code=143)
            raise
        except BaseException as error:
            point.note("failed", str(error) or type(error).__name__)
            wandb.finish(exit_code=1)
            raise
        run.summary.update(json.loads((point.folder / SUMMARY).read_text()))
        run.finish()
        point.note("finished")


def plain(word: str) -> str:
    """W&B writes null as Python does."""
    name, equals, value = word.partition("=")
    return f"{name}={'null' if value == 'None' else value}" if equals else word


def stage_of(words: list[str]) -> str:
    """The stage asked for, by its file."""
    return next((Path(w).stem for w in words if Path(w).parent.name == "stage"), STAGES[-1])


def begin(point: Point) -> wandb.Run:
    """The agent's run. One of the hub's is not stamped with its sweep, which `wandb sync` would look for elsewhere."""
    sweep = os.environ["WANDB_SWEEP_ID"]
    of_hub = sweep.startswith(OF_HUB) or sweep.endswith(".yaml")
    if of_hub:
        del os.environ["WANDB_SWEEP_ID"]
    try:
        return wandb.init(
            project="duplexmamba" if of_hub else None, id=point.run_id if of_hub else None, name=point.folder.name,
            group=point.name, dir=point.folder, resume="allow", settings=wandb.Settings(silent=True),
        )  # fmt: skip
    finally:
        os.environ["WANDB_SWEEP_ID"] = sweep


def scheduler() -> list[SLURMEnvironment]:
    """For the trainer of a point: what the agent's job requeues, Lightning must not requeue too."""
    return (
        [SLURMEnvironment(auto_requeue=False)] if in_sweep() and SLURMEnvironment.detect() else []
    )


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM raises SIGTERMException, except while a trainer is at work, which stops between two updates."""

    def stop(signum: int, frame: FrameType | None) -> None:
        if signal.getsignal(signal.SIGTERM) is stop:
            raise SIGTERMException

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
