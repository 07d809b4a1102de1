"""Stage lm: the language model learns to transcribe and to answer, with text in the place of speech."""

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
from lightning_modules.stage import StageModule, pad_ids

BETWEEN = torch.tensor([0.5, 0.85])
"""Shares of words behind which there is no silence, and at most one embedding of it; behind the others, two."""
PAUSE = (2, 10)
"""Embeddings of silence, fewest and most, of a speaker who hesitates: once in a `HESITANT_SHARE` of such texts."""


class TextModel(nn.Module):
    """The language model alone, under the name it has in SpeechLM."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.lm = build_lm(config.lm)

    def forward(self, ids: Padded) -> Tensor:
        """(B, L) -> hidden states (B, L, D)."""
        hidden, _ = self.lm(ids.with_values(self.lm.embed(ids.values)))
        return hidden.values


class LMStage(StageModule):
    """Prompt and response as text; the loss is on the response."""

    model: TextModel
    tokenizer: Tokenizer

    def model_step(self, batch: list[tuple[str, str]]) -> Tensor:
        prompts, responses = self._read(batch)
        rows = [p + r for p, r in zip(prompts, responses, strict=True)]
        labels = [[IGNORED] * (len(p) - 1) + r for p, r in zip(prompts, responses, strict=True)]
        hidden = self.model(pad_ids([row[:-1] for row in rows], self.device))
        target = pad_ids(labels, self.device, IGNORED).values
        counted = (
            target != IGNORED
        )  # logits of the prompt would cost more than all else in a large vocabulary
        return token_loss(
            self.model.lm.logits(hidden[counted]),
            target[counted],
            self.config.optim.label_smoothing,
        )

    def hypotheses(self, batch: list[tuple[str, str]]) -> list[tuple[str, str]]:
        prompts, responses = self._read(batch)
        lm, ids = self.model.lm, pad_ids(prompts, self.device)
        hidden, state = lm(ids.with_values(lm.embed(ids.values)))
        last = take(hidden.values, ids.row_lengths() - 1, 1)[:, 0]
        said = greedy(lm, lm.logits(last), state, self.tokenizer.end, max(map(len, responses)))
        return [
            (self.tokenizer.decode(r), self.tokenizer.decode(s))
            for r, s in zip(responses, said, strict=True)
        ]

    def scores(self, pairs: list[tuple[str, str]]) -> dict[str, float]:
        return {"exact_match": exact_match(pairs)}

    def _read(self, batch: list[tuple[str, str]]) -> tuple[list[list[int]], list[list[int]]]:
        """Prompts and responses: the answer where one is wanted, else the transcript."""
        prompts, responses = [], []
        for text, answer in batch:
            instruction = choose(ANSWER if answer else TRANSCRIBE)
            words = speech_like(text, self.tokenizer, self.config.stage.speech_like_text)
            prompts.append(
                [
                    *self.tokenizer.before_speech(instruction),
                    *words,
                    *self.tokenizer.after_speech("response"),
                ]
            )
            responses.append(self.tokenizer.response(answer or text))
        return prompts, responses


def speech_like(text: str, tokenizer: Tokenizer, share: float) -> list[int]:
    """Ids of the words, and for a `share` of texts silence between them as it comes between embeddings of speech."""
    if torch.rand(()) >= share:
        return tokenizer.words(text)
    silence = tokenizer.encode(SILENCE)
    words = text.split()
    behind = torch.bucketize(torch.rand(len(words)), BETWEEN)
    if len(words) > 1 and torch.rand(()) < HESITANT_SHARE:
        behind[torch.randint(len(words) - 1, ())] += torch.randint(PAUSE[0], PAUSE[1] + 1, ())
    ids = silence * int(torch.randint(0, 4, ()))
    for word, count in zip(words, behind.tolist(), strict=True):
        ids += tokenizer.words(word) + silence * count
    return ids + silence * int(torch.randint(0, 4, ()))


def choose(options: tuple[str, ...]) -> str:
    """One of them, by torch's generator."""
    return options[int(torch.randint(0, len(options), ()))]
