"""Many sessions over one model, in shared batches, against single sessions."""

import copy
import dataclasses
from unittest import mock

import pytest
import torch

from duplexmamba.duplex.batching import run_in_groups
from duplexmamba.duplex.session import push_batched, run_sessions
from duplexmamba.streaming import state as states
from duplexmamba.text.decoding import advance
from tests import test_multiplex, test_session
from tests.test_session import sound, tensors

TALKATIVE = ["duplex.max_tokens=5", "duplex.max_wait_s=1"]
FORK, MULTIPLEX = (
    ["duplex.response_threshold=0.3", *TALKATIVE],
    ["duplex.response_threshold=0.5", *TALKATIVE],
)
KINDS = {
    **{name: (test_session.make, [*FORK, *words]) for name, words in test_session.KINDS.items()},
    "several embeddings a slice": (test_session.make, [*FORK, "connector.kind=merge"]),
    "attention": (test_session.make, [*FORK, "encoder.mixer=attention"]),
    "without a fork": (test_multiplex.make, MULTIPLEX),
}


def batched_events(session, sounds, begins):
    """Events of sessions over one model: session i starts in round begins[i] and shares its batches
    with all others that have started."""
    group, events = [copy.copy(session) for _ in sounds], [[] for _ in sounds]
    for now in range(max(begins) + len(sounds[0])):
        ready = [i for i, begin in enumerate(begins) if 0 <= now - begin < len(sounds[i])]
        new_events = push_batched(
            [group[i] for i in ready], [sounds[i][now - begins[i]] for i in ready]
        )
        for i, event in zip(ready, new_events, strict=True):
            events[i].append(event)
    return events


def without_floats(events):
    return [dataclasses.replace(event, probabilities={}, compute_ms=0) for event in events]


@pytest.mark.parametrize("kind", KINDS)
def test_batched_sessions_equal_single_sessions(kind):
    make, words = KINDS[kind]
    session = make(*words)
    sounds = [
        sound(16, seed, session.slice_samples).split(session.slice_samples) for seed in range(4)
    ]
    found = batched_events(session, sounds, begins=[0, 0, 1, 5])
    for events, parts in zip(found, sounds, strict=True):
        expected = copy.copy(session).push(torch.cat(parts))
        assert without_floats(events) == without_floats(expected)
        for event, other in zip(events, expected, strict=True):
            assert event.probabilities == pytest.approx(other.probabilities, abs=1e-6)
    events = [event for events in found for event in events]
    assert len([event for event in events if event.action == "respond"]) > 1 and any(
        event.text for event in events
    )


def test_batched_signals_of_any_length_equal_single_ones():
    session, lengths = test_session.make(*FORK), [16000, 0, 41600, 25000]
    signals = [sound(14, seed)[:length] for seed, length in enumerate(lengths)]
    found = run_sessions([copy.copy(session) for _ in signals], signals)
    assert [len(events) for events in found] == [
        length // session.slice_samples for length in lengths
    ]
    for events, signal in zip(found, signals, strict=True):
        assert without_floats(events) == without_floats(copy.copy(session).push(signal))


def test_branches_of_all_sessions_share_a_batch():
    session, sizes = test_session.make(*FORK), []

    def counted(lm, branches):
        sizes.append(len(branches))
        return advance(lm, branches)

    with mock.patch("duplexmamba.duplex.batching.advance", counted):
        batched_events(session, [sound(8, seed).split(3200) for seed in range(4)], begins=[0] * 4)
    assert max(sizes) > 4 and sum(sizes) / len(sizes) > 2


def test_an_error_in_one_session_leaves_all_unchanged():
    group = [test_session.make(), test_session.make()]
    before = [session.snapshot() for session in group]
    with pytest.raises(RuntimeError):
        push_batched(group, [torch.zeros(3200), torch.zeros(3200).double().to_sparse()])
    assert all(
        session.snapshot() is snapshot for session, snapshot in zip(group, before, strict=True)
    )


def test_the_state_of_a_session_does_not_hold_memory_of_others():
    session = test_session.make(*FORK)
    group = [copy.copy(session) for _ in range(8)]
    for part in sound(6).split(3200):
        push_batched(group, [part] * 8)
    session.push(sound(6))
    single_bytes, batched_bytes = (
        [t.untyped_storage().nbytes() for t in tensors(one.snapshot())]
        for one in (session, group[0])
    )
    assert sum(batched_bytes) <= sum(single_bytes)


def test_an_empty_batch_of_sessions():
    assert push_batched([], []) == []


def test_items_of_one_key_run_at_once_and_come_back_in_order():
    groups = []

    def run(items):
        groups.append(items)
        return [item.upper() for item in items]

    assert run_in_groups(["a", "bb", "c", "dd", "e"], len, run) == ["A", "BB", "C", "DD", "E"]
    assert groups == [["a", "c", "e"], ["bb", "dd"]]


def test_rows_equal_select():
    state = (torch.randn(3, 4), (torch.arange(3), None))
    for i, row in enumerate(states.rows(state)):
        expected = states.select(state, torch.tensor([i]))
        assert (
            torch.equal(row[0], expected[0])
            and torch.equal(row[1][0], expected[1][0])
            and row[1][1] is None
        )
