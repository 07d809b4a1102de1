"""Turn state of each slice of a conversation; None where nothing is known."""

from datamodules.conversations.conversation import Conversation
from datamodules.conversations.turn_taking import Ending, TurnTaking, turn_taking
from datamodules.dialogue.turns import Slices
from duplexmamba.text.tokenizer import TurnState

Label = TurnState | None
"""None: nothing is known, so the slice has no loss and no score."""
SETTLED: dict[Ending, Label] = {
    "shift": "response",
    "ignored": "ignore",
    "open": "incomplete",
    "unknown": None,
}
"""Ending of a turn -> label of the slice in which it counts as over."""


def slice_labels(conversation: Conversation, slices: Slices) -> tuple[Label, ...]:
    """Label every slice of a conversation.

    The last slice may be padded with silence, and where speech lasts to the end of the audio, the
    slice in which it counts as over follows.

    Args:
        conversation: one in which `problem_of` finds no problem.
        slices: division of time.
    """
    taking = turn_taking(conversation)
    return labels_of(taking, slices, num_labelled_slices(conversation, taking, slices))


def num_labelled_slices(conversation: Conversation, taking: TurnTaking, slices: Slices) -> int:
    """Number of slices up to the end of the audio and of the silence after its last turn."""
    last_samples = [_sample(conversation.duration_s, slices)]
    for turn in taking.turns:
        last_samples.append(_sample(turn.end_s, slices) + slices.endpoint_silence + slices.lag)
    return _num_slices(max(last_samples), slices)


def labels_of(taking: TurnTaking, slices: Slices, count: int) -> tuple[Label, ...]:
    """Label the first `count` slices."""
    labels: list[Label] = ["ignore"] * count
    first_free = 0
    for turn in taking.turns:
        # A turn that begins in the slice in which another settles leaves that slice as it is.
        onset = max(first_free, slices.onset_slice(_sample(turn.start_s, slices)))
        endpoint = slices.endpoint_slice(_sample(turn.end_s, slices))
        _write(labels, range(onset, endpoint), "incomplete")
        _write(labels, range(endpoint, endpoint + 1), SETTLED[turn.ending])
        if turn.unknown_until_s is not None:
            until = _num_slices(_sample(turn.unknown_until_s, slices), slices)
            _write(labels, range(endpoint + 1, until), None)
        first_free = endpoint + 1
    # Last, since what is excluded has no label whatever the turns say.
    for start_s, end_s in taking.excluded:
        first = _sample(start_s, slices) // slices.length
        stop = _num_slices(_sample(end_s, slices), slices)
        _write(labels, range(first, stop), None)
    return tuple(labels)


def _sample(time_s: float, slices: Slices) -> int:
    return round(time_s * slices.rate_hz)


def _num_slices(num_samples: int, slices: Slices) -> int:
    """Number of slices, the last of which may be incomplete."""
    return -(-num_samples // slices.length)


def _write(labels: list[Label], numbers: range, label: Label) -> None:
    """Label some slices; numbers past the last slice are left out."""
    for number in numbers:
        if number < len(labels):
            labels[number] = label
