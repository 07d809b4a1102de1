"""Stages asr and instruct: the whole model responds to speech; the loss is on the response."""

import torch
from torch import Tensor

from datamodules.batches import SpeechBatch
from duplexmamba.connector import CTC
from duplexmamba.losses import IGNORED, ctc_loss, token_loss
from duplexmamba.metrics import error_rates, exact_match
from duplexmamba.model import SpeechLM
from duplexmamba.padded import Padded
from duplexmamba.tokens import ANSWER, SILENCE, TRANSCRIBE, Tokens
from lightning_modules.encoder import byte_labels
from lightning_modules.lm import choose
from lightning_modules.stage import StageModule, pad_ids

MAX_TOKENS_PER_S = 12
"""A greedy transcript longer than this is cut off: no one speaks so fast."""

HEAD_WEIGHT = 0.3
"""Of the CTC loss that goes on training the head of a `CTC` connector."""

SHARPNESS = 10.0
"""Logit of an embedding of common length with itself."""


class SpeechStage(StageModule):
    """Instruction, speech, response: the transcript or the answer; scored on transcripts."""

    model: SpeechLM
    tokens: Tokens

    def model_step(self, batch: SpeechBatch) -> Tensor:
        instructions, texts = zip(*self.tasks(batch), strict=True)
        after = self.tokens.after_speech("response")
        responses = [self.tokens.response(text) for text in texts]
        before = pad_ids([self.tokens.before_speech(instruction) for instruction in instructions], self.device)
        rows = pad_ids([after + r[:-1] for r in responses], self.device)
        labels = pad_ids([[IGNORED] * (len(after) - 1) + r for r in responses], self.device, IGNORED)
        frames, _ = self.model.hear(batch.samples, final=True)
        speech, _ = self.model.connector(frames)
        hidden, _ = self.model.read(before, speech, rows)
        loss = token_loss(self.model.lm.logits(hidden.values), labels.values, self.config.optim.label_smoothing)
        if isinstance(self.model.connector, CTC):
            logits = frames.with_values(self.model.connector.head(frames.values))
            loss = loss + HEAD_WEIGHT * ctc_loss(logits, byte_labels(batch.texts, self.device))
        weight = self.config.stage.ctc_weight
        return loss + weight * self.word_loss(speech, batch.texts) if weight else loss

    def tasks(self, batch: SpeechBatch) -> list[tuple[str, str]]:
        """Instruction and response of each item: the answer for a share of those that have one, else the transcript."""
        found = []
        for text, answer in zip(batch.texts, batch.answers, strict=True):
            asked = bool(answer) and bool(torch.rand(()) < self.config.stage.answer_share)
            found.append((choose(ANSWER), answer) if asked else (choose(TRANSCRIBE), text))
        return found

    def word_loss(self, speech: Padded, texts: list[str]) -> Tensor:
        """CTC of the speech embeddings (B, S, E) against the words: each should lie near the embedding of the word that
        ends in it, or near that of silence, the blank. This is what stage lm has taught the language model to read."""
        table = self.model.lm.embeddings.weight.detach()
        logits = speech.values @ table.T * (SHARPNESS / table.square().sum(-1).mean())
        words = pad_ids([self.tokens.words(text) for text in texts], self.device)
        [silence] = self.tokens.encode(SILENCE)
        return ctc_loss(speech.with_values(logits), words, blank=silence)

    def hypotheses(self, batch: SpeechBatch) -> list[tuple[str, str]]:
        instructions = [TRANSCRIBE[0]] * len(batch.texts)
        return list(zip(batch.texts, self.respond(instructions, batch.samples), strict=True))

    def respond(self, instructions: list[str], samples: Padded) -> list[str]:
        """Greedy responses to (B, n) samples."""
        before = pad_ids([self.tokens.before_speech(instruction) for instruction in instructions], self.device)
        after = pad_ids([self.tokens.after_speech("response")] * len(instructions), self.device)
        seconds = samples.values.shape[1] / self.config.features.sample_rate_hz
        limit = int(seconds * MAX_TOKENS_PER_S) + 1
        rows = self.model.respond(before, samples, after, self.tokens.end, limit)
        return [self.tokens.decode(row) for row in rows]

    def scores(self, pairs: list[tuple[str, str]]) -> dict[str, float]:
        return error_rates(*zip(*pairs, strict=True))


class InstructStage(SpeechStage):
    """The same, scored on the answers of what has one, and on the transcripts of the rest."""

    def hypotheses(self, batch: SpeechBatch) -> list[tuple[str, str]]:
        instructions = [ANSWER[0] if answer else TRANSCRIBE[0] for answer in batch.answers]
        wanted = [answer or text for text, answer in zip(batch.texts, batch.answers, strict=True)]
        return list(zip(wanted, self.respond(instructions, batch.samples), strict=True))

    def scores(self, pairs: list[tuple[str, str]]) -> dict[str, float]:
        return {"exact_match": exact_match(pairs)}
