"""Stages state and streaming: turn states of slices, and answers, from the states that a live session would have."""

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.batches import alike
from datamodules.dialogue import Dialogue
from datamodules.dialogue_data import DialogueBatch
from duplexmamba import state as states
from duplexmamba.connector import Compressed
from duplexmamba.conversation import Session, replies
from duplexmamba.lm import LMState
from duplexmamba.losses import IGNORED, token_loss
from duplexmamba.metrics import exact_match, macro_f1
from duplexmamba.padded import Padded, take
from duplexmamba.session import DuplexSession
from duplexmamba.timing import Clock
from duplexmamba.tokens import ANSWER, TURN_STATES
from lightning_modules.rehearsal import Rehearsal, Row
from lightning_modules.sharded import largest
from lightning_modules.speech import InstructStage
from lightning_modules.stage import pad_ids

LEAVES = 32
"""Rows that are read at once of those behind which nothing is forked: more would be padded more."""


class Placed(NamedTuple):
    """A row among those of a batch."""

    row: Row
    dialogue: int
    parent: int | None
    """Its parent's place among them."""


class DialogueStage(InstructStage):
    """Dialogues as `Rehearsal` has them, and single utterances as in stage instruct; scored in live sessions."""

    session: type[Session] = DuplexSession

    def model_step(self, batch: DialogueBatch) -> Tensor:  # type: ignore[override]  # dialogues beside utterances
        loss = self.dialogue_loss(batch)
        none_beside = largest(not len(batch.utterances), self)
        return loss if none_beside else loss + super().model_step(batch.utterances)

    def dialogue_loss(self, batch: DialogueBatch) -> Tensor:
        """That of the dialogues alone."""
        rng = random.Random(int(torch.randint(2**62, ())))
        rehearsal = Rehearsal(self.tokens, self.config.duplex, self.config.stage.probes)
        rows = place([rehearsal.rows(dialogue, rng) for dialogue in batch.dialogues])
        speech, _ = self.model.listen(batch.samples, final=True)
        hidden, labels = self.read(rows, speech)
        return token_loss(self.model.lm.logits(hidden), labels, self.config.optim.label_smoothing)

    def read(self, rows: list[Placed], speech: Padded) -> tuple[Tensor, Tensor]:
        """Run all rows, each from the state behind its parent.

        Args:
            speech: (B, S, E) embeddings of whole dialogues.

        Returns:
            Hidden states (N, D) where something is to be said, and what, (N,) int64.
        """
        parents = {placed.parent for placed in rows if placed.parent is not None}
        behind: dict[int, LMState] = {}
        found = []
        groups = generations(rows, parents)
        idle = largest(len(groups), self) - len(groups)
        for group in groups:
            before = [rows[i].parent for i in group]
            hidden, labels, after = self._read([rows[i] for i in group], speech, self._memories(before, behind))
            found.append((hidden, labels))
            for place_, i in enumerate(group):
                if i in parents:
                    behind[i] = states.select(after, torch.tensor([place_], device=self.device))
        found += [self._read([self._nothing()], speech, None)[:2] for _ in range(idle)]
        hidden, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        return hidden, labels

    def _nothing(self) -> Placed:
        """A row without labels, which a rank reads while another has a further generation."""
        return Placed(Row(None, range(1), [self.tokens.end], [IGNORED]), 0, None)

    def _memories(self, parents: Sequence[int | None], behind: dict[int, LMState]) -> LMState | None:
        """The states, row by row, from which those with these parents start."""
        if all(parent is None for parent in parents):
            return None
        start = states.map_state(torch.zeros_like, next(iter(behind.values())))
        return states.join([start if parent is None else behind[parent] for parent in parents])

    def _read(self, rows: list[Placed], speech: Padded, memory: LMState | None) -> tuple[Tensor, Tensor, LMState]:
        prompt = self.tokens.before_speech(ANSWER[0])
        per_slice = round(self.config.duplex.slice_ms / Clock.of(self.config).token_ms)
        device, begins = self.device, window_begins(speech)
        before = pad_ids([prompt if row.slices else [] for row, _, _ in rows], device)
        dialogues = torch.tensor([dialogue for _, dialogue, _ in rows], device=device)
        windows = torch.tensor([[row.slices.start, row.slices.stop] for row, _, _ in rows], device=device) * per_slice
        starts, ends = begins[dialogues[:, None], windows].unbind(1)
        heard = Padded(take(speech.values[dialogues], starts, int((ends - starts).max())), ends - starts)
        ids = pad_ids([row.ids for row, _, _ in rows], device)
        labels = pad_ids([row.labels for row, _, _ in rows], device, IGNORED).values
        hidden, after = self.model.read(before, heard, ids, memory)
        counted = labels != IGNORED
        return hidden.values[counted], labels[counted], after

    def hypotheses(self, batch: DialogueBatch) -> list[tuple[str, str]]:  # type: ignore[override]
        """The state of every slice, as markers, and every answer, in a live session."""
        found = []
        for i, dialogue in enumerate(batch.dialogues):
            samples = batch.samples.values[i, : int(batch.samples.row_lengths()[i])]
            found += live_pairs(self.session(self.model, self.tokens, self.config), samples, dialogue)
        return found

    def scores(self, pairs: list[tuple[str, str]]) -> dict[str, float]:
        markers = set(TURN_STATES.values())
        slices = [pair for pair in pairs if pair[0] in markers]
        answers = [pair for pair in pairs if pair[0] not in markers]
        found = self.state_scores(slices)
        return {**found, "exact_match": exact_match(answers)} if answers else found

    def state_scores(self, slices: list[tuple[str, str]]) -> dict[str, float]:
        """Of the markers (wanted, named) of all slices."""
        return {"state_accuracy": exact_match(slices), "state_macro_f1": macro_f1(slices)}


