"""A finished run as a partner in conversation."""

import functools
from collections.abc import Callable
from pathlib import Path

import torch

from configs.recipes import DIALOGUE_STAGES
from configs.schema import Config
from duplexmamba.duplex import DUPLEX_KINDS
from duplexmamba.duplex.session import Session
from duplexmamba.models.speech_lm import SpeechLM
from lightning_modules.trainer.checkpoint import StageCheckpoint
from lightning_modules.trainer.hardware import set_up_torch


def open_sessions(given: StageCheckpoint, config: Config, run: Path) -> Callable[[], Session]:
    """Opens new sessions over one model, on the GPU where there is one.

    Raises:
        ValueError: the run has not learnt when to answer, or learnt it for another kind of session.
    """
    if given.tokenizer is None or config.stage.data != "dialogues":
        raise ValueError(
            f"{run} is a run of stage {config.stage.name}, which does not learn when to answer; name a run of stage "
            + " or ".join(DIALOGUE_STAGES)
        )
    if config.duplex.kind != given.config.duplex.kind:
        raise ValueError(
            f"duplex.kind={config.duplex.kind}: {run} was trained with {given.config.duplex.kind}; leave duplex.kind "
            "out, or train a run of that kind"
        )
    return functools.partial(
        DUPLEX_KINDS[config.duplex.kind].session,
        open_model(given, config),
        given.tokenizer,
        config.duplex,
    )


def open_model(given: StageCheckpoint, config: Config) -> SpeechLM:
    """The whole model in eval mode, on the GPU where there is one."""
    set_up_torch(config)
    model = SpeechLM(config.model)
    model.load_state_dict(given.weights)
    on_gpu = torch.cuda.is_available() and config.trainer.accelerator != "cpu"
    return model.eval().to("cuda" if on_gpu else "cpu")
