"""Stages asr and instruct: the whole model responds to speech; the loss is on the response."""

from itertools import chain

import torch
from torch import Tensor

from datamodules.batching import SpeechBatch
from datamodules.dialogue.data import DialogueBatch
from duplexmamba.models.connector import CTCConnector
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.streaming import state as states
from duplexmamba.streaming.padded import Padded
from duplexmamba.text.ctc import ctc_beam, ctc_log_likelihood, ctc_loss
from duplexmamba.text.decoding import greedy, log_likelihood
from duplexmamba.text.losses import IGNORED, token_loss
from duplexmamba.text.metrics import error_rates, exact_match
from duplexmamba.text.tokenizer import ANSWER, SILENCE, TRANSCRIBE, Tokenizer
from lightning_modules.encoder import byte_labels
from lightning_modules.lm import choose
from lightning_modules.stage import StageModule, pad_ids

MAX_TOKENS_PER_S = 12
"""A greedy transcript longer than this is cut off: no one speaks so fast."""

HEAD_WEIGHT = 0.3
"""Of the CTC loss that goes on training the head of a `CTC` connector."""

SHARPNESS = 10.0
"""Logit of an embedding of common length with itself."""

BEAM = 16
"""Transcripts by the words' CTC among which the language model chooses."""


class SpeechStage(StageModule):
    """Instruction, speech, response: the transcript or the answer; scored on transcripts."""

    model: SpeechLM
    tokenizer: Tokenizer

    def model_step(self, batch: SpeechBatch) -> Tensor:
        instructions, texts = zip(*self.tasks(batch), strict=True)
        after = self.tokenizer.after_speech("response")
        responses = [self.tokenizer.response(text) for text in texts]
        before = pad_ids(
            [self.tokenizer.before_speech(instruction) for instruction in instructions], self.device
        )
        rows = pad_ids([after + r[:-1] for r in responses], self.device)
        labels = pad_ids(
            [[IGNORED] * (len(after) - 1) + r for r in responses], self.device, IGNORED
        )
        frames = self.frames(batch)
        speech, _ = self.model.connector(frames)
        hidden, _ = self.model(before, speech, rows)
        loss = token_loss(
            self.model.lm.logits(hidden.values), labels.values, self.config.optim.label_smoothing
        )
        if isinstance(self.model.connector, CTCConnector):
            logits = frames.with_values(self.model.connector.head(frames.values))
            loss = loss + HEAD_WEIGHT * ctc_loss(logits, byte_labels(batch.texts, self.device))
        weight = self.config.stage.ctc_weight
        return loss + weight * self.word_loss(speech, batch.texts) if weight else loss

    def frames(self, batch: SpeechBatch | DialogueBatch) -> Padded:
        """(B, T, D) encoder frames, made here unless a data worker has made them."""
        return (
            self.model.encode(batch.samples, final=True)[0]
            if batch.frames is None
            else batch.frames
        )

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
        words = pad_ids([self.tokenizer.words(text) for text in texts], self.device)
        return ctc_loss(self.word_logits(speech), words, self._silence())

    def word_logits(self, speech: Padded) -> Padded:
        """(B, S, E) speech embeddings -> (B, S, V), by how near they lie to those of words."""
        table = self.model.lm.embeddings.weight.detach()
        return speech.with_values(
            speech.values @ table.T * (SHARPNESS / table.square().sum(-1).mean())
        )

    def _silence(self) -> int:
        [silence] = self.tokenizer.encode(SILENCE)
        return silence

    def hypotheses(self, batch: SpeechBatch) -> list[tuple[str, str]]:
        if self.config.stage.ctc_weight:
            found = [self.tokenizer.decode(ids) for ids in self.transcribe(batch.samples)]
            return list(zip(batch.texts, found, strict=True))
        instructions = [TRANSCRIBE[0]] * len(batch.texts)
        return list(zip(batch.texts, self.respond(instructions, batch.samples), strict=True))

    def respond(self, instructions: list[str], samples: Padded) -> list[str]:
        """Greedy responses to (B, n) samples."""
        before, after = self._around(instructions)
        rows = self.model.generate(
            before, samples, after, self.tokenizer.end, self._max_tokens(samples)
        )
        return [self.tokenizer.decode(row) for row in rows]

    def transcribe(self, samples: Padded) -> list[list[int]]:
        """Ids of what (B, n) samples say: of the language model's greedy transcript and the `BEAM` likeliest by the
        words' CTCConnector, the one with the largest sum of both log likelihoods.

        The language model alone prefers what it has read often to what it hears, the CTC knows no language.
        Source: joint decoding by rescoring, Watanabe et al. 2017.
        """
        speech, _ = self.model.embed_speech(samples, final=True)
        before, after = self._around([TRANSCRIBE[0]] * len(samples.values))
        logits, state = self.model.prefill(before, speech, after)
        said = greedy(self.model.lm, logits, state, self.tokenizer.end, self._max_tokens(samples))
        heard, silence = self.word_logits(speech), self._silence()
        candidates = [
            [ids, *(words for words in ctc_beam(row[:length], BEAM, silence) if words != ids)]
            for ids, row, length in zip(
                said, heard.values, heard.row_lengths().tolist(), strict=True
            )
        ]
        rows = list(chain.from_iterable(candidates))
        whose = torch.tensor(
            [i for i, found in enumerate(candidates) for _ in found], device=self.device
        )
        each = Padded(heard.values[whose], heard.row_lengths()[whose])
        by_ear = ctc_log_likelihood(each, pad_ids(rows, self.device), silence)
        ended = pad_ids([[*row, self.tokenizer.end] for row in rows], self.device)
        by_lm = log_likelihood(self.model.lm, logits[whose], states.select(state, whose), ended)
        scores = (by_ear + by_lm).split([len(found) for found in candidates])
        return [found[int(score.argmax())] for found, score in zip(candidates, scores, strict=True)]

    def _around(self, instructions: list[str]) -> tuple[Padded, Padded]:
        """Ids before and after speech, up to the response."""
        before = pad_ids(
            [self.tokenizer.before_speech(instruction) for instruction in instructions], self.device
        )
        return before, pad_ids(
            [self.tokenizer.after_speech("response")] * len(instructions), self.device
        )

    def _max_tokens(self, samples: Padded) -> int:
        return (
            int(samples.values.shape[1] / self.config.features.sample_rate_hz * MAX_TOKENS_PER_S)
            + 1
        )

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
