"""Speed of hearing and answering, and size of the memory."""

import argparse

import torch

from evaluation.commands.finished_run import open_run
from evaluation.duplex.report import report_bench
from evaluation.speed import measure
from lightning_modules.stages import STAGE_REGISTRY
from lightning_modules.trainer.hardware import set_up_torch


def score(asked: argparse.Namespace) -> dict[str, float]:
    """On the GPU where there is one, else on one thread; of any stage."""
    run = open_run(asked.run, asked.overrides)
    set_up_torch(run.config)
    torch.set_num_threads(1)
    model = STAGE_REGISTRY[run.config.stage.name].model(run.config.model)
    model.load_state_dict(run.given.weights)
    on = "cuda" if torch.cuda.is_available() and run.config.trainer.accelerator != "cpu" else "cpu"
    return report_bench(
        measure(model.eval().to(on), run.config), run.titled(f"speed and size, on {on}")
    )
