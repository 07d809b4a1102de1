"""Live sessions with the model of a finished run."""

import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from configs.recipes import DIALOGUE_STAGES
from configs.schema import Config
from duplexmamba.duplex import DUPLEX_KINDS
from duplexmamba.duplex.session import Session
from duplexmamba.models.speech_lm import SpeechLM
from lightning_modules.trainer.checkpoint import StageCheckpoint
from lightning_modules.trainer.hardware import set_up_torch

MAX_REASON_CHARS = 200
"""Length up to which a message quotes torch."""


def open_sessions(checkpoint: StageCheckpoint, config: Config, run: Path) -> Callable[[], Session]:
    """Load the model of a run and return a function that opens sessions with it.

    Args:
        checkpoint: of the run.
        config: that of the run, with changes for live use.
        run: the run's folder, named in error messages.

    Raises:
        ValueError: the stage does not learn when to respond, or the run was trained for another
            kind of session.
    """
    if checkpoint.tokenizer is None or config.stage.name not in DIALOGUE_STAGES:
        raise ValueError(
            f"{run} is a run of stage {config.stage.name}, which does not learn when to answer; "
            f"name a run of stage {' or '.join(DIALOGUE_STAGES)}"
        )
    # both kinds have the same weights, so that loading them would not fail
    trained_kind = checkpoint.config.duplex.kind
    if config.duplex.kind != trained_kind:
        raise ValueError(
            f"duplex.kind={config.duplex.kind}: {run} was trained with {trained_kind}; "
            "leave duplex.kind out, or train a run of that kind"
        )
    session = DUPLEX_KINDS[config.duplex.kind].session
    model = open_model(checkpoint, config)
    return functools.partial(session, model, checkpoint.tokenizer, config.duplex)


def load_weights(model: nn.Module, checkpoint: StageCheckpoint) -> None:
    """Load the weights of a run into a model.

    Raises:
        ValueError: they do not fit, since the model is not of the run's configuration.
    """
    try:
        model.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        details = " ".join(str(error).split())[:MAX_REASON_CHARS]
        raise ValueError(
            "the weights of this run do not fit the model; leave out key=value words that change "
            f"the model, or name a run that was trained with them ({details} ...)"
        ) from None


def open_model(checkpoint: StageCheckpoint, config: Config) -> SpeechLM:
    """The whole model in eval mode, on the GPU if there is one that may be used."""
    set_up_torch(config)
    model = SpeechLM(config.model)
    load_weights(model, checkpoint)
    use_gpu = torch.cuda.is_available() and config.trainer.accelerator != "cpu"
    return model.eval().to("cuda" if use_gpu else "cpu")
