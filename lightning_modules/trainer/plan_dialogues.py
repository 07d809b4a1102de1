"""What a batch of dialogues makes a model compute, counted without audio and without a model.

The dialogues are those of a training without sound (`datamodules.dialogue.text_dialogues`). Their
segments run in the order of `lightning_modules.fork_schedule`, so that padding, the second scan for
the states at forks, and the states themselves are counted as a training has them.
"""

import dataclasses
import random
from collections.abc import Collection

from configs.schema import Config
from datamodules.dialogue.dialogues import Dialogue
from datamodules.dialogue.text_dialogues import open_text_dialogues
from duplexmamba.models.timing import FrameTiming
from duplexmamba.text.losses import IGNORED
from duplexmamba.text.tokenizer import ANSWER_INSTRUCTIONS, MARKER, TURN_STATE_MARKERS, Tokenizer
from lightning_modules.branch_targets import BranchTargets
from lightning_modules.fork_schedule import (
    Fork,
    ScheduledSegment,
    flatten,
    fork_schedule,
    share_prefixes,
)

IDS_PER_WORD = 4 / 3
"""Token ids of an English word."""
IDS_PER_MARKER = 7
"""Token ids of a marker in a tokenizer that does not know it; one that is trained here has one."""
NUM_BATCHES = 4
"""Batches of dialogues, from which the longest dialogues make the planned one."""


@dataclasses.dataclass(frozen=True)
class DialogueWork:
    """What is computed for a batch of dialogues, padding included."""

    audio_s: float
    """Seconds of audio that are encoded."""
    lm_steps: int
    """Steps of the language model."""
    num_batches: int
    """Batches of segments, each of which runs the language model once."""
    largest_batch_steps: int
    """Steps of the largest batch of segments that run together."""
    fork_steps: int
    """Steps that are scanned once more for the states at forks."""
    num_states: int
    """Rows of states that are kept: those at forks, and those from which segments start."""
    conversation_steps: int
    """Speech embeddings of the longest dialogue, which a growing state remembers."""
    num_labels: int
    """Positions with logits."""


def dialogue_work(config: Config) -> DialogueWork:
    """Count the work of a training batch of the longest dialogues."""
    dialogues = open_text_dialogues(config)
    batch_size = config.data.batch_dialogues
    # a training batches dialogues of similar length; the number of events stands for it
    positions = sorted(
        range(NUM_BATCHES * batch_size), key=lambda position: -len(dialogues.events(position))
    )
    return work_of([dialogues[position] for position in positions[:batch_size]], config)


def work_of(batch: list[Dialogue], config: Config, device_type: str = "cuda") -> DialogueWork:
    """Count the work of a batch of dialogues on a device."""
    tokenizer = EstimatedTokenizer(1 if config.tokenizer.source == "bpe" else IDS_PER_MARKER)
    targets = BranchTargets(tokenizer, config.duplex, config.stage.probes)
    rng = random.Random(0)
    segments = share_prefixes(flatten([targets.segments(dialogue, rng) for dialogue in batch]))
    token_ms = FrameTiming.of(config.model).token_ms
    per_slice = round(config.duplex.slice_ms / token_ms)
    num_prompt = len(tokenizer.prompt_before_speech(ANSWER_INSTRUCTIONS[0]))
    lm_steps = largest = fork_steps = num_states = num_labels = 0
    all_forks = {segment.fork for segment in segments if segment.fork}
    schedule = fork_schedule(segments, num_prompt, device_type)
    for indices in schedule:
        rows = [segments[index] for index in indices]
        lengths = [_num_steps(row, num_prompt, per_slice) for row in rows]
        num_steps = len(rows) * max(lengths)
        lm_steps += num_steps
        largest = max(largest, num_steps)
        forks = _fork_steps(all_forks, indices, lengths, num_prompt, per_slice)
        fork_steps += len(forks) * max(forks, default=0)
        num_starts = len(rows) if any(row.fork for row in rows) else 0
        num_states += len(forks) + num_starts
        num_labels += sum(label != IGNORED for row in rows for label in row.segment.labels)
    longest_s = max(len(dialogue.samples) for dialogue in batch) / config.features.sample_rate_hz
    return DialogueWork(
        audio_s=len(batch) * longest_s,
        lm_steps=lm_steps,
        num_batches=len(schedule),
        largest_batch_steps=largest,
        fork_steps=fork_steps,
        num_states=num_states,
        conversation_steps=round(1000 * longest_s / token_ms),
        num_labels=num_labels,
    )


def _fork_steps(
    all_forks: Collection[Fork],
    indices: list[int],
    lengths: list[int],
    num_prompt: int,
    per_slice: int,
) -> list[int]:
    """Steps from the start of a row to each fork in a batch of segments.

    Args:
        all_forks: those of all segments.
        indices: the segments of the batch.
        lengths: steps of each of them.
        num_prompt: steps of a prompt.
        per_slice: speech embeddings of a slice.
    """
    steps = []
    for fork in all_forks:
        if fork.parent not in indices:
            continue
        if fork.num_slices is None:
            # at the end of the row
            steps.append(lengths[indices.index(fork.parent)])
        else:
            steps.append(num_prompt + per_slice * fork.num_slices)
    return steps


def _num_steps(segment: ScheduledSegment, num_prompt: int, per_slice: int) -> int:
    """Steps of a segment: prompt, speech embeddings and ids."""
    num_slices = len(segment.own_slices)
    num_ids = len(segment.segment.ids)
    return num_prompt + per_slice * num_slices + num_ids if num_slices else num_ids


class EstimatedTokenizer(Tokenizer):
    """As many ids as a tokenizer makes of a text, all of them zero; needs no vocabulary.

    Args:
        ids_per_marker: ids of a marker.
    """

    def __init__(self, ids_per_marker: int):
        self.ids_per_marker = ids_per_marker
        self.eos_id = 0
        self.turn_state_ids = dict.fromkeys(TURN_STATE_MARKERS, 0)

    def encode(self, text: str) -> list[int]:
        """Return a zero for each id."""
        num_markers = len(MARKER.findall(text))
        num_words = len(MARKER.sub(" ", text).split())
        return [0] * (self.ids_per_marker * num_markers + round(IDS_PER_WORD * num_words))
