"""Where numbers go: metrics.jsonl in the run's folder, and Weights & Biases."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from configs.loading import to_dict
from configs.schema import Config
from duplexmamba.text.jsonl import read_complete_lines
from lightning_modules.trainer.exits import first_line, is_rank_zero

METRICS_FILE = "metrics.jsonl"
MODES = {
    "online": "online",
    "offline": "offline",
    "disabled": "disabled",
    "run": "online",
    "dryrun": "offline",
}
"""Values of WANDB_MODE, those of earlier versions included -> mode of a run."""
AGENT_VARIABLES = ("WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_RUN_ID")
"""Environment variables by which an agent makes a process a trial of a sweep."""
NOT_IN_IDS = re.compile(r"[:;,#?/'\\\"]")
"""Characters that W&B refuses in the id of a run."""
MAX_ARTIFACT_NAME = 128
"""Number of characters that W&B accepts in the name of an artifact."""


class JsonlLogger(Logger):
    """Writes one JSON object per line: {"step": ..., name: value, ...}."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    @property
    def name(self) -> str:
        """Name of this logger for Lightning."""
        return "jsonl"

    @property
    def version(self) -> str:
        """Name of the run's folder."""
        return self.path.parent.name

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the resolved configuration is saved in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a line. Lightning's count of epochs is left out: training data have no end."""
        # a line at a time, so that a kill loses no more than the last one
        line: dict[str, Any] = {"step": step}
        for name, value in metrics.items():
            if name != "epoch":
                line[name] = value
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")

    @rank_zero_only
    def truncate_after(self, step: int) -> None:
        """Remove what a killed training logged after the checkpoint from which it resumes."""
        lines = [line for line in read_complete_lines(self.path) if line["step"] <= step]
        self.path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def wandb_mode(config: Config) -> Any:
    """Return online, offline or disabled: `wandb.mode` with `auto` resolved.

    Raises:
        ValueError: WANDB_MODE is none of W&B's modes.
    """
    if config.wandb.mode != "auto":
        return config.wandb.mode
    mode_of_environment = os.environ.get("WANDB_MODE")
    if not mode_of_environment:
        return "online" if is_logged_in() else "offline"
    if mode_of_environment not in MODES:
        raise ValueError(f"WANDB_MODE={mode_of_environment}: need one of {', '.join(MODES)}")
    return MODES[mode_of_environment]


def is_logged_in() -> bool:
    """Whether the W&B client has a key; prints a note where it refuses the one that it has."""
    try:
        return wandb.login(prompt=False)
    except (wandb.Error, ValueError) as error:
        _print_offline(error)
        return False


def _print_offline(error: Exception) -> None:
    """Say why nothing is sent to W&B, and what to do about it."""
    if is_rank_zero():
        print(
            f"W&B: {first_line(error)}; logging offline, and `wandb sync` sends it later "
            "(`wandb login` gives a key; wandb.mode=offline does without)",
            flush=True,
        )


def log_artifact(
    kind: str, names: list[str], files: list[Path], values: Mapping[str, Any], config: Config
) -> str:
    """Log files as one artifact of a W&B run of its own.

    Args:
        kind: type of the artifact, and of the run's job.
        names: names of the trained runs that the files are about.
        files: the files; W&B's own folder is created next to the first of them.
        values: numbers for the run's summary; None is left out.
        config: configuration that names mode and project of W&B.

    Returns:
        A sentence that says where the artifact is, or why there is none.
    """
    mode = wandb_mode(config)
    if mode == "disabled":
        return "W&B is disabled: no artifact"
    try:
        run = wandb.init(
            project=config.wandb.project,
            name=f"{kind} of {', '.join(names)}",
            job_type=kind,
            dir=files[0].parent,
            mode=mode,
            config={"runs": names},
            settings=wandb.Settings(silent=True),
        )
    # W&B cannot be reached, or refuses the key
    except wandb.Error as error:
        return f"W&B: no artifact ({error}); WANDB_MODE=offline keeps one for wandb sync"
    # W&B refuses other characters in the names of artifacts
    name = re.sub(r"[^\w.-]", "-", "-".join([kind, *names]))
    artifact = wandb.Artifact(name[:MAX_ARTIFACT_NAME], type=kind, metadata={"runs": names})
    for file in files:
        artifact.add_file(str(file))
    run.log_artifact(artifact)
    numbers = {name: value for name, value in values.items() if value is not None}
    run.summary.update(numbers)
    folder = Path(run.dir).parent
    run.finish()
    return f"W&B: {run.url if mode == 'online' else folder}"


def wandb_logger(config: Config, folder: Path) -> WandbLogger | None:
    """Return a logger for W&B; None if W&B is disabled or this is not the first rank.

    It logs online with an API key that W&B accepts, and offline otherwise, and so never asks on the
    screen. A trial of a sweep logs to the W&B run of its agent.
    """
    # under an agent the run exists already, so that `auto` needs no answer
    mode: Any = config.wandb.mode if in_sweep() else wandb_mode(config)
    if mode == "disabled" or not is_rank_zero():
        return None
    if in_sweep():
        assert wandb.run is not None
        wandb.run.config.update(to_dict(config), allow_val_change=True)
        return WandbLogger(experiment=wandb.run)
    try:
        run = _start_run(config, folder, mode)
    # there is no key, W&B refuses it, or cannot be reached
    except wandb.Error as error:
        if mode != "online":
            raise ValueError(
                f"W&B: {first_line(error)}; wandb.mode=disabled does without"
            ) from None
        _print_offline(error)
        run = _start_run(config, folder, "offline")
    return WandbLogger(experiment=run)


def _start_run(config: Config, folder: Path, mode: Any) -> wandb.Run:
    """Start the W&B run of a folder, or go on with it."""
    return wandb.init(
        project=config.wandb.project,
        name=folder.name,
        # a training that resumes goes on with the same W&B run
        id=os.environ.get("WANDB_RUN_ID", NOT_IN_IDS.sub("-", folder.name)),
        resume="allow",
        dir=folder,
        mode=mode,
        config=to_dict(config),
        settings=wandb.Settings(silent=True),
    )


def in_sweep() -> bool:
    """Whether `wandb agent` has started this process."""
    return "WANDB_SWEEP_ID" in os.environ


def finish_wandb() -> None:
    """End the W&B run of a stage; the run of a sweep's trial ends with the process."""
    if not in_sweep():
        wandb.finish()
