"""The checkpoint from which a killed training goes on."""

from pathlib import Path
from typing import NamedTuple

import torch

from lightning_modules.trainer.callbacks import LAST, PREVIOUS
from lightning_modules.trainer.exits import first_line, is_rank_zero


class ResumePoint(NamedTuple):
    """A readable checkpoint of a training in progress."""

    path: Path
    step: int
    """Number of updates that were made before it."""


def resume_point(folder: Path) -> ResumePoint | None:
    """Return the newest checkpoint in a run's folder that can be read; None if there is none.

    Where the last one is damaged, a note is printed and the one before it is taken.

    Raises:
        ValueError: there are checkpoints, but none can be read.
    """
    problems = []
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            step = torch.load(path, map_location="cpu", weights_only=True)["global_step"]
        # errors of torch, zip and pickle alike mean a damaged file
        except Exception as error:
            problems.append(f"{path} cannot be read ({first_line(error)})")
            continue
        if problems and is_rank_zero():
            print(f"{problems[0]}: taking the checkpoint before it, {path.name}", flush=True)
        return ResumePoint(path, step)
    if problems:
        raise ValueError(f"{'; '.join(problems)}; delete it: the stage begins anew")
    return None
