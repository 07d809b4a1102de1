"""The order in which the segments of a batch of dialogues are run, and the states they start from.

Segments form trees: a child starts from the language model's state somewhere inside its parent (see
`lightning_modules.branch_targets`). Many segments run as rows of one padded batch, but a child can
only run after its parent. So the schedule runs generation by generation: first all parents without
a parent, then all parents among their children, and so on. Segments that are no parent (most are
probes) come last, in batches of similar length, since they need nothing but their parent's state.

Segments that are forked at the same state and read the same slices repeat the same computation.
`share_prefixes` removes it: of all segments that read from slice s on after the same fork, the one
with the most slices reads them for all, and the others start from its state after their last slice.

Example: the segments of the example in `branch_targets`, without the late probes, as
`index: (fork) slices`, where a fork is (parent, slices read there) and `end` is after the last id::

    targets                      after share_prefixes
    0: (none)    0-0             0: (2, 1)    -      shared
    1: (none)    0-1             1: (2, 2)    -      shared
    2: (none)    0-2 a b         2: (none)    0-2 a b
    3: (2, end)  - c d e         3: (2, end)  - c d e
    4: (2, end)  5-6             4: (2, end)  5-6

    schedule: [[2], [0, 1, 3, 4]]

Segment 2 runs alone, and its state is returned at three positions: after one slice, after two
slices and at its end. All others start from these, in one batch.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.batching import pack
from duplexmamba.models.language_models import LMState
from duplexmamba.streaming import state as states
from lightning_modules.branch_targets import Segment

LEAF_STEPS = 256
"""Largest number of steps, padding included, in a batch of segments that are no parent.

With larger batches, padding would cost more than batching saves.
"""
LEAF_STEPS_ON_GPU = 1024
"""The same on a GPU, where a pass costs more launches than padding costs time.

