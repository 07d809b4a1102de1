"""Stages asr and instruct: the whole model responds to single utterances.

Glossary: B utterances, n samples, T encoder frames, S speech embeddings, E their width, V
vocabulary, C candidate transcripts.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.batching import SpeechBatch
from datamodules.dialogue.data import DialogueBatch
from duplexmamba.models.connectors.ctc import CTCConnector
from duplexmamba.models.language_models import LMState
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.streaming import state as states
from duplexmamba.streaming.padded import Padded
from duplexmamba.text.ctc import ctc_beam, ctc_log_likelihood, ctc_loss
from duplexmamba.text.decoding import greedy, log_likelihood
from duplexmamba.text.losses import IGNORED, token_loss
from duplexmamba.text.metrics import error_rates, exact_match
from duplexmamba.text.tokenizer import (
    ANSWER_INSTRUCTIONS,
    SILENCE,
    TRANSCRIBE_INSTRUCTIONS,
    Tokenizer,
)
from lightning_modules.encoder import byte_labels, encoder_frames
from lightning_modules.lm import choose, draw_examples, text_loss
from lightning_modules.padding import pad_ids
from lightning_modules.results import AnswerResult, Result, TranscriptResult, text_pairs
from lightning_modules.stage import StageModule

MAX_TOKENS_PER_S = 12
"""Greedy responses are cut off at this rate, which is faster than anybody speaks."""

HEAD_WEIGHT = 0.3
"""Weight of the CTC loss that keeps training the head of a connector of kind ctc."""

SHARPNESS = 10.0
"""Logit between a word's embedding of average length and itself."""

NUM_TEXT_POSITIONS = 1_000_000
"""First positions of the training stream, which has no end, whose texts are drawn."""

BEAM = 16
"""Candidate transcripts of the words' CTC, which the language model rescores."""


class Task(NamedTuple):
    """Instruction for an utterance, and the expected response."""

    instruction: str
    response: str


