"""Turn-taking: every rule of it, and what follows from them all."""

import dataclasses
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from configs.loading import load_config
from duplexmamba.duplex.policy import BranchCounters, branches, classify_state, decide, tokens_due
from duplexmamba.text.tokenizer import TURN_STATES
from tests.conftest import TINY

DUPLEX = load_config(TINY).duplex
STATES = st.sampled_from(list(TURN_STATES))
RULES = st.builds(
    lambda **rules: duplex(**rules), slice_ms=st.sampled_from([200.0, 600.0, 1000.0]),
    ignored_slices=st.integers(1, 4), min_slices=st.integers(1, 4), max_wait_s=st.floats(0.1, 5),
)  # fmt: skip


def duplex(**values):
    return dataclasses.replace(DUPLEX, **values)


def run(slices, config):
    """Actions after slices, given as states or (state, quiet), and what is known in the end."""
    known, actions = BranchCounters(), []
    for item in slices:
        state, quiet = (item, False) if isinstance(item, str) else item
        action, known = decide(state, quiet, known, config)
        actions.append(action)
        known = known if action == "listen" else BranchCounters()
    return actions, known


def test_response_is_answered_from_its_threshold_on_else_the_likelier_other_holds():
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
def test_a_state_holds_as_its_threshold_says(weights, threshold):
    found = dict(zip(TURN_STATES, (weight / sum(weights) for weight in weights), strict=True))
    state = classify_state(found, duplex(response_threshold=threshold))
    assert (state == "response") == (found["response"] >= threshold)
    assert state == "response" or found[state] == max(found["incomplete"], found["ignore"])


def test_nothing_is_answered_before_the_fewest_slices():
    assert run(["response"] * 4, duplex(min_slices=3))[0] == [
        "listen",
        "listen",
        "respond",
        "listen",
    ]
    assert run(["response"] * 2, duplex(min_slices=1))[0] == ["respond"] * 2


def test_only_ignored_slices_in_a_row_make_it_forget():
    states = ["ignore", "incomplete", "ignore", "response", "ignore", "ignore"]
    assert run(states, duplex(min_slices=9, ignored_slices=2))[0] == ["listen"] * 5 + ["drop"]
    assert run(["ignore"] * 3, duplex(ignored_slices=1))[0] == ["drop"] * 3


def test_patience_ends_after_the_longest_wait_in_silence():
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
def test_what_is_known_of_a_branch_counts_its_last_slices(slices, config):
    actions, known = run(slices, config)
    ends = [i + 1 for i, action in enumerate(actions) if action != "listen"]
    heard = slices[ends[-1] if ends else 0 :]
    last_other = [i + 1 for i, (state, _) in enumerate(heard) if state != "ignore"]
    last_sound = [i + 1 for i, (_, quiet) in enumerate(heard) if not quiet]
    expected = BranchCounters(
        len(heard), len(heard) - max(last_other, default=0), len(heard) - max(last_sound, default=0)
    )
    assert known == expected
    assert known.num_ignored < config.ignored_slices


@given(
    st.integers(1, 500), st.sampled_from([200, 600, 1000]), st.sampled_from([0.5, 1, 2, 5, 12.5])
)
def test_tokens_keep_the_pace_and_the_first_comes_with_the_decision(slices, slice_ms, pace):
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
def test_a_listener_who_is_right_answers_exactly_where_a_response_is_due(questions, config):
    """Questions of as many slices as an answer needs, or more, behind any number of those that are to be ignored."""
    labels = []
    for ignored, more in questions:
        labels += (
            ["ignore"] * ignored + ["incomplete"] * (config.min_slices - 1 + more) + ["response"]
        )
    answered = [branch.last for branch in branches(labels, config) if branch.answered]
    assert answered == [i for i, label in enumerate(labels) if label == "response"]
