"""Turn states of recorded conversations, against cases worked by hand.

A string has a letter for each slice of 200 ms: r(esponse), i(ncomplete), . (ignore), ? (unknown).
"""

import pytest

from datamodules.conversations.conversation import Conversation
from datamodules.conversations.labels import slice_labels
from datamodules.conversations.turn_taking import turn_taking
from datamodules.conversations.units import units_of
from tests.conversations import SLICES, conversation, said

LETTERS = {"response": "r", "incomplete": "i", "ignore": ".", None: "?"}


def letters(of: Conversation) -> str:
    return "".join(LETTERS[label] for label in slice_labels(of, SLICES))


def test_units_are_joined_under_200_ms_of_silence() -> None:
    turns = [said("user", 1.0, 2.0), said("user", 2.19, 3.0), said("user", 3.2, 4.0, "and more")]
    units = units_of(conversation(*turns), "user")
    assert [(unit.start_s, unit.end_s) for unit in units] == [(1.0, 3.0), (3.2, 4.0)]


def test_a_turn_is_divided_between_its_words_and_at_its_pauses() -> None:
    words = (("so", 1.0, 1.2), ("what", 1.3, 1.5), ("now", 2.0, 2.4))
    by_words = conversation(said("user", 1.0, 2.4, "so what now", words=words))
    units = units_of(by_words, "user")
    assert [(u.start_s, u.end_s, u.text) for u in units] == [
        (1.0, 1.5, "so what"),
        (2.0, 2.4, "now"),
    ]
    by_pauses = conversation(said("user", 1.0, 2.4, pauses=((1.5, 2.0),)))
    assert [(u.start_s, u.end_s) for u in units_of(by_pauses, "user")] == [(1.0, 1.5), (2.0, 2.4)]


