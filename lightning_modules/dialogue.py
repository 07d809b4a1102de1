"""Stages state and streaming: turn states of slices, and answers, from the states that a live session would have."""

import itertools
import random
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.batching import pack
from datamodules.dialogue.data import DialogueBatch
from datamodules.dialogue.dialogues import Dialogue
from duplexmamba.duplex.events import Event, emitted_responses
from duplexmamba.duplex.fork import ForkSession
from duplexmamba.duplex.session import Session, run_sessions
from duplexmamba.models.connector import Compressed
from duplexmamba.models.lm import LMState
from duplexmamba.models.timing import FrameTiming
from duplexmamba.streaming import state as states
from duplexmamba.streaming.padded import Padded, Positions, take
from duplexmamba.text.losses import IGNORED, token_loss
from duplexmamba.text.metrics import exact_match, macro_f1
from duplexmamba.text.tokenizer import ANSWER, TURN_STATES
from lightning_modules.branch_targets import BranchTargets, Row
from lightning_modules.speech import InstructStage
from lightning_modules.stage import pad_ids
from lightning_modules.trainer.fsdp import max_over_ranks

LEAF_STEPS = 256
"""Steps, padding included, of rows that are read at once where nothing is forked: more would be padded more."""

Fork = tuple[int, int | None]
"""A row's place among those of a batch, and how many of its slices have been heard there; None: all is read."""


class ScheduledSegment(NamedTuple):
    """A row among those of a batch."""

    row: Row
    dialogue: int
    fork: Fork | None
    """Where it begins."""
    shared: bool = False
    """It begins behind its own slices: another row hears them for it."""

    @property
    def parent(self) -> int | None:
        """The row that it begins in."""
        return None if self.fork is None else self.fork[0]

    @property
    def heard(self) -> range:
        """The slices that it hears itself, behind the prompt."""
        return range(0) if self.shared else self.row.slices


