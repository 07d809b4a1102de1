"""A frozen speech encoder, run by the data workers ahead of training."""

import dataclasses
from typing import Any

import torch

from configs.schema import Config
from datamodules.dialogue.data import DialogueBatch
from duplexmamba.models.speech_lm import SpeechEncoder, part_of
from duplexmamba.streaming.padded import Padded
from lightning_modules.trainer.hardware import trains_on_cpu

ENCODER_PARTS = {"features", "frontend", "encoder"}


class PrecomputeFrames:
    """Adds the encoder's frames to a batch of speech or of dialogues."""

    def __init__(self, model: SpeechEncoder):
        self.model = model

    def __call__(self, batch: Any) -> Any:
        """Return the batch with its frames (B, T, D); an empty batch is returned as it is."""
        if isinstance(batch, DialogueBatch):
            batch = dataclasses.replace(batch, utterances=self(batch.utterances))
        if not len(batch):
            return batch
        return dataclasses.replace(batch, frames=self._encode(batch.samples))

    @torch.no_grad()
    def _encode(self, samples: Padded) -> Padded:
        """Samples (B, n) -> frames (B, T, D), without dropout."""
        parts = [self.model.get_submodule(name) for name in sorted(ENCODER_PARTS)]
        modes = [part.training for part in parts]
        # the first batch is made before Lightning has set the mode of any part
        for part in parts:
            part.eval()
        frames, _ = self.model.encode(samples, final=True)
        for part, mode in zip(parts, modes, strict=True):
            part.train(mode)
        return frames


def can_precompute(config: Config, model: SpeechEncoder) -> bool:
    """Whether data workers can run the encoder with the results that training would get.

    The encoder must be frozen, and training must run on the CPU in float32.
    """
    is_frozen = not any(
        weight.requires_grad
        for name, weight in model.named_parameters()
        if part_of(name) in ENCODER_PARTS
    )
    # workers compute on the CPU without autocast
    in_float32 = config.trainer.precision in ("auto", "32-true")
    return is_frozen and in_float32 and trains_on_cpu(config.trainer)
