"""Where numbers go: metrics.jsonl and learning curves in the run's folder, and Weights & Biases."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import wandb
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from configs.loading import to_dict
from configs.schema import Config
from duplexmamba.text.jsonl import whole_lines

matplotlib.use("Agg")
from matplotlib import pyplot as plt

MAX_ARTIFACT_NAME = 128
"""Letters that W&B takes."""


class JsonlLogger(Logger):
    """One JSON object per line: {"step": ..., name: value, ...}."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    @property
    def name(self) -> str:
        return "jsonl"

    @property
    def version(self) -> str:
        return self.path.parent.name

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The resolved configuration lies beside the file already."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        values = {name: value for name, value in metrics.items() if name != "epoch"}
        with open(self.path, "a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    @rank_zero_only
    def cut_after(self, step: int) -> None:
        """Forget what a killed run logged past the checkpoint it goes on from."""
        kept = [line for line in whole_lines(self.path) if line["step"] <= step]
        self.path.write_text("".join(json.dumps(line) + "\n" for line in kept))


def draw_curves(metrics: list[dict[str, float]], path: Path, title: str) -> None:
    """One panel per name, all splits of a name in one panel."""
    names = sorted({name for line in metrics for name in line} - {"step"})
    panels = sorted({name.split("/")[-1] for name in names if not name.startswith("test/")})
    if not panels:
        return
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4 * len(panels), 3), layout="constrained", squeeze=False
    )
    for axis, panel in zip(axes[0], panels, strict=True):
        for name in (n for n in names if n.split("/")[-1] == panel and not n.startswith("test/")):
            points = [(line["step"], line[name]) for line in metrics if name in line]
            axis.plot(*zip(*points, strict=True), label=name, linewidth=1)
        axis.set(xlabel="update", title=panel)
        axis.set_yscale("log" if panel in ("loss", "wer", "cer") else "linear")
        axis.legend(frameon=False)
        axis.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def wandb_mode(config: Config) -> Any:
    """online, offline or disabled."""
    if config.wandb.mode != "auto":
        return config.wandb.mode
    return os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")


def log_artifact(
    kind: str, names: list[str], files: list[Path], values: Mapping[str, Any], config: Config
) -> str:
    """Files as one artifact of a run of its own, which lies beside the first of them; returns where, in words."""
    mode = wandb_mode(config)
    if mode == "disabled":
        return "W&B is disabled: no artifact"
    try:
        run = wandb.init(
            project=config.wandb.project, name=f"{kind} of {', '.join(names)}", job_type=kind, dir=files[0].parent,
            mode=mode, config={"runs": names}, settings=wandb.Settings(silent=True),
        )  # fmt: skip
    except wandb.Error as error:  # not reached, or not let in
        return f"W&B: no artifact ({error}); WANDB_MODE=offline keeps one for wandb sync"
    name = re.sub(r"[^\w.-]", "-", "-".join([kind, *names]))[:MAX_ARTIFACT_NAME]
    artifact = wandb.Artifact(name, type=kind, metadata={"runs": names})
    for file in files:
        artifact.add_file(str(file))
    run.log_artifact(artifact)
    run.summary.update({name: value for name, value in values.items() if value is not None})
    folder = Path(run.dir).parent
    run.finish()
    return f"W&B: {run.url if mode == 'online' else folder}"


def wandb_logger(config: Config, folder: Path) -> WandbLogger | None:
    """Online with an API key, offline without one, so that nothing waits for an answer; None if disabled.

    A point of a sweep has the run that its agent was given.
    """
    mode: Any = config.wandb.mode if in_sweep() else wandb_mode(config)
    if mode == "disabled" or getattr(rank_zero_only, "rank", 0) != 0:
        return None
    if in_sweep():
        assert wandb.run is not None
        wandb.run.config.update(to_dict(config), allow_val_change=True)
        return WandbLogger(experiment=wandb.run)
    run = wandb.init(
        project=config.wandb.project, name=folder.name, id=os.environ.get("WANDB_RUN_ID", folder.name), dir=folder,
        mode=mode, config=to_dict(config), resume="allow", settings=wandb.Settings(silent=True),
    )  # fmt: skip
    return WandbLogger(experiment=run)


def in_sweep() -> bool:
    """Whether `wandb agent` has started this process."""
    return "WANDB_SWEEP_ID" in os.environ


def finish_wandb() -> None:
    """The next stage of this process is a run of its own; the run of a sweep's point ends with the process."""
    if not in_sweep():
        wandb.finish()