def live_pairs(session: Session, samples: Tensor, dialogue: Dialogue) -> list[tuple[str, str]]:
    """Wanted and found in a session that hears (n,) samples: the marker of each slice's state, then each answer that
    nothing takes the place of, empty where none was given."""
    events = session.push(samples)
    named = [TURN_STATES[event.state] for event in events]
    pairs = list(zip([TURN_STATES[label] for label in dialogue.labels], named, strict=True))
    given = replies(events)
    for answer, window in zip(dialogue.answers, dialogue.reply_windows(session.slice_s), strict=True):
        if answer.end is None:
            texts = [reply.text for reply in given if reply.begun in window]
            pairs.append((dialogue.turns[answer.turn].answer, texts[-1] if texts else ""))
    return pairs


def window_begins(speech: Padded) -> Tensor:
    """(B, U + 1) int64: where the embeddings of each of the connector's windows begin, and where the last end."""
    if isinstance(speech, Compressed):
        return torch.nn.functional.pad(speech.counts.cumsum(1), (1, 0))
    rows, steps = speech.values.shape[:2]
    return torch.arange(steps + 1, device=speech.values.device).expand(rows, -1)


def place(dialogues: list[list[Row]]) -> list[Placed]:
    """The rows of all dialogues in one list."""
    placed: list[Placed] = []
    for number, rows in enumerate(dialogues):
        first = len(placed)
        placed += [Placed(row, number, None if row.parent is None else first + row.parent) for row in rows]
    return placed


def generations(rows: list[Placed], parents: set[int]) -> list[list[int]]:
    """Which rows are read at once: parents by their depth, then the others, those of like length together."""
    depth: dict[int, int] = {}
    for i in sorted(parents):
        parent = rows[i].parent
        depth[i] = 0 if parent is None else depth[parent] + 1
    inner = [[i for i in depth if depth[i] == level] for level in range(max(depth.values(), default=-1) + 1)]
    leaves = [i for i in range(len(rows)) if i not in parents]
    return [*inner, *alike(leaves, [len(rows[i].row.slices) for i in leaves], LEAVES)]
