"""A training as a trial of a W&B sweep, started by `wandb agent`."""

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb
import yaml
from lightning.pytorch.utilities.exceptions import SIGTERMException

from configs.recipes import STAGES
from lightning_modules.trainer.exits import EXIT_SIGTERM, first_line, is_rank_zero, stoppable
from lightning_modules.trainer.logging import in_sweep
from lightning_modules.trainer.summary import SUMMARY
from lightning_modules.trainer.sweep_file import (
    SAVED_SWEEP,
    file_digest,
    flat_parameters,
    metric_name,
    save_copy,
    sweep_file,
)
from lightning_modules.trainer.sweep_point import TRIAL_FILE, folder_of_point, point_of

HUB_PREFIX = "hub-"
"""Beginning of the ids of sweeps that the hub of this project, not the W&B cloud, has created."""
AGENT_PARAMETERS = ("wandb_version", "_wandb")
"""Keys in the agent's file of parameters that are W&B's own."""


@dataclasses.dataclass(frozen=True)
class SweepTrial:
    """One trial: its sweep, its W&B run, and its parameters."""

    sweep: str
    """Id of the sweep."""
    name: str
    """Stem of the sweep's file."""
    run_id: str
    """Id of the W&B run; the same when a trial that was preempted continues."""
    parameters: dict[str, Any]
    """The values that the sweep varies."""
    runs: Path
    """Folder that holds all runs."""
    file: Path | None
    """File of the sweep; None if it is not on this machine."""
    point: str | None
    """Equal for equal configurations; None for a configuration that is not valid."""
    folder: Path
    """The run's folder: that of an earlier run of the same point, if there is one."""

    @classmethod
    def from_environment(cls, overrides: Sequence[str]) -> "SweepTrial":
        """Read a trial from the agent's variables, and from `run.sweep` and `run.dir`."""
        values = dict(word.split("=", 1) for word in overrides if "=" in word)
        sweep = os.environ["WANDB_SWEEP_ID"]
        file = Path(os.environ["WANDB_SWEEP_PARAM_PATH"])
        parameters = {}
        for name, entry in yaml.safe_load(file.read_text()).items():
            if name not in AGENT_PARAMETERS:
                parameters[name] = entry["value"]
        name = values.get("run.sweep", sweep.removesuffix(".yaml"))
        sweeps_file = sweep_file(name)
        parameters = flat_parameters(parameters, sweeps_file)
        runs = Path(values.get("run.dir", "runs"))
        run_id = os.environ["WANDB_RUN_ID"]
        point = point_of(overrides, parameters)
        folder = runs / f"{name}-{run_id}"
        if point is not None and not folder.exists():
            folder = folder_of_point(runs, name, point) or folder
        return cls(
            sweep=sweep,
            name=name,
            run_id=run_id,
            parameters=parameters,
            runs=runs,
            file=sweeps_file,
            point=point,
            folder=folder,
        )

    def overrides(self, stage: str) -> list[str]:
        """Return overrides for the run's name, and to keep other stages out of its W&B run.

        Args:
            stage: the stage that the trial trains.
        """
        overrides = [f"run.id={self.folder.name}", f"run.sweep={self.name}"]
        for other in STAGES:
            if other != stage:
                overrides.append(f"stages.{other}.wandb.mode=disabled")
        return overrides

    def write_state(self, state: str, error: str | None = None) -> None:
        """Write sweep.json atomically.

        Args:
            state: running, finished, failed or preempted.
            error: message of the error that ended a failed trial.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {
            "sweep": self.sweep,
            "name": self.name,
            "parameters": self.parameters,
            "state": state,
        }
        if self.file is not None:
            content["file"] = file_digest(self.file)
        if self.point is not None:
            content["point"] = self.point
        if error:
            content["error"] = error
        # the report of a sweep may be reading the file
        temporary = self.folder / f".{TRIAL_FILE}"
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        temporary.replace(self.folder / TRIAL_FILE)

    def save_sweep_file(self) -> None:
        """Copy the sweep's file to where its report will be."""
        if self.file is not None:
            save_copy(self.file, self.runs / "sweeps" / self.name / SAVED_SWEEP)

    def check_metric(self, summary: Mapping[str, float]) -> None:
        """Check that the trial has the value by which the sweep compares its trials.

        Args:
            summary: scores of the run.

        Raises:
            ValueError: it is missing, or no finite number.
        """
        metric = None if self.file is None else metric_name(self.file)
        if metric is None:
            return
        value = summary.get(metric)
        if value is None:
            known = ", ".join(sorted(summary))
            raise ValueError(
                f"metric.name={metric}: the run has no such score; name one of {known}"
            )
        if not math.isfinite(value):
            raise ValueError(
                f"{metric}={value}: the trial has diverged; a lower optim.lr may help, or leave "
                "this point out of the sweep"
            )


