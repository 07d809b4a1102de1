"""Turn-taking policy: every rule, and properties of all of them together."""

import dataclasses
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from configs.loading import load_config
from duplexmamba.duplex.policy import (
    BranchCounters,
    branches,
    classify_state,
    decide,
    tokens_due,
)
from duplexmamba.text.tokenizer import TURN_STATE_MARKERS
from tests.conftest import TINY

DUPLEX = load_config(TINY).duplex
STATES = st.sampled_from(list(TURN_STATE_MARKERS))
RULES = st.builds(
    lambda **rules: duplex(**rules), slice_ms=st.sampled_from([200.0, 600.0, 1000.0]),
    ignored_slices=st.integers(1, 4), min_slices=st.integers(1, 4), max_wait_s=st.floats(0.1, 5),
)  # fmt: skip


def duplex(**values):
    return dataclasses.replace(DUPLEX, **values)


def run(slices, config):
    """Actions after slices, each a state or (state, silent), and the counters at the end."""
    counters, actions = BranchCounters(), []
    for item in slices:
        state, silent = (item, False) if isinstance(item, str) else item
        action, counters = decide(state, silent, counters, config)
        actions.append(action)
        counters = counters if action == "listen" else BranchCounters()
    return actions, counters


def test_response_needs_its_threshold_else_the_likelier_other_state_is_chosen():
    config = duplex(response_threshold=0.6)
    for response, incomplete, state in (
        (0.6, 0.3, "response"),
        (0.59, 0.3, "incomplete"),
        (0.59, 0.2, "ignore"),
    ):
        found = {
            "response": response,
            "incomplete": incomplete,
            "ignore": 1 - response - incomplete,
        }
        assert classify_state(found, config) == state
    assert (
        classify_state({"response": 0.2, "incomplete": 0.4, "ignore": 0.4}, config) == "incomplete"
    )


@given(st.tuples(*[st.floats(0.01, 1)] * 3), st.floats(0.05, 0.95))
def test_states_follow_the_threshold(weights, threshold):
    found = dict(
        zip(TURN_STATE_MARKERS, (weight / sum(weights) for weight in weights), strict=True)
    )
    state = classify_state(found, duplex(response_threshold=threshold))
    assert (state == "response") == (found["response"] >= threshold)
    assert state == "response" or found[state] == max(found["incomplete"], found["ignore"])


def test_no_response_before_min_slices():
    assert run(["response"] * 4, duplex(min_slices=3))[0] == [
        "listen",
        "listen",
        "respond",
        "listen",
    ]
    assert run(["response"] * 2, duplex(min_slices=1))[0] == ["respond"] * 2


def test_only_consecutive_ignored_slices_drop_a_branch():
    states = ["ignore", "incomplete", "ignore", "response", "ignore", "ignore"]
    assert run(states, duplex(min_slices=9, ignored_slices=2))[0] == ["listen"] * 5 + ["drop"]
    assert run(["ignore"] * 3, duplex(ignored_slices=1))[0] == ["drop"] * 3


def test_an_incomplete_question_is_answered_after_max_wait_s_of_silence():
    config, open_ = duplex(max_wait_s=0.6, slice_ms=200), ("incomplete", True)
    assert run([open_] * 3, config)[0] == ["listen", "listen", "respond"]
    assert run([open_, open_, ("incomplete", False), open_, open_, open_], config)[0] == [
        "listen"
    ] * 5 + ["respond"]
    assert run([open_, open_, ("ignore", True)], config)[0] == ["listen"] * 3
    assert run([open_] * 3, duplex(max_wait_s=0.1, slice_ms=200, min_slices=3))[0] == [
        "listen"
    ] * 2 + ["respond"]


@given(st.lists(st.tuples(STATES, st.booleans())), RULES)
def test_counters_count_the_last_slices_of_a_branch(slices, config):
    actions, counters = run(slices, config)
    ends = [i + 1 for i, action in enumerate(actions) if action != "listen"]
    heard = slices[ends[-1] if ends else 0 :]
    last_other = [i + 1 for i, (state, _) in enumerate(heard) if state != "ignore"]
    last_sound = [i + 1 for i, (_, silent) in enumerate(heard) if not silent]
    expected = BranchCounters(
        len(heard), len(heard) - max(last_other, default=0), len(heard) - max(last_sound, default=0)
    )
    assert counters == expected
    assert counters.num_ignored < config.ignored_slices


@given(
    st.integers(1, 500), st.sampled_from([200, 600, 1000]), st.sampled_from([0.5, 1, 2, 5, 12.5])
)
def test_tokens_keep_the_pace_and_the_first_is_due_with_the_decision(slices, slice_ms, pace):
    config = duplex(slice_ms=slice_ms, tokens_per_s=pace)
    due = Fraction(slices * slice_ms, 1000) * Fraction(pace)
    assert tokens_due(0, config) == 0 and tokens_due(1, config) >= 1
    assert due <= tokens_due(slices, config) < due + 1


@given(st.lists(STATES), RULES)
def test_branches_cover_all_slices_in_order(labels, config):
    found = branches(labels, config)
    assert [i for branch in found for i in range(branch.first, branch.last + 1)] == list(
        range(len(labels))
    )


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9))), RULES)
def test_a_perfect_model_responds_exactly_where_labelled(questions, config):
    """Questions with at least as many slices as a response needs, each after any number of
    ignored slices."""
    labels = []
    for ignored, more in questions:
        labels += (
            ["ignore"] * ignored + ["incomplete"] * (config.min_slices - 1 + more) + ["response"]
        )
    answered = [branch.last for branch in branches(labels, config) if branch.answered]
    assert answered == [i for i, label in enumerate(labels) if label == "response"]


def test_a_response_pauses_from_the_onset_of_speech_until_the_branch_is_dropped():
    config = duplex(on_onset="pause", ignored_slices=2)
    labels = ["ignore", "incomplete", "incomplete", "ignore", "ignore", "ignore", "ignore"]
    found = branches(labels, config)
    assert [branch.last for branch in found] == [4, 6]
    # The slice in which the branch is dropped emits again.
    assert [(branch.num_paused, branch.num_paused_before) for branch in found] == [(3, 0), (0, 3)]
    assert not any(branch.num_paused for branch in branches(labels, DUPLEX))
