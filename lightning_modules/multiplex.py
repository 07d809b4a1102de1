"""Stages state and streaming of the baseline without a fork: a whole dialogue is one row, in which hearing and speaking
take turns as in `duplexmamba.duplex.multiplex`. The loss is on what the model writes."""

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from datamodules.dialogue.data import DialogueBatch
from datamodules.dialogue.dialogues import Dialogue
from duplexmamba.config import DuplexConfig
from duplexmamba.duplex.multiplex import IDLE, MultiplexSession
from duplexmamba.duplex.policy import tokens_due
from duplexmamba.models.timing import FrameTiming
from duplexmamba.streaming.padded import Padded
from duplexmamba.text.losses import IGNORED, token_loss
from duplexmamba.text.metrics import f1
from duplexmamba.text.tokenizer import ANSWER, TURN_STATES, Tokenizer
from lightning_modules.dialogue import DialogueStage, window_begins
from lightning_modules.stage import pad_ids

HEARD = -1
"""In the place of an id: a speech embedding."""


@dataclasses.dataclass(frozen=True)
class Written:
    """What stands behind a slice of speech."""

    ids: list[int]
    """The end-of-speech marker, and what the model writes."""
    labels: list[int]
    """What comes behind each of `ids`, or IGNORED."""
    due: bool
    """A token of an answer can come behind the end-of-speech marker."""

    @property
    def free(self) -> list[bool]:
        """Of each label, whether it is chosen from the whole vocabulary, and not only from the two markers."""
        return [self.due] + [True] * (sum(label != IGNORED for label in self.labels) - 1)


def script(dialogue: Dialogue, tokenizer: Tokenizer, duplex: DuplexConfig) -> list[Written]:
    """What a model writes that is right about every slice. An answer goes on until the next one begins."""
    asked_for = {
        a.begin: tokenizer.response(dialogue.turns[a.turn].answer) for a in dialogue.answers
    }
    asked, head = tokenizer.end_of_speech(), tokenizer.after_speech("response")
    before = [IGNORED] * (len(asked) - 1)
    slices: list[Written] = []
    answer, begun, said = [tokenizer.end], 0, 1
    for i in range(len(dialogue.labels)):
        due = _out(answer, i - begun + 1, duplex) > said
        if i in asked_for:
            answer, begun, said = asked_for[i], i, 0
        out = _out(answer, i - begun + 1, duplex)
        following = [*answer, IGNORED][said : out + 1]
        if i in asked_for:
            silent = [IGNORED] * (len(head) - len(asked) - 1)
            labels = [*before, tokenizer.turn_states["response"], *silent, *following]
            slices.append(Written([*head, *answer[:out]], labels, due))
        elif due:
            slices.append(Written([*asked, *answer[said:out]], [*before, *following], due))
        else:
            idle = tokenizer.turn_states[IDLE]
            slices.append(Written([*asked, idle], [*before, idle, IGNORED], due))
        said = out
    return slices


def _out(answer: list[int], slices: int, duplex: DuplexConfig) -> int:
    """Tokens of an answer that are out after so many slices: that of the end comes with the one before it."""
    due, words = tokens_due(slices, duplex), len(answer) - 1
    return due if due < words else len(answer)


def _mixed(heard: list[int], counts: list[int], written: list[list[int]]) -> Iterator[int]:
    """In front of what is written behind each slice, `heard` for each of its embeddings."""
    for count, behind in zip(counts, written, strict=False):
        yield from heard * count
        yield from behind


class MultiplexStage(DialogueStage):
    """Dialogues as `script` has them, and single utterances as in stage instruct; scored in live sessions."""

    session = MultiplexSession

    def dialogue_loss(self, batch: DialogueBatch) -> Tensor:
        """Decisions and words weigh the same, or the many slices with nothing to say would drown the words."""
        speech, _ = self.model.connector(self.frames(batch))
        rows = [
            script(dialogue, self.tokenizer, self.config.duplex) for dialogue in batch.dialogues
        ]
        hidden, labels, free = self.read_whole(rows, speech)
        states = self.tokenizer.turn_states
        markers = torch.tensor([states["response"], states[IDLE]], device=self.device)
        smoothing = self.config.optim.label_smoothing
        decided = hidden[~free] @ self.model.lm.embed(markers).T
        loss = token_loss(decided, (labels[~free] == states[IDLE]).long(), smoothing)
        return (
            loss + token_loss(self.model.lm.logits(hidden[free]), labels[free], smoothing)
            if free.any()
            else loss
        )

    def read_whole(
        self, rows: list[list[Written]], speech: Padded
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run whole dialogues.

        Args:
            rows: of each dialogue its slices.
            speech: (B, S, E) embeddings of the dialogues.

        Returns:
            Hidden states (N, D) where something is written, what, (N,) int64, and whether it is chosen from the whole
            vocabulary, (N,) bool.
        """
        per_slice = round(self.config.duplex.slice_ms / FrameTiming.of(self.config.model).token_ms)
        heard = window_begins(speech)[:, ::per_slice].diff().tolist()
        prompt = self.tokenizer.before_speech(ANSWER[0])
        ids = [
            [*prompt, *_mixed([HEARD], heard[r], [w.ids for w in row])]
            for r, row in enumerate(rows)
        ]
        blank = [IGNORED] * len(prompt)
        wanted = [
            [*blank, *_mixed([IGNORED], heard[r], [w.labels for w in row])]
            for r, row in enumerate(rows)
        ]
        read, labels = pad_ids(ids, self.device), pad_ids(wanted, self.device, IGNORED).values
        hidden, _ = self.model.lm(read.with_values(self._embedded(read.values, speech)))
        counted = labels != IGNORED
        free = torch.tensor([f for row in rows for w in row for f in w.free], device=self.device)
        return hidden.values[counted], labels[counted], free

    def _embedded(self, ids: Tensor, speech: Padded) -> Tensor:
        """(B, L) ids -> (B, L, E) embeddings, those of speech in their places."""
        heard = ids == HEARD
        assert torch.equal(heard.sum(1), speech.row_lengths()), "a slice is whole embeddings"
        said = self.model.lm.embed(ids.clamp(min=0))
        return said.masked_scatter(heard[..., None], speech.values[speech.mask()].to(said.dtype))

    def state_scores(self, slices: list[tuple[str, str]]) -> dict[str, float]:
        """Only `response`: incomplete and ignore are not told apart."""
        marker = TURN_STATES["response"]
        return (
            {"response_f1": f1(slices, marker)}
            if any(wanted == marker for wanted, _ in slices)
            else {}
        )