class DialogueStage(InstructStage):
    """Dialogues as `BranchTargets` has them, and single utterances as in stage instruct; scored in live sessions."""

    session: type[Session] = ForkSession

    def model_step(self, batch: DialogueBatch) -> Tensor:  # type: ignore[override]  # dialogues beside utterances
        loss = self.dialogue_loss(batch)
        none_beside = max_over_ranks(not len(batch.utterances), self)
        return loss if none_beside else loss + super().model_step(batch.utterances)

    def dialogue_loss(self, batch: DialogueBatch) -> Tensor:
        """That of the dialogues alone."""
        rng = random.Random(int(torch.randint(2**62, ())))
        rehearsal = BranchTargets(self.tokenizer, self.config.duplex, self.config.stage.probes)
        rows = share(place([rehearsal.rows(dialogue, rng) for dialogue in batch.dialogues]))
        speech, _ = self.model.connector(self.frames(batch))
        hidden, labels = self.read(rows, speech)
        return token_loss(self.model.lm.logits(hidden), labels, self.config.optim.label_smoothing)

    def read(self, rows: list[ScheduledSegment], speech: Padded) -> tuple[Tensor, Tensor]:
        """Run all rows, each from the state where it was forked.

        Args:
            speech: (B, S, E) embeddings of whole dialogues.

        Returns:
            Hidden states (N, D) where something is to be said, and what, (N,) int64.
        """
        forks = [*dict.fromkeys(placed.fork for placed in rows if placed.fork)]
        memories = _Memories(self.device)
        found = []
        groups = fork_schedule(rows, len(self.tokenizer.before_speech(ANSWER[0])))
        idle = max_over_ranks(len(groups), self) - len(groups)
        for group in groups:
            memory = memories.of([rows[i].fork for i in group])
            here = [fork for fork in forks if fork[0] in group]
            among = [(group.index(parent), slices) for parent, slices in here]
            hidden, labels, after = self._read([rows[i] for i in group], speech, memory, among)
            found.append((hidden, labels))
            memories.keep(here, after)
        found += [self._read([self._nothing()], speech, None, [])[:2] for _ in range(idle)]
        hidden, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        return hidden, labels

    def _nothing(self) -> ScheduledSegment:
        """A row without labels, which a rank reads while another has a further generation."""
        return ScheduledSegment(Row(None, range(1), [self.tokenizer.end], [IGNORED]), 0, None)

    def _read(
        self,
        rows: list[ScheduledSegment],
        speech: Padded,
        memory: LMState | None,
        forks: list[Fork],
    ) -> tuple[Tensor, Tensor, LMState]:
        """Hidden states and labels as in `read`, and the states at these forks among `rows`."""
        prompt = self.tokenizer.before_speech(ANSWER[0])
        per_slice = round(self.config.duplex.slice_ms / FrameTiming.of(self.config.model).token_ms)
        device, begins = self.device, window_begins(speech)
        before = pad_ids([prompt if placed.heard else [] for placed in rows], device)
        dialogues = torch.tensor([placed.dialogue for placed in rows], device=device)
        windows = torch.tensor([[p.heard.start, p.heard.stop] for p in rows], device=device)
        starts, ends = begins[dialogues[:, None], windows * per_slice].unbind(1)
        heard = Padded(
            take(speech.values[dialogues], starts, int((ends - starts).max())), ends - starts
        )
        ids = pad_ids([placed.row.ids for placed in rows], device)
        labels = pad_ids([placed.row.labels for placed in rows], device, IGNORED).values
        return_states_at = None
        if forks:
            parents = torch.tensor([parent for parent, _ in forks], device=device)
            stops = [rows[parent].heard.start + (slices or 0) for parent, slices in forks]
            until = (
                begins[dialogues[parents], torch.tensor(stops, device=device) * per_slice]
                - starts[parents]
            )
            full_tensor = before.row_lengths() + heard.row_lengths() + ids.row_lengths()
            at_end = torch.tensor([slices is None for _, slices in forks], device=device)
            return_states_at = Positions(
                parents, torch.where(at_end, full_tensor[parents], len(prompt) + until)
            )
        hidden, after = self.model(before, heard, ids, memory, return_states_at)
        counted = labels != IGNORED
        return hidden.values[counted], labels[counted], after

    def hypotheses(self, batch: DialogueBatch) -> list[tuple[str, str]]:  # type: ignore[override]
        """The state of every slice, as markers, and every answer, in live sessions."""
        signals = [
            row[:length]
            for row, length in zip(batch.samples.values, batch.samples.row_lengths(), strict=True)
        ]
        sessions = [self.session(self.model, self.tokenizer, self.config.duplex) for _ in signals]
        heard = zip(run_sessions(sessions, signals), batch.dialogues, strict=True)
        return [
            pair
            for events, dialogue in heard
            for pair in live_pairs(events, dialogue, sessions[0].slice_s)
        ]

    def scores(self, pairs: list[tuple[str, str]]) -> dict[str, float]:
        markers = set(TURN_STATES.values())
        slices = [pair for pair in pairs if pair[0] in markers]
        answers = [pair for pair in pairs if pair[0] not in markers]
        found = self.state_scores(slices)
        return {**found, "exact_match": exact_match(answers)} if answers else found

    def state_scores(self, slices: list[tuple[str, str]]) -> dict[str, float]:
        """Of the markers (wanted, named) of all slices."""
        return {"state_accuracy": exact_match(slices), "state_macro_f1": macro_f1(slices)}


