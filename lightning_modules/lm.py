"""Stage lm: the language model learns to transcribe and to answer, with text in place of speech."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from datamodules.synthetic.speech import HESITANT_SHARE
from duplexmamba.config import ModelConfig
from duplexmamba.models.lm import build_lm
from duplexmamba.streaming.padded import Padded, take
from duplexmamba.text.decoding import greedy
from duplexmamba.text.losses import IGNORED, token_loss
from duplexmamba.text.metrics import exact_match
from duplexmamba.text.tokenizer import ANSWER, SILENCE, TRANSCRIBE, Tokenizer
from lightning_modules.padding import pad_ids
from lightning_modules.results import AnswerResult, Result, TranscriptResult, text_pairs
from lightning_modules.stage import StageModule

SILENCE_THRESHOLDS = torch.tensor([0.5, 0.85])
"""Shares of the words that no silence token follows, and that at most one follows.

Two tokens follow the other words.
"""
HESITATION_TOKENS = (2, 10)
"""Smallest and largest number of silence tokens of a hesitation."""
MAX_EDGE_SILENCE = 3
"""Largest number of silence tokens before the first and after the last word."""


class TextModel(nn.Module):
    """The language model without speech, under the parameter names that it has in SpeechLM."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.lm = build_lm(config.lm)

    def forward(self, ids: Padded) -> Tensor:
        """Ids (B, L) -> hidden states (B, L, D)."""
        embeddings = ids.with_values(self.lm.embed(ids.values))
        hidden, _ = self.lm(embeddings)
        return hidden.values


class LMStage(StageModule):
    """Trains on prompts and responses as text, with the loss on the responses."""

    model: TextModel
    tokenizer: Tokenizer

    def training_loss(self, batch: list[tuple[str, str]]) -> Tensor:
        """Cross entropy of the responses, given the prompts."""
        prompts, responses = self._draw_examples(batch)
        input_rows: list[list[int]] = []
        label_rows: list[list[int]] = []
        for prompt, response in zip(prompts, responses, strict=True):
            ids = prompt + response
            input_rows.append(ids[:-1])
            label_rows.append([IGNORED] * (len(prompt) - 1) + response)
        # (B, L, D)
        hidden = self.model(pad_ids(input_rows, self.device))
        labels = pad_ids(label_rows, self.device, IGNORED).values
        # with a large vocabulary, logits of the prompts would cost more than all else
        is_labelled = labels != IGNORED
        logits = self.model.lm.logits(hidden[is_labelled])
        return token_loss(logits, labels[is_labelled], self.config.optim.label_smoothing)

    def validate(self, batch: list[tuple[str, str]]) -> list[Result]:
        """Greedy responses."""
        prompts, responses = self._draw_examples(batch)
        lm = self.model.lm
        ids = pad_ids(prompts, self.device)
        hidden, state = lm(ids.with_values(lm.embed(ids.values)))
        # (B, D): the prompts differ in length
        last_hidden = take(hidden.values, ids.row_lengths() - 1, 1)[:, 0]
        # longer than every reference is wrong anyway
        max_tokens = max(map(len, responses))
        outputs = greedy(lm, lm.logits(last_hidden), state, self.tokenizer.end, max_tokens)
        results: list[Result] = []
        for (_, answer), response, output in zip(batch, responses, outputs, strict=True):
            reference = self.tokenizer.decode(response)
            hypothesis = self.tokenizer.decode(output)
            result_type = AnswerResult if answer else TranscriptResult
            results.append(result_type(reference, hypothesis))
        return results

    def scores(self, results: Sequence[Result]) -> dict[str, float]:
        """Share of exact responses."""
        return {"exact_match": exact_match(text_pairs(results))}

    def _draw_examples(
        self, batch: list[tuple[str, str]]
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Ids of prompts and of responses: the answer where there is one, else the transcript.

        Instructions and silences are drawn at random.
        """
        prompts: list[list[int]] = []
        responses: list[list[int]] = []
        for text, answer in batch:
            before = self.tokenizer.before_speech(choose(ANSWER if answer else TRANSCRIBE))
            speech = speech_like(text, self.tokenizer, self.config.stage.speech_like_text)
            after = self.tokenizer.after_speech("response")
            prompts.append([*before, *speech, *after])
            responses.append(self.tokenizer.response(answer or text))
        return prompts, responses


def speech_like(text: str, tokenizer: Tokenizer, share: float) -> list[int]:
    """Ids of the words, for a `share` of texts with silence tokens between them.

    These prepare the language model for speech embeddings, many of which hold silence.
    """
    if torch.rand(()) >= share:
        return tokenizer.words(text)
    silence = tokenizer.encode(SILENCE)
    words = text.split()
    # silence tokens after each word
    counts = torch.bucketize(torch.rand(len(words)), SILENCE_THRESHOLDS)
    if len(words) > 1 and torch.rand(()) < HESITANT_SHARE:
        fewest, most = HESITATION_TOKENS
        word_index = torch.randint(len(words) - 1, ())
        counts[word_index] += torch.randint(fewest, most + 1, ())
    ids = silence * _draw_edge_silence()
    for word, count in zip(words, counts.tolist(), strict=True):
        ids += tokenizer.words(word) + silence * count
    return ids + silence * _draw_edge_silence()


def _draw_edge_silence() -> int:
    return int(torch.randint(0, MAX_EDGE_SILENCE + 1, ()))


def choose(options: tuple[str, ...]) -> str:
    """Draw one of the options with torch's generator."""
    return options[int(torch.randint(0, len(options), ()))]