SHIFT = [said("user", 1.0, 2.0), said("agent", 2.4, 4.0)]
CASES = {
    # Speech of 1.0 to 2.0 s: from slice 5, which holds 60 ms, to slice 10, which holds 2.12 s.
    "shift": (SHIFT, "." * 5 + "iiiii" + "r" + "." * 29),
    # The reply begins before the end: the label stays at the end.
    "shift from overlap": (
        [said("user", 1.0, 2.0), said("agent", 1.8, 4.0)],
        "." * 5 + "iiiii" + "r" + "." * 29,
    ),
    "hold": (
        [said("user", 1.0, 2.0), said("user", 3.0, 4.0, "and then"), said("agent", 4.2, 6.0)],
        "." * 5 + "i" * 15 + "r" + "." * 19,
    ),
    "back-channels of the agent do not take the floor": (
        [
            said("user", 1.0, 2.0),
            said("agent", 1.5, 1.9, "mm hmm"),
            said("user", 3.0, 4.0, "and then"),
            said("agent", 4.2, 6.0),
        ],
        "." * 5 + "i" * 15 + "r" + "." * 19,
    ),
    "nobody follows for over 3 s": (
        [said("user", 1.0, 2.0), said("agent", 5.2, 6.0)],
        "." * 5 + "iiiii" + "?" * 16 + "." * 14,
    ),
    "nobody follows at all": ([said("user", 1.0, 2.0)], "." * 5 + "iiiii" + "?" * 30),
    "back-channel over the agent's speech": (
        [said("agent", 0.0, 4.0), said("user", 1.0, 1.4, "uh huh")],
        "." * 40,
    ),
    # The same words in a silence may answer a question.
    "yeah in a silence": (
        [
            said("agent", 0.0, 1.0),
            said("user", 1.4, 1.8, "yeah"),
            said("agent", 2.2, 4.0, "why is that"),
        ],
        "." * 7 + "????" + "." * 29,
    ),
    "yeah after which the agent stops": (
        [said("agent", 0.0, 1.0), said("user", 1.4, 1.8, "yeah"), said("agent", 3.4, 4.0)],
        "." * 7 + "ii" + "r" + "." * 30,
    ),
    "a sound without words over the agent's speech": (
        [said("agent", 0.0, 4.0), said("user", 1.0, 1.4, "")],
        "." * 5 + "???" + "?" * 32,
    ),
    "interruption": (
        [said("agent", 0.0, 1.6), said("user", 1.0, 3.0), said("agent", 3.4, 5.0)],
        "." * 5 + "i" * 10 + "r" + "." * 24,
    ),
    # 2 s of competition; then the user has the floor.
    "competition that the user wins": (
        [said("agent", 0.0, 3.0), said("user", 1.0, 5.0), said("agent", 5.2, 6.0)],
        "." * 5 + "?" * 10 + "i" * 10 + "r" + "." * 14,
    ),
    "competition that the user loses": (
        [said("agent", 0.0, 5.0), said("user", 1.0, 3.0), said("user", 7.0, 7.4, "next one")],
        "." * 5 + "?" * 30 + "ii" + "???",
    ),
    "a reply from overlap of an agent who only breathes": (
        [said("agent", 0.0, 1.4), said("user", 1.0, 3.6), said("agent", 1.8, 3.4)],
        "." * 5 + "?" * 13 + "?" * 22,
    ),
    "labels win": (
        [said("agent", 0.0, 4.0), said("user", 1.0, 3.0, kind="backchannel")],
        "." * 40,
    ),
    "noise": ([said("user", 1.0, 3.0, "", kind="noise")], "." * 40),
    "to somebody else": (
        [said("user", 1.0, 2.0, kind="talking_to_other")],
        "." * 5 + "iiiii" + "." * 30,
    ),
    "known to be answered": (
        [said("user", 1.0, 2.0, answered=True)],
        "." * 5 + "iiiii" + "r" + "." * 29,
    ),
    # Incomplete up to the slice in which a complete turn would be answered, then unknown.
    "known to be unfinished": (
        [said("user", 1.0, 2.0, answered=False)],
        "." * 5 + "iiiiii" + "?" * 29,
    ),
    "a late reply that names its turn": (
        [said("user", 1.0, 2.0), said("agent", 6.0, 7.0, to=0)],
        "." * 5 + "iiiii" + "r" + "." * 29,
    ),
    "a given turn with pauses": (
        [said("user", 1.0, 3.0, kind="question", answered=True, pauses=((1.5, 2.5),))],
        "." * 5 + "i" * 10 + "r" + "." * 24,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_slices_are_labelled_as_by_hand(name: str) -> None:
    turns, expected = CASES[name]
    assert letters(conversation(*turns)) == expected


def test_excluded_spans_have_no_label() -> None:
    excluded = conversation(*SHIFT, excluded=((1.9, 2.05), (4.0, 4.2)))
    assert letters(excluded) == "." * 5 + "iiii" + "??" + "." * 9 + "?" + "." * 19


def test_sides_are_exchanged() -> None:
    other = [said("agent", 1.0, 2.0), said("user", 2.4, 4.0)]
    assert letters(conversation(*other)) == "." * 12 + "i" * 8 + "?" * 20


def test_kinds_replies_and_pauses_of_turns() -> None:
    taking = turn_taking(
        conversation(
            said("user", 0.5, 1.0),
            said("user", 1.6, 2.0, "or so"),
            said("agent", 2.3, 4.0),
            said("user", 2.8, 3.2, "uh huh"),
            said("user", 3.6, 6.0, "wait a moment"),
            said("agent", 5.9, 7.0),
        )
    )
    assert [(t.kind, t.ending, t.reply_s) for t in taking.turns] == [
        ("paused_question", "shift", 2.3),
        ("interruption", "shift", 5.9),
    ]
    assert taking.turns[0].pauses == ((1.0, 1.6),)
    assert taking.backchannels == ((2.8, 3.2),) and not taking.excluded
