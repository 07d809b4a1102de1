"""Stage encoder: CTC over UTF-8 bytes, an alphabet for all languages; also from a teacher."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from configs.schema import Config
from datamodules.batching import SpeechBatch
from datamodules.dialogue.data import DialogueBatch
from duplexmamba.config import ModelConfig
from duplexmamba.models.connectors.ctc import BYTE_LABELS
from duplexmamba.models.pretrained_encoders import PRETRAINED_ENCODERS
from duplexmamba.models.speech_lm import SpeechEncoder
from duplexmamba.streaming.padded import Padded
from duplexmamba.text.ctc import ctc_greedy, ctc_loss
from duplexmamba.text.metrics import error_rates
from duplexmamba.text.tokenizer import Tokenizer
from lightning_modules.distillation import Distillation
from lightning_modules.padding import pad_ids
from lightning_modules.results import Result, TranscriptResult, text_pairs
from lightning_modules.stage import StageModule


class CTCRecogniser(SpeechEncoder):
    """Speech encoder with a linear CTC head over bytes.

    Label 0 is the blank, byte b has label b + 1.
    """

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.ctc = nn.Linear(config.encoder.d_model, BYTE_LABELS)

    def forward(self, frames: Padded) -> Padded:
        """Encoder frames (B, T, D) -> logits (B, T, 257)."""
        return frames.with_values(self.ctc(frames.values))


class EncoderStage(StageModule):
    """Trains the speech encoder on transcripts with CTC, and is scored on transcripts.

    Where stage.teacher names a pretrained encoder, its features are learnt as well.
    """

    model: CTCRecogniser

    def __init__(self, config: Config, model: CTCRecogniser, tokenizer: Tokenizer | None):
        super().__init__(config, model, tokenizer)
        # beside the model, so that its checkpoint does not have it
        self.distillation: Distillation | None = None
        if config.stage.teacher is not None:
            teacher = PRETRAINED_ENCODERS[config.stage.teacher]
            self.distillation = Distillation(config.model, teacher)

    def training_loss(self, batch: SpeechBatch) -> Tensor:
        """CTC loss of the bytes of the transcripts, plus that of the teacher's features.

        Batches of validation have no features of a teacher, and their loss is the CTC's alone.
        """
        frames = encoder_frames(self.model, batch)
        loss = ctc_loss(self.model(frames), byte_labels(batch.texts, self.device))
        if self.distillation is not None and batch.teacher is not None:
            self.log_loss_part("ctc", loss)
            teacher_loss = self.distillation(frames, batch.teacher)
            self.log_loss_part("distillation", teacher_loss)
            loss = loss + self.config.stage.distillation_weight * teacher_loss
        return loss

    def validate(self, batch: SpeechBatch) -> list[Result]:
        """Greedy transcripts."""
        results: list[Result] = []
        label_rows = ctc_greedy(self.model(encoder_frames(self.model, batch)))
        for text, labels in zip(batch.texts, label_rows, strict=True):
            # a greedy path may end within a character of several bytes
            transcript = bytes(label - 1 for label in labels).decode(errors="ignore")
            results.append(TranscriptResult(text, transcript))
        return results

    def scores(self, results: Sequence[Result]) -> dict[str, float]:
        """Word and character error rate."""
        references, hypotheses = zip(*text_pairs(results), strict=True)
        return error_rates(references, hypotheses)


def encoder_frames(model: SpeechEncoder, batch: SpeechBatch | DialogueBatch) -> Padded:
    """Encoder frames (B, T, D) of a batch, computed from what data workers have precomputed."""
    if batch.frames is not None:
        return batch.frames
    if batch.features is not None:
        return model.encode_features(batch.features)
    frames, _ = model.encode(batch.samples, final=True)
    return frames


def byte_labels(texts: Sequence[str], device: torch.device) -> Padded:
    """CTC labels (B, L) of the bytes of B texts."""
    rows = [[byte + 1 for byte in text.encode()] for text in texts]
    return pad_ids(rows, device)
