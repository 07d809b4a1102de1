"""Stage encoder: CTC over UTF-8 bytes, which are every language's alphabet."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from datamodules.batching import SpeechBatch
from duplexmamba.config import ModelConfig
from duplexmamba.models.connector import BYTE_LABELS
from duplexmamba.models.speech_lm import SpeechEncoder
from duplexmamba.streaming.padded import Padded
from duplexmamba.text.ctc import ctc_greedy, ctc_loss
from duplexmamba.text.metrics import error_rates
from lightning_modules.stage import StageModule, pad_ids


class CTCRecogniser(SpeechEncoder):
    """The ear and a linear layer that reads bytes from its frames; label 0 is the blank, byte b is b + 1."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.ctc = nn.Linear(config.encoder.d_model, BYTE_LABELS)

    def forward(self, samples: Padded) -> Padded:
        """(B, n) -> logits (B, T, 257)."""
        frames, _ = self.encode(samples, final=True)
        return frames.with_values(self.ctc(frames.values))


class EncoderStage(StageModule):
    """Frames against the bytes of the transcript."""

    model: CTCRecogniser

    def model_step(self, batch: SpeechBatch) -> Tensor:
        return ctc_loss(self.model(batch.samples), byte_labels(batch.texts, self.device))

    def hypotheses(self, batch: SpeechBatch) -> list[tuple[str, str]]:
        rows = ctc_greedy(self.model(batch.samples))
        spoken = [bytes(label - 1 for label in row).decode(errors="ignore") for row in rows]
        return list(zip(batch.texts, spoken, strict=True))

    def scores(self, pairs: list[tuple[str, str]]) -> dict[str, float]:
        return error_rates(*zip(*pairs, strict=True))


def byte_labels(texts: Sequence[str], device: torch.device) -> Padded:
    """The labels of the CTC, (B, L)."""
    return pad_ids([[byte + 1 for byte in text.encode()] for text in texts], device)
