"""Stage encoder: ConMamba with CTC over UTF-8 bytes, which is every language's alphabet."""

from torch import Tensor, nn

from datamodules.batches import SpeechBatch
from duplexmamba.losses import ctc_greedy, ctc_loss
from duplexmamba.metrics import error_rates
from duplexmamba.model import Ear
from duplexmamba.padded import Padded
from duplexmamba.schema import Config
from lightning_modules.stage import StageModule, pad_ids


class CTCRecogniser(Ear):
    """The ear and a linear layer that reads bytes from its frames; label 0 is the blank, byte b is b + 1."""

    def __init__(self, config: Config):
        super().__init__(config)
        self.ctc = nn.Linear(config.encoder.d_model, 257)

    def forward(self, samples: Padded) -> Padded:
        """(B, n) -> logits (B, T, 257)."""
        frames, _ = self.hear(samples, final=True)
        return frames.with_values(self.ctc(frames.values))


class EncoderStage(StageModule):
    """Frames against the bytes of the transcript."""

    model: CTCRecogniser

    def model_step(self, batch: SpeechBatch) -> Tensor:
        labels = pad_ids([[b + 1 for b in text.encode()] for text in batch.texts], self.device)
        return ctc_loss(self.model(batch.samples), labels)

    def hypotheses(self, batch: SpeechBatch) -> list[tuple[str, str]]:
        rows = ctc_greedy(self.model(batch.samples))
        spoken = [bytes(label - 1 for label in row).decode(errors="ignore") for row in rows]
        return list(zip(batch.texts, spoken, strict=True))

    def scores(self, pairs: list[tuple[str, str]]) -> dict[str, float]:
        return error_rates(*zip(*pairs, strict=True))
