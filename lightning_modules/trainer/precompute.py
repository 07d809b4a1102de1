"""The encoder where it does not learn: run by the data workers, a few batches ahead of what learns from it."""

import dataclasses
from typing import Any

import torch

from configs.schema import Config
from datamodules.dialogue.data import DialogueBatch
from duplexmamba.models.speech_lm import SpeechEncoder, part_of
from duplexmamba.streaming.padded import Padded
from lightning_modules.trainer.hardware import trains_on_cpu

EAR = {"features", "frontend", "encoder"}


class PrecomputeFrames:
    """Adds the encoder's frames to a batch of speech or of dialogues."""

    def __init__(self, model: SpeechEncoder):
        self.model = model

    def __call__(self, batch: Any) -> Any:
        if isinstance(batch, DialogueBatch):
            batch = dataclasses.replace(batch, utterances=self(batch.utterances))
        return dataclasses.replace(batch, frames=self._hear(batch.samples)) if len(batch) else batch

    @torch.no_grad()
    def _hear(self, samples: Padded) -> Padded:
        parts = [self.model.get_submodule(name) for name in sorted(EAR)]
        modes = [part.training for part in parts]
        for part in parts:  # here and now: the first batch is made before training sets any mode
            part.eval()
        frames, _ = self.model.encode(samples, final=True)
        for part, mode in zip(parts, modes, strict=True):
            part.train(mode)
        return frames


def can_precompute(config: Config, model: SpeechEncoder) -> bool:
    """Whether nothing of the ear learns, and workers can run it as training would: on the CPU, in float32."""
    learns = any(
        weight.requires_grad for name, weight in model.named_parameters() if part_of(name) in EAR
    )
    plain = trains_on_cpu(config.trainer) and config.trainer.precision in ("auto", "32-true")
    return plain and not learns