A batch of 16 dialogues of preset small then takes 26 passes in place of 46, for 2 % more steps.
"""


class Fork(NamedTuple):
    """A position in a segment at which others are forked."""

    parent: int
    """Index of the segment among those of the batch."""
    num_slices: int | None
    """Slices that have been read there; None: the position after the last id."""


class ScheduledSegment(NamedTuple):
    """A segment with its position among those of all dialogues of a batch."""

    segment: Segment
    dialogue: int
    """Index of its dialogue in the batch."""
    fork: Fork | None
    """Where it starts; None: it starts the conversation."""
    is_shared: bool = False
    """Whether another segment reads the slices of this one, which then starts after them."""

    @property
    def parent(self) -> int | None:
        """Index of the segment that it starts from."""
        return None if self.fork is None else self.fork.parent

    @property
    def own_slices(self) -> range:
        """The slices that it reads itself, after the prompt."""
        return range(0) if self.is_shared else self.segment.slices


def flatten(dialogues: list[list[Segment]]) -> list[ScheduledSegment]:
    """The segments of all dialogues in one list, with parents as indices into it."""
    flat: list[ScheduledSegment] = []
    for dialogue, segments in enumerate(dialogues):
        offset = len(flat)
        for segment in segments:
            fork = None if segment.parent is None else Fork(offset + segment.parent, None)
            flat.append(ScheduledSegment(segment, dialogue, fork))
    return flat


class _Start(NamedTuple):
    """Where a segment starts to read slices; equal for segments with a common prefix."""

    dialogue: int
    fork: Fork | None
    first_slice: int


def share_prefixes(segments: list[ScheduledSegment]) -> list[ScheduledSegment]:
    """Rearrange segments so that slices that several read after the same state are read once."""
    starts = {
        index: _Start(segment.dialogue, segment.fork, segment.own_slices.start)
        for index, segment in enumerate(segments)
        if segment.own_slices
    }
    # ascending, so that the longest, and of equally long ones the last, stays in the dict
    by_length = sorted(starts, key=lambda index: len(segments[index].own_slices))
    longest = {starts[index]: index for index in by_length}
    shared = list(segments)
    for index, start in starts.items():
        reader = longest[start]
        if reader != index:
            fork = Fork(reader, len(segments[index].own_slices))
            shared[index] = segments[index]._replace(fork=fork, is_shared=True)
    return shared


def leaf_steps(device_type: str) -> int:
    """Return the largest number of steps in a batch of segments that are no parent, by device."""
    return LEAF_STEPS_ON_GPU if device_type == "cuda" else LEAF_STEPS


def fork_schedule(
    segments: list[ScheduledSegment], num_prompt_ids: int, device_type: str
) -> list[list[int]]:
    """Batches of indices of segments, in the order in which they run.

    Args:
        segments: those of the whole batch of dialogues.
        num_prompt_ids: ids before the slices of a segment that reads any.
        device_type: where they run.
    """
    parents = {segment.parent for segment in segments if segment.parent is not None}

    def depth(index: int) -> int:
        parent = segments[index].parent
        return 0 if parent is None else depth(parent) + 1

    by_depth = sorted(parents, key=lambda index: (depth(index), index))
    generations = [list(generation) for _, generation in itertools.groupby(by_depth, depth)]
    # leaves need no state of each other, so they are batched by length
    leaves = [index for index in range(len(segments)) if index not in parents]
    lengths = [_num_steps(segments[index], num_prompt_ids) for index in leaves]
    return generations + pack(leaves, lengths, leaf_steps(device_type))


def _num_steps(segment: ScheduledSegment, num_prompt_ids: int) -> int:
    """Approximate length of a segment, with one embedding for each slice."""
    num_slices = len(segment.own_slices)
    num_steps = num_slices + len(segment.segment.ids)
    return num_steps + num_prompt_ids if num_slices else num_steps


@dataclasses.dataclass(frozen=True)
class _StoredRow:
    """Where the state at a fork is stored."""

    batch: int
    row: int


class ForkStates:
    """The language model's states at the forks of all batches that have run.

    States stay in the batches in which they were computed, and are gathered when segments start
    from them, so that gradients flow through a fork to all that was read before it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._batches: list[LMState] = []
        self._stored: dict[Fork, _StoredRow] = {}

    def store(self, forks: Sequence[Fork], state: LMState) -> None:
        """Store a batch of states, one row for each fork."""
        for row, fork in enumerate(forks):
            self._stored[fork] = _StoredRow(len(self._batches), row)
        self._batches.append(state)

    def gather(self, forks: Sequence[Fork | None]) -> LMState | None:
        """A batch with one row for each fork, zero for None; None if all forks are None."""
        if not any(forks):
            return None
        parts: list[LMState] = []
        # position in `forks` of each row of the joined parts
        order: list[int] = []
        for batch, state in enumerate(self._batches):
            rows = self._rows_in(batch, forks)
            if rows:
                parts.append(self._select(state, [*rows.values()]))
                order += rows
        fresh = [position for position, fork in enumerate(forks) if not fork]
        if fresh:
            # the shapes of any state; a conversation starts from zero
            like = self._select(self._batches[0], [0] * len(fresh))
            parts.append(states.map_state(torch.zeros_like, like))
            order += fresh
        # back from the order of the batches to the order of `forks`
        inverse = [order.index(position) for position in range(len(forks))]
        return self._select(states.join(parts), inverse)

    def _rows_in(self, batch: int, forks: Sequence[Fork | None]) -> dict[int, int]:
        """Position in `forks` -> row, of the forks that are stored in a batch."""
        rows = {}
        for position, fork in enumerate(forks):
            if fork is not None and self._stored[fork].batch == batch:
                rows[position] = self._stored[fork].row
        return rows

    def _select(self, state: LMState, rows: list[int]) -> LMState:
        indices: Tensor = torch.tensor(rows, device=self._device)
        return states.select(state, indices)