class SpeechStage(StageModule):
    """Trains on instruction, speech and response, with the loss on the response.

    The response is the transcript or the answer. The stage is scored on transcripts.
    """

    model: SpeechLM
    tokenizer: Tokenizer
    texts: Callable[[int], tuple[str, str]] | None = None
    """Text and answer of the utterance at a position of the training stream, or an empty answer.

    Set where `stage.texts_per_utterance` is.
    """

    def training_loss(self, batch: SpeechBatch) -> Tensor:
        """Cross entropy of the responses, plus the losses that are enabled: CTC and texts.

        CTC losses: of the connector's byte head where its kind is ctc, and of the speech embeddings
        against the words where stage.ctc_weight is not 0.
        """
        tasks = self.tasks(batch)
        frames = self.frames(batch)
        speech, _ = self.model.connector(frames)
        loss = self._response_loss(tasks, speech)
        self.log_loss_part("tokens", loss)
        if isinstance(self.model.connector, CTCConnector):
            logits = frames.with_values(self.model.connector.head(frames.values))
            head_loss = ctc_loss(logits, byte_labels(batch.texts, self.device))
            self.log_loss_part("ctc", head_loss)
            loss = loss + HEAD_WEIGHT * head_loss
        if self.config.stage.ctc_weight:
            word_loss = self.word_loss(speech, batch.texts)
            self.log_loss_part("words", word_loss)
            loss = loss + self.config.stage.ctc_weight * word_loss
        if self.config.stage.texts_per_utterance and self.training:
            text_loss = self.rehearsal_loss(len(batch))
            self.log_loss_part("texts", text_loss)
            loss = loss + text_loss
        return loss

    def rehearsal_loss(self, num_utterances: int) -> Tensor:
        """Loss of stage lm on texts of the corpora, for a batch of so many utterances."""
        assert self.texts is not None
        num_texts = num_utterances * self.config.stage.texts_per_utterance
        pairs = []
        for position in torch.randint(NUM_TEXT_POSITIONS, (num_texts,)).tolist():
            text, answer = self.texts(position)
            is_question = torch.rand(()) < self.config.stage.answer_share
            pairs.append((text, answer if is_question else ""))
        examples = draw_examples(pairs, self.tokenizer, self.config)
        return text_loss(self.model.lm, examples, self.config.optim.label_smoothing)

    def _response_loss(self, tasks: list[Task], speech: Padded) -> Tensor:
        """Cross entropy of the responses to speech (B, S, E)."""
        after = self.tokenizer.prompt_after_speech("response")
        before_ids = self._instruction_ids([task.instruction for task in tasks])
        ignored = [IGNORED] * (len(after) - 1)
        input_rows = []
        label_rows = []
        for task in tasks:
            response = self.tokenizer.encode_response(task.response)
            input_rows.append(after + response[:-1])
            # the last id after speech predicts the first of the response
            label_rows.append(ignored + response)
        input_ids = pad_ids(input_rows, self.device)
        hidden, _ = self.model(before_ids, speech, input_ids)
        labels = pad_ids(label_rows, self.device, IGNORED)
        # (B, L, V)
        logits = self.model.lm.logits(hidden.values)
        return token_loss(logits, labels.values, self.config.optim.label_smoothing)

    def frames(self, batch: SpeechBatch | DialogueBatch) -> Padded:
        """Encoder frames (B, T, D), computed here unless a data worker has precomputed them."""
        return encoder_frames(self.model, batch)

    def tasks(self, batch: SpeechBatch) -> list[Task]:
        """Draw a task for each utterance.

        It is to answer for the share stage.answer_share of those with an answer, otherwise to
        transcribe.
        """
        tasks: list[Task] = []
        for text, answer in zip(batch.texts, batch.answers, strict=True):
            # no draw without an answer: the order of random draws is part of a run
            if answer and torch.rand(()) < self.config.stage.answer_share:
                tasks.append(Task(choose(ANSWER_INSTRUCTIONS), answer))
            else:
                tasks.append(Task(choose(TRANSCRIBE_INSTRUCTIONS), text))
        return tasks

    def word_loss(self, speech: Padded, texts: list[str]) -> Tensor:
        """CTC loss of speech embeddings (B, S, E) against the words.

        Each embedding should be close to the embedding of the word that ends in it, or else to that
        of silence, which is the blank. This is the input that stage lm has trained the language
        model on.
        """
        words = pad_ids([self.tokenizer.encode_words(text) for text in texts], self.device)
        return ctc_loss(self.word_logits(speech), words, self._silence_id())

    def word_logits(self, speech: Padded) -> Padded:
        """Similarity (B, S, V) of speech embeddings (B, S, E) to the words' embeddings."""
        # detached: the speech moves to the words, not the words to the speech
        table = self.model.lm.embeddings.weight.detach()
        mean_square = table.square().sum(-1).mean()
        return speech.with_values(speech.values @ table.T * (SHARPNESS / mean_square))

    def _silence_id(self) -> int:
        [silence] = self.tokenizer.encode(SILENCE)
        return silence

    def validate(self, batch: SpeechBatch) -> list[Result]:
        """Transcripts: greedy, or rescored where the stage trains a CTC of words."""
        if self.config.stage.ctc_weight:
            id_rows = self.transcribe(batch)
            transcripts = [self.tokenizer.decode(ids) for ids in id_rows]
        else:
            instructions = [TRANSCRIBE_INSTRUCTIONS[0]] * len(batch.texts)
            transcripts = self.respond(instructions, batch)
        return [
            TranscriptResult(text, transcript)
            for text, transcript in zip(batch.texts, transcripts, strict=True)
        ]

    @torch.no_grad()
    def respond(self, instructions: list[str], batch: SpeechBatch) -> list[str]:
        """Greedy responses to the utterances of a batch, one instruction for each."""
        speech, _ = self.model.connector(self.frames(batch))
        before, after = self._ids_around_speech(instructions)
        logits, lm_state = self.model.prefill(before, speech, after)
        max_tokens = self._max_tokens(batch.samples)
        rows = greedy(self.model.lm, logits, lm_state, self.tokenizer.eos_id, max_tokens)
        return [self.tokenizer.decode(row) for row in rows]

    def transcribe(self, batch: SpeechBatch) -> list[list[int]]:
        """Ids of the transcripts of the utterances of a batch.

        Candidates are the language model's greedy transcript and the `BEAM` most likely ones of the
        words' CTC. The one with the largest sum of both log likelihoods is chosen: the language
        model prefers frequent texts to what was spoken, and the CTC knows no language.
        Source: joint decoding by rescoring, Watanabe et al. 2017.
        """
        speech, _ = self.model.connector(self.frames(batch))
        before, after = self._ids_around_speech([TRANSCRIBE_INSTRUCTIONS[0]] * len(batch))
        logits, lm_state = self.model.prefill(before, speech, after)
        max_tokens = self._max_tokens(batch.samples)
        greedy_rows = greedy(self.model.lm, logits, lm_state, self.tokenizer.eos_id, max_tokens)
        # (B, S, V)
        word_logits = self.word_logits(speech)
        candidates = self._candidates(greedy_rows, word_logits)
        scores = self._score_candidates(candidates, word_logits, logits, lm_state)
        best = []
        for rows, row_scores in zip(candidates, scores, strict=True):
            best.append(rows[int(row_scores.argmax())])
        return best

    def _candidates(
        self, greedy_rows: list[list[int]], word_logits: Padded
    ) -> list[list[list[int]]]:
        """For each utterance the greedy transcript, then those of the CTC that differ from it."""
        silence = self._silence_id()
        lengths = word_logits.row_lengths().tolist()
        candidates = []
        for ids, logits, length in zip(greedy_rows, word_logits.values, lengths, strict=True):
            beam = ctc_beam(logits[:length], BEAM, silence)
            others = [words for words in beam if words != ids]
            candidates.append([ids, *others])
        return candidates

    def _score_candidates(
        self,
        candidates: list[list[list[int]]],
        word_logits: Padded,
        lm_logits: Tensor,
        lm_state: LMState,
    ) -> Sequence[Tensor]:
        """Sums of both log likelihoods of all candidates.

        Args:
            candidates: ids of the candidates of each utterance.
            word_logits: (B, S, V) similarities of the speech embeddings to words.
            lm_logits: (B, V) of the first id of a response.
            lm_state: B rows, after the prompt and the speech.

        Returns:
            For each utterance the scores (C,) of its candidates.
        """
        rows = list(itertools.chain.from_iterable(candidates))
        counts = [len(of_utterance) for of_utterance in candidates]
        # all candidates are rows of one batch: utterance of each row
        index = torch.repeat_interleave(torch.tensor(counts)).to(self.device)
        lengths = word_logits.row_lengths()
        repeated_logits = Padded(word_logits.values[index], lengths[index])
        words = pad_ids(rows, self.device)
        ctc_scores = ctc_log_likelihood(repeated_logits, words, self._silence_id())
        ended_rows = [[*row, self.tokenizer.eos_id] for row in rows]
        lm_scores = log_likelihood(
            self.model.lm,
            lm_logits[index],
            states.select(lm_state, index),
            pad_ids(ended_rows, self.device),
        )
        scores = ctc_scores + lm_scores
        return scores.split(counts)

    def _instruction_ids(self, instructions: list[str]) -> Padded:
        """Ids (B, L) before speech."""
        rows = [self.tokenizer.prompt_before_speech(instruction) for instruction in instructions]
        return pad_ids(rows, self.device)

    def _ids_around_speech(self, instructions: list[str]) -> tuple[Padded, Padded]:
        """Ids before speech, and those after it up to the response."""
        after = self.tokenizer.prompt_after_speech("response")
        return self._instruction_ids(instructions), pad_ids(
            [after] * len(instructions), self.device
        )

    def _max_tokens(self, samples: Padded) -> int:
        longest_s = samples.values.shape[1] / self.config.features.sample_rate_hz
        return int(longest_s * MAX_TOKENS_PER_S) + 1

    def scores(self, results: Sequence[Result]) -> dict[str, float]:
        """Word and character error rate."""
        references, hypotheses = zip(*text_pairs(results), strict=True)
        return error_rates(references, hypotheses)


class InstructStage(SpeechStage):
    """Trains as stage asr does, and is scored on answers; on transcripts where there is none."""

    def validate(self, batch: SpeechBatch) -> list[Result]:
        """Greedy answers and transcripts."""
        instructions = [
            ANSWER_INSTRUCTIONS[0] if answer else TRANSCRIBE_INSTRUCTIONS[0]
            for answer in batch.answers
        ]
        responses = self.respond(instructions, batch)
        results: list[Result] = []
        for text, answer, response in zip(batch.texts, batch.answers, responses, strict=True):
            if answer:
                results.append(AnswerResult(answer, response))
            else:
                results.append(TranscriptResult(text, response))
        return results

    def scores(self, results: Sequence[Result]) -> dict[str, float]:
        """Share of exact responses."""
        return {"exact_match": exact_match(text_pairs(results))}