class _Memories:
    """The states at forks, generation by generation."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._kept: list[LMState] = []
        self._at: dict[Fork, tuple[int, int]] = {}

    def keep(self, forks: Sequence[Fork], state: LMState) -> None:
        """Its rows are those at these forks."""
        self._at |= {fork: (len(self._kept), row) for row, fork in enumerate(forks)}
        self._kept.append(state)

    def of(self, forks: Sequence[Fork | None]) -> LMState | None:
        """A row for each; None where nothing came before any."""
        if not any(forks):
            return None
        parts: list[LMState] = []
        order: list[int] = []
        for number, state in enumerate(self._kept):
            mine = {
                i: self._at[fork][1]
                for i, fork in enumerate(forks)
                if fork and self._at[fork][0] == number
            }
            if mine:
                parts.append(self._rows(state, [*mine.values()]))
                order += mine
        if fresh := [i for i, fork in enumerate(forks) if not fork]:
            parts.append(
                states.map_state(torch.zeros_like, self._rows(self._kept[0], [0] * len(fresh)))
            )
            order += fresh
        return self._rows(states.join(parts), [order.index(i) for i in range(len(forks))])

    def _rows(self, state: LMState, rows: list[int]) -> LMState:
        return states.select(state, torch.tensor(rows, device=self._device))


def live_pairs(
    events: Sequence[Event], dialogue: Dialogue, slice_s: float
) -> list[tuple[str, str]]:
    """Wanted and found in a session: the marker of each slice's state, then each answer that nothing takes the place
    of, empty where none was given."""
    named = [TURN_STATES[event.state] for event in events]
    pairs = list(zip([TURN_STATES[label] for label in dialogue.labels], named, strict=True))
    given = emitted_responses(events)
    for answer, window in zip(dialogue.answers, dialogue.response_windows(slice_s), strict=True):
        if answer.end is None:
            texts = [reply.text for reply in given if reply.start_slice in window]
            pairs.append((dialogue.turns[answer.turn].answer, texts[-1] if texts else ""))
    return pairs


def window_begins(speech: Padded) -> Tensor:
    """(B, U + 1) int64: where the embeddings of each of the connector's windows begin, and where the last end."""
    if isinstance(speech, Compressed):
        return torch.nn.functional.pad(speech.counts.cumsum(1), (1, 0))
    rows, steps = speech.values.shape[:2]
    return torch.arange(steps + 1, device=speech.values.device).expand(rows, -1)


def place(dialogues: list[list[Row]]) -> list[ScheduledSegment]:
    """The rows of all dialogues in one list."""
    placed: list[ScheduledSegment] = []
    for number, rows in enumerate(dialogues):
        first = len(placed)
        placed += [
            ScheduledSegment(
                row, number, None if row.parent is None else (first + row.parent, None)
            )
            for row in rows
        ]
    return placed


def share(rows: list[ScheduledSegment]) -> list[ScheduledSegment]:
    """The same rows; of those that begin to hear at the same moment, the one that hears longest does so for all."""

    def begin(i: int) -> Hashable:
        return rows[i].dialogue, rows[i].fork, rows[i].heard.start

    hearing = [i for i, placed in enumerate(rows) if placed.heard]
    longest = {begin(i): i for i in sorted(hearing, key=lambda i: len(rows[i].heard))}
    shared = list(rows)
    for i in hearing:
        if (other := longest[begin(i)]) != i:
            shared[i] = rows[i]._replace(fork=(other, len(rows[i].heard)), shared=True)
    return shared


def fork_schedule(rows: list[ScheduledSegment], prompt: int) -> list[list[int]]:
    """Which rows are read at once: parents by their depth, then the others, those of like length together, where a
    prompt of so many steps comes before what is heard."""
    parents = {placed.parent for placed in rows if placed.parent is not None}

    def depth(i: int) -> int:
        parent = rows[i].parent
        return 0 if parent is None else depth(parent) + 1

    inner = [
        list(level)
        for _, level in itertools.groupby(sorted(parents, key=lambda i: (depth(i), i)), depth)
    ]
    leaves = [i for i in range(len(rows)) if i not in parents]
    lengths = [
        prompt * bool(rows[i].heard) + len(rows[i].heard) + len(rows[i].row.ids) for i in leaves
    ]
    return [*inner, *pack(leaves, lengths, LEAF_STEPS)]
