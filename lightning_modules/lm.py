"""Stage lm: the language model learns to transcribe and to answer, with text in place of speech."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from configs.schema import Config
from datamodules.synthetic.speech import HESITANT_SHARE
from duplexmamba.config import ModelConfig
from duplexmamba.models.language_models import LM, build_lm
from duplexmamba.models.timing import FrameTiming
from duplexmamba.streaming.padded import take
from duplexmamba.text.decoding import greedy
from duplexmamba.text.losses import IGNORED, token_loss
from duplexmamba.text.metrics import exact_match
from duplexmamba.text.tokenizer import (
    ANSWER_INSTRUCTIONS,
    SILENCE,
    TRANSCRIBE_INSTRUCTIONS,
    Tokenizer,
)
from lightning_modules.padding import pad_ids
from lightning_modules.results import AnswerResult, Result, TranscriptResult, text_pairs
from lightning_modules.stage import StageModule

SILENCE_THRESHOLDS = torch.tensor([0.5, 0.85])
"""Shares of the words that no silence token follows, and that at most one follows.

Two tokens follow the other words.
"""
HESITATION_TOKENS = (2, 10)
"""Smallest and largest number of silence tokens of a hesitation."""
COUNTED_EMBEDDING_MS = 200.0
"""Duration of a speech embedding that these numbers of silence tokens belong to, as published."""
MAX_EDGE_SILENCE = 3
"""Largest number of silence tokens before the first and after the last word."""


class TextModel(nn.Module):
    """The language model without speech, under the parameter names that it has in SpeechLM."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.lm = build_lm(config.lm)


class Example(NamedTuple):
    """A training example as ids."""

    prompt: list[int]
    """Instruction, text in place of speech, and what introduces the response."""
    response: list[int]
    """The answer or the transcript, with end-of-text as the last id."""


TextBatch = list[tuple[str, str]]
"""(text, answer) of each item; the answer is empty where there is none."""


class LMStage(StageModule):
    """Trains on prompts and responses as text, with the loss on the responses."""

    model: TextModel
    tokenizer: Tokenizer

    def training_loss(self, batch: TextBatch) -> Tensor:
        """Cross entropy of the responses, given the prompts."""
        examples = draw_examples(batch, self.tokenizer, self.config)
        return text_loss(self.model.lm, examples, self.config.optim.label_smoothing)

    def validate(self, batch: TextBatch) -> list[Result]:
        """Greedy responses."""
        examples = draw_examples(batch, self.tokenizer, self.config)
        outputs = self._generate(examples)
        results: list[Result] = []
        for item, example, output in zip(batch, examples, outputs, strict=True):
            _, answer = item
            reference = self.tokenizer.decode(example.response)
            hypothesis = self.tokenizer.decode(output)
            if answer:
                results.append(AnswerResult(reference, hypothesis))
            else:
                results.append(TranscriptResult(reference, hypothesis))
        return results

    def _generate(self, examples: list[Example]) -> list[list[int]]:
        """Ids of the greedy responses."""
        lm = self.model.lm
        ids = pad_ids([example.prompt for example in examples], self.device)
        embeddings = ids.with_values(lm.embed(ids.values))
        hidden, state = lm(embeddings)
        # (B, D): the prompts differ in length
        last_step = ids.row_lengths() - 1
        last_hidden = take(hidden.values, last_step, 1)[:, 0]
        logits = lm.logits(last_hidden)
        # a longer response than the longest reference is wrong anyway
        max_tokens = max(len(example.response) for example in examples)
        return greedy(lm, logits, state, self.tokenizer.eos_id, max_tokens)

    def scores(self, results: Sequence[Result]) -> dict[str, float]:
        """Share of exact responses."""
        return {"exact_match": exact_match(text_pairs(results))}


def draw_examples(batch: TextBatch, tokenizer: Tokenizer, config: Config) -> list[Example]:
    """One example of each item: the answer where there is one, else the transcript.

    Instructions and silences are drawn at random.
    """
    after = tokenizer.prompt_after_speech("response")
    embedding_ms = FrameTiming.of(config.model).token_ms
    share = config.stage.speech_like_text
    examples = []
    for text, answer in batch:
        instruction = choose(ANSWER_INSTRUCTIONS if answer else TRANSCRIBE_INSTRUCTIONS)
        before = tokenizer.prompt_before_speech(instruction)
        speech = speech_like(text, tokenizer, share, embedding_ms)
        prompt = before + speech + after
        response = tokenizer.encode_response(answer or text)
        examples.append(Example(prompt, response))
    return examples


def text_loss(lm: LM, examples: list[Example], label_smoothing: float) -> Tensor:
    """Cross entropy of the responses, given the prompts."""
    device = lm.embeddings.weight.device
    input_rows = []
    label_rows = []
    for example in examples:
        ids = example.prompt + example.response
        # the label of an id is the id after it; the last one has none
        input_rows.append(ids[:-1])
        ignored = [IGNORED] * (len(example.prompt) - 1)
        label_rows.append(ignored + example.response)
    input_ids = pad_ids(input_rows, device)
    # (B, L, D)
    hidden, _ = lm(input_ids.with_values(lm.embed(input_ids.values)))
    labels = pad_ids(label_rows, device, IGNORED).values
    # with a large vocabulary, logits of the prompts would cost more than all else
    is_labelled = labels != IGNORED
    logits = lm.logits(hidden.values[is_labelled])
    return token_loss(logits, labels[is_labelled], label_smoothing)


def speech_like(
    text: str, tokenizer: Tokenizer, share: float, embedding_ms: float = COUNTED_EMBEDDING_MS
) -> list[int]:
    """Ids of the words, for a `share` of texts with silence tokens between them.

    These prepare the language model for speech embeddings, many of which hold silence.

    Args:
        text: words.
        tokenizer: of the language model.
        share: of the texts that have silence tokens, 0 to 1.
        embedding_ms: duration of a speech embedding in milliseconds; the shorter it is, the more
            of them belong to a word.
    """
    if torch.rand(()) >= share:
        return tokenizer.encode_words(text)
    silence = tokenizer.encode(SILENCE)
    words = text.split()
    # (W,) silence tokens after each of W words
    draws = torch.rand(len(words))
    counts = torch.bucketize(draws, SILENCE_THRESHOLDS)
    if len(words) > 1 and torch.rand(()) < HESITANT_SHARE:
        fewest, most = HESITATION_TOKENS
        word_index = torch.randint(len(words) - 1, ())
        counts[word_index] += torch.randint(fewest, most + 1, ())
    stretch = COUNTED_EMBEDDING_MS / embedding_ms
    if stretch != 1:
        # a word and its silence last as long, within half an embedding of the counted length
        durations = (counts + 1 + torch.rand(len(words)) - 0.5) * stretch
        counts = (durations.round().long() - 1).clamp(min=0)
    ids = silence * _draw_edge_silence(stretch)
    for word, count in zip(words, counts.tolist(), strict=True):
        ids += tokenizer.encode_words(word)
        ids += silence * count
    ids += silence * _draw_edge_silence(stretch)
    return ids


def _draw_edge_silence(stretch: float) -> int:
    return round(int(torch.randint(0, MAX_EDGE_SILENCE + 1, ())) * stretch)


def choose(options: tuple[str, ...]) -> str:
    """Draw one of the options with torch's generator."""
    index = torch.randint(0, len(options), ())
    return options[int(index)]