@contextlib.contextmanager
def sweep_trial(args: Sequence[str]) -> Iterator[list[str]]:
    """Yield the arguments to train with; under an agent, update W&B run and sweep.json.

    A trial that SIGTERM stops is marked so that another agent continues it; a trial that ends with
    an error is marked as failed.

    Args:
        args: configuration files and overrides as an agent has passed them.
    """
    args = [_with_yaml_null(arg) for arg in args if not arg.startswith("_wandb=")]
    if not in_sweep():
        yield args
        return
    trial = SweepTrial.from_environment(args)
    # last, so that they win over overrides of the sweep's file
    args += trial.overrides(stage_of(args))
    if not is_rank_zero():
        yield args
        return
    trial.save_sweep_file()
    trial.write_state("running")
    with stoppable():
        try:
            run = _start_wandb_run(trial)
            yield args
            summary = json.loads((trial.folder / SUMMARY).read_text())
            run.summary.update(summary)
            trial.check_metric(summary)
        except SIGTERMException:
            # W&B offers the run to the next agent, which starts it with the same id
            trial.write_state("preempted")
            _mark_preempted()
            raise
        except BaseException as error:
            trial.write_state("failed", str(error) or type(error).__name__)
            wandb.finish(exit_code=1)
            raise
        run.finish()
        trial.write_state("finished")


def _mark_preempted() -> None:
    """Tell W&B that its run is to be handed out again."""
    try:
        if wandb.run is not None:
            wandb.run.mark_preempting()
        wandb.finish(exit_code=EXIT_SIGTERM)
    # Slurm's own SIGTERM ends the client's process too
    except (OSError, wandb.Error) as error:
        print(f"W&B was not told of the preemption: {first_line(error)}", flush=True)


def _with_yaml_null(arg: str) -> str:
    """W&B writes null as Python does."""
    name, equals, value = arg.partition("=")
    if equals and value == "None":
        return f"{name}=null"
    return arg


def stage_of(args: Sequence[str]) -> str:
    """Return the stage whose file is among the arguments, by default the last stage."""
    for arg in args:
        path = Path(arg)
        if path.parent.name == "stage":
            return path.stem
    return STAGES[-1]


def _start_wandb_run(trial: SweepTrial) -> wandb.Run:
    """Start the agent's run.

    A run on the hub is not linked to its sweep: after `wandb sync` the cloud would not know that
    sweep.
    """
    sweep = os.environ["WANDB_SWEEP_ID"]
    # `wandb agent sweeps/name.yaml` passes the path of the file as the id
    is_on_hub = sweep.startswith(HUB_PREFIX) or sweep.endswith(".yaml")
    if is_on_hub:
        del os.environ["WANDB_SWEEP_ID"]
    try:
        return wandb.init(
            project="duplexmamba" if is_on_hub else None,
            id=trial.run_id if is_on_hub else None,
            name=trial.folder.name,
            group=trial.name,
            dir=trial.folder,
            resume="allow",
            settings=wandb.Settings(silent=True),
        )
    except wandb.Error as error:
        raise ValueError(
            f"W&B run {trial.run_id} of the sweep cannot be started: {first_line(error)}; "
            "start the agent anew once the server can be reached"
        ) from None
    finally:
        # `in_sweep` looks for it until the process ends
        os.environ["WANDB_SWEEP_ID"] = sweep
