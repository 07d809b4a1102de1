"""Registry of training stages.

A stage is a recipe, `configs/stage/<name>.yaml` (what is trained, from which weights, how long),
and an entry here: the model, the LightningModule that computes its loss and results, and its data.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import nn

from configs.schema import Config
from datamodules.data import SpeechData, StageData, TextData
from datamodules.dialogue.data import DialogueData
from duplexmamba.config import ModelConfig
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.text.tokenizer import Tokenizer
from lightning_modules.dialogue import DialogueStage
from lightning_modules.encoder import CTCRecogniser, EncoderStage
from lightning_modules.lm import LMStage, TextModel
from lightning_modules.multiplex import MultiplexStage
from lightning_modules.speech import InstructStage, SpeechStage
from lightning_modules.stage import StageModule

DIALOGUE_MODULES: dict[str, type[DialogueStage]] = {
    "fork": DialogueStage,
    "multiplex": MultiplexStage,
}
"""Module of the stages on dialogues, by `duplex.kind`."""


def dialogue_module(config: Config, model: SpeechLM, tokenizer: Tokenizer | None) -> DialogueStage:
    """The module for dialogues of the configured kind of session."""
    return DIALOGUE_MODULES[config.duplex.kind](config, model, tokenizer)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training stage."""

    name: str
    """Name of its recipe."""
    description: str
    """Skill that it trains, for `duplexmamba config --explain stage.name`."""
    model: Callable[[ModelConfig], nn.Module]
    """Builds the model with random weights."""
    module: Callable[[Config, Any, Tokenizer | None], StageModule]
    """Builds the LightningModule from configuration, model and tokenizer."""
    data: type[StageData]
    """LightningDataModule."""
    metric: str
    """Main score of a run in summary.json."""
    has_tokenizer: bool = True
    """Whether the stage needs token ids."""
    has_speech_encoder: bool = True
    """Whether the model takes audio."""
    transcriber: str | None = "asr"
    """Stage whose module transcribes speech with this stage's model; None: it cannot."""


STAGE_REGISTRY = {
    stage.name: stage
    for stage in (
        Stage(
            "encoder",
            "CTC over UTF-8 bytes",
            CTCRecogniser,
            EncoderStage,
            SpeechData,
            "test/wer",
            has_tokenizer=False,
            transcriber="encoder",
        ),
        Stage(
            "lm",
            "to transcribe and answer, with text in place of speech",
            TextModel,
            LMStage,
            TextData,
            "test/exact_match",
            has_speech_encoder=False,
            transcriber=None,
        ),
        Stage(
            "asr",
            "speech embeddings that the language model can read",
            SpeechLM,
            SpeechStage,
            SpeechData,
            "test/wer",
        ),
        Stage(
            "instruct",
            "to transcribe or to answer, as instructed",
            SpeechLM,
            InstructStage,
            SpeechData,
            "test/exact_match",
        ),
        Stage(
            "state",
            "the state of the input after each slice",
            SpeechLM,
            dialogue_module,
            DialogueData,
            "test/state_macro_f1",
        ),
        Stage(
            "streaming",
            "whole dialogues, also during its own answers",
            SpeechLM,
            dialogue_module,
            DialogueData,
            "test/state_macro_f1",
        ),
    )
}
"""Every stage by its name."""
