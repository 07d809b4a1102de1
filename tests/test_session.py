"""Live sessions against a literal reference without states, and all their special cases."""

import contextlib
import dataclasses
import functools
import itertools
import math
import random
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.loading import load_config, override
from duplexmamba.duplex.batching import run_single
from duplexmamba.duplex.events import EmittedResponse, emitted_responses
from duplexmamba.duplex.fork import ForkSession, Response
from duplexmamba.duplex.session import REPLACEMENT_CHARACTER
from duplexmamba.models.mixers.causal_attention import CausalAttention
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.streaming import state as states
from duplexmamba.streaming.padded import Padded
from duplexmamba.text.decoding import advance, greedy
from duplexmamba.text.tokenizer import ANSWER_INSTRUCTIONS, TURN_STATE_MARKERS, Tokenizer
from tests.conftest import SMALL_SIZES, TINY

SLICE = 3200
SCRIPT = "oorioorioooorioorooooor"
"""Questions, most of them during an answer to the one before."""
LETTERS = {"r": "response", "o": "incomplete", "i": "ignore"}
TOKENS = Tokenizer.train([" what is seven plus five", " twelve", " the capital of france"] * 9)
SMALL = load_config([*TINY, *SMALL_SIZES, f"lm.vocab_size={TOKENS.vocab_size}"])
SLICED = ["encoder.slice_ms=400", "duplex.slice_ms=400"]
KINDS = {
    "causal": [], "causal_lookahead": ["encoder.context=causal_lookahead", *SLICED],
    "slice": ["encoder.context=slice", *SLICED], "mamba2": ["lm.kind=mamba2", "lm.head_dim=16"],
    "transformer": ["lm.kind=transformer"], "hybrid": ["lm.kind=hybrid", "lm.head_dim=16"],
    "long slices": ["duplex.slice_ms=600", "duplex.tokens_per_s=1.5"],
    "pause": ["duplex.on_onset=pause"],
}  # fmt: skip


def make(*words, end=None):
    """A session whose model emits another token after every token and every change of the audio:
    its state has more weight than the current input."""
    config = override(SMALL, [*words])
    torch.manual_seed(0)
    model = SpeechLM(config.model).eval().double()
    with torch.no_grad():
        model.connector.layers[-1].weight.mul_(10)
        for layer in model.lm.backbone.layers if config.lm.kind == "transformer" else ():
            layer.attention.query_key_value.weight.mul_(20)
            layer.attention.dense.weight.mul_(20)
        for layer in () if config.lm.kind == "transformer" else model.lm.layers:
            layer.mixer.out_proj.weight.mul_(5)
            if isinstance(layer.mixer, CausalAttention):
                continue
            ssm = layer.mixer.ssm if config.lm.kind == "mamba" else layer.mixer
            ssm.D.zero_()
            if config.lm.kind == "mamba":
                ssm.x_proj.weight[ssm.sizes[0] :].mul_(10)
    tokens = Tokenizer.from_json(TOKENS.to_json())
    tokens.eos_id = tokens.eos_id if end is None else end
    return ForkSession(model, tokens, config.duplex)


def sound(slices, seed=0, size=SLICE):
    """Tones, one for each slice."""
    generator = torch.Generator().manual_seed(seed)
    hz, level = (
        torch.rand(2, slices, 1, generator=generator) * torch.tensor([5, -3])[:, None, None]
    ).exp()
    return (level * torch.sin(2 * torch.pi * 60 * hz * torch.arange(size) / 16000)).flatten()


@contextlib.contextmanager
def scripted_states(session, script):
    """The turn state of each slice is that of a letter of the script; after its end, "ignore"."""

    def classify(probabilities, config):
        index = session.snapshot().num_slices
        return LETTERS[script[index] if index < len(script) else "i"]

    with mock.patch("duplexmamba.duplex.fork.classify_state", classify):
        yield


def events_of(session, parts, script):
    """Events of a session with scripted turn states."""
    with scripted_states(session, script):
        return [event for part in parts for event in session.push(part)]


def facts(events):
    return [dataclasses.replace(event, compute_ms=0) for event in events]


# ---- the literal reference


@torch.no_grad()
def literally(session, samples, script):
    """(probabilities, action, tokens) of each slice, by a reference session without states: it
    processes its whole input again for every token."""
    lm, tokens, duplex, size = (
        session.model.lm,
        session.tokenizer,
        session.duplex,
        session.slice_samples,
    )
    speech = session.model.embed_speech(Padded(samples[None]))[0].values[0]
    prompt, ask, accept = (
        lm.embed(torch.tensor(ids))
        for ids in (
            tokens.prompt_before_speech(ANSWER_INSTRUCTIONS[0]),
            tokens.encode_end_of_speech(),
            tokens.prompt_after_speech("response"),
        )
    )

    def logits(read):
        return lm.logits(lm(Padded(torch.cat(read)[None]))[0].values[0, -1])

    rest, branch, answer, emitted, found, paused, heard_db = [], None, None, [], [], 0, []
    for i, heard in enumerate(speech.split(size // 3200)):
        if branch is None:
            branch, count, ignored, quiet, levels = (
                [*(rest if answer is None else answer), prompt],
                0,
                0,
                0,
                [],
            )
        branch = [*branch, heard]
        weights = (
            logits([*branch, ask])[[tokens.turn_state_ids[state] for state in TURN_STATE_MARKERS]]
            .softmax(0)
            .tolist()
        )
        state = LETTERS[script[i]]
        levels.append(20 * math.log10(samples[i * size : (i + 1) * size].double().std()))
        heard_db.append(levels[-1])
        recent = heard_db[-round(5000 / duplex.slice_ms) :]
        known = len(recent) * duplex.slice_ms >= 1000
        floor = min(recent) if known else -100
        silent = levels[-1] < max(levels) + duplex.silence_db or (
            levels[-1] <= floor + 6 and max(levels) >= floor + 12
        )
        count, ignored = count + 1, ignored + 1 if state == "ignore" else 0
        quiet = quiet + 1 if silent else 0
        waited = state == "incomplete" and quiet * duplex.slice_ms >= 1000 * duplex.max_wait_s
        action, new = "listen", []
        if count >= duplex.min_slices and (state == "response" or waited):
            action, answer, emitted, begun, branch = "respond", [*branch, accept], [], i, None
            paused = 0
        elif ignored >= duplex.ignored_slices:
            action, branch = "drop", None
        holds = duplex.on_onset == "pause" and action == "listen" and ignored < count
        paused += holds
        while answer is not None and not holds:
            token = (
                int(logits(answer).argmax()) if len(emitted) < duplex.max_tokens else tokens.eos_id
            )
            if (
                token != tokens.eos_id
                and len(emitted)
                >= (i - begun + 1 - paused) * duplex.slice_ms * duplex.tokens_per_s / 1000
            ):
                break
            answer = [*answer, lm.embed(torch.tensor([token]))]
            if token == tokens.eos_id:
                rest, answer = answer, None
            else:
                emitted, new = [*emitted, token], [*new, token]
        found.append(
            (dict(zip(TURN_STATE_MARKERS, weights, strict=True)), action, new, answer is not None)
        )
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_session_equals_the_literal_reference(kind):
    responses = []
    for seed in range(1, 3):
        script = "".join(
            random.Random(seed).choices(["oor", "orr", "iior", "ii", "iiiiii", "ooo"], k=40)
        )[:40]
        session = make(*KINDS[kind], "duplex.max_tokens=7", "duplex.max_wait_s=0.4", end=137)
        samples = sound(40, seed, session.slice_samples)
        samples[15 * session.slice_samples : 30 * session.slice_samples] *= 1e-3
        events = events_of(session, [samples], script)
        expected = literally(session, samples, script)
        assert [(e.action, e.tokens, e.answering) for e in events] == [row[1:] for row in expected]
        for event, (probabilities, *_) in zip(events, expected, strict=True):
            assert event.probabilities == pytest.approx(probabilities, abs=1e-6)
        responses += emitted_responses(events)
    assert len({response.text for response in responses}) > 4 and {
        response.complete for response in responses
    } == {
        True,
        False,
    }


def test_a_response_equals_greedy_decoding_while_all_slices_are_ignored():
    session, samples = make("duplex.tokens_per_s=3"), sound(40)
    [response] = emitted_responses(events_of(session, [samples], "ooor"))
    model, tokens = session.model, session.tokenizer
    before, after = (
        Padded(torch.tensor([ids]))
        for ids in (
            tokens.prompt_before_speech(ANSWER_INSTRUCTIONS[0]),
            tokens.prompt_after_speech("response"),
        )
    )
    with torch.no_grad():
        speech, _ = model.embed_speech(Padded(samples[None, : 4 * SLICE]))
        hidden, lm_state = model(before, speech, after)
        [expected] = greedy(
            model.lm, model.lm.logits(hidden.values[:, -1]), lm_state, tokens.eos_id, 23
        )
    assert len(set(expected)) > 6 and response.start_slice == 3
    assert response.text == tokens.decode(expected[:23]) and not response.complete


# ---- any split of the input


@functools.cache
def events_in_one_push():
    return facts(events_of(make(), [sound(9)], SCRIPT))


@settings(deadline=None, max_examples=15)
@given(
    st.lists(
        st.one_of(st.sampled_from([0, 1, SLICE, 3 * SLICE]), st.integers(0, 5 * SLICE)), max_size=12
    )
)
def test_any_split_of_the_samples_gives_the_same_events(sizes):
    samples = sound(9)
    parts = torch.tensor_split(samples, list(itertools.accumulate(sizes)))
    assert facts(events_of(make(), parts, SCRIPT)) == events_in_one_push()


@pytest.mark.parametrize("size", [1, 997])
@pytest.mark.parametrize("kind", ["causal", "causal_lookahead", "slice"])
def test_small_chunks_give_the_same_events_in_every_context(size, kind):
    session, whole = (
        make(*KINDS[kind], "duplex.min_slices=1"),
        make(*KINDS[kind], "duplex.min_slices=1"),
    )
    samples = sound(3, size=session.slice_samples)
    assert facts(events_of(session, samples.split(size), "ror")) == facts(
        events_of(whole, [samples], "ror")
    )


def test_samples_are_copied_from_a_reused_buffer():
    session, samples = make(), sound(6)
    buffer, events = torch.empty(1700), []
    for part in samples[: len(samples) // 1700 * 1700].split(1700):
        buffer.copy_(part)
        events += events_of(session, [buffer], "oor")
    assert facts(events) == facts(events_of(make(), [samples], "oor"))[: len(events)]


# ---- the state is a value


def test_a_snapshot_does_not_change_and_can_be_restored():
    session, samples = make(), sound(24)
    events, kept = [], []
    for part in samples.split(2111):
        kept.append((session.snapshot(), len(events)))
        events += events_of(session, [part], SCRIPT)
    held = clone(kept[9][0])
    for i in (9, 3, 20, 0):
        session.restore(kept[i][0])
        assert facts(events_of(session, samples.split(2111)[i:], SCRIPT)) == facts(
            events[kept[i][1] :]
        )
    assert all(torch.equal(a, b) for a, b in zip(tensors(kept[9][0]), tensors(held), strict=True))


def clone(snapshot):
    parts = {
        name: states.clone(getattr(snapshot, name))
        for name in ("pending_samples", "idle_state", "speech_state")
    }
    branches = {
        name: dataclasses.replace(branch, lm_state=states.clone(branch.lm_state))
        for name in ("listening", "response")
        if (branch := getattr(snapshot, name)) is not None
    }
    return dataclasses.replace(snapshot, **parts, **branches)


def tensors(snapshot):
    """All of a snapshot's."""
    found = []
    lm_states = [
        branch.lm_state for branch in (snapshot.listening, snapshot.response) if branch is not None
    ]
    for part in (snapshot.pending_samples, snapshot.idle_state, snapshot.speech_state, *lm_states):
        states.map_state(lambda t: found.append(t) or t, part)
    return found


def test_batched_branches_equal_single_branches():
    batched = []

    def one_by_one(lm, branches):
        batched.append(len(branches))
        return [advance(lm, [branch])[0] for branch in branches]

    expected = events_of(make(), [sound(24)], SCRIPT)
    with mock.patch("duplexmamba.duplex.batching.advance", one_by_one):
        found = events_of(make(), [sound(24)], SCRIPT)
    for event, other in zip(found, expected, strict=True):
        assert (event.action, event.tokens, event.text) == (other.action, other.tokens, other.text)
        assert event.probabilities == pytest.approx(other.probabilities, abs=1e-6)
    assert batched.count(2) > 5


def test_reading_the_turn_state_leaves_no_trace():
    session, samples, events = make(), sound(24), []
    for part in samples.split(SLICE):
        events += events_of(session, [part], SCRIPT)
        if (listening := session.snapshot().listening) is not None:
            for _ in range(3):
                run_single(
                    session.model,
                    session._step_branches(
                        session._end_of_speech_embeddings,
                        listening.lm_state,
                        session.snapshot().response,
                    ),
                )
    assert facts(events) == facts(events_of(make(), [samples], SCRIPT))


# ---- turns


def test_an_interruption_of_an_interruption():
    events = events_of(make(), [sound(14)], "oorooroor" + "i" * 5)
    assert [event.slice for event in events if event.action == "respond"] == [2, 5, 8]
    first, second, third = emitted_responses(events)
    assert (first.start_slice, first.stop_slice, second.stop_slice, third.stop_slice) == (
        2,
        5,
        8,
        13,
    )
    assert not (first.complete or second.complete or third.complete)
    assert len({first.text, second.text, third.text}) == 3


def test_ignored_and_incomplete_slices_do_not_interrupt_a_response():
    ignored, open_ = (events_of(make(), [sound(16)], "oor" + letter * 13) for letter in "io")
    assert [event.tokens for event in ignored] == [event.tokens for event in open_]
    assert {event.action for event in ignored[3:]} == {"listen", "drop"}
    assert {event.action for event in open_[3:]} == {"listen"}


def test_many_turns_with_a_question_after_each_complete_response():
    responses = emitted_responses(events_of(make("duplex.max_tokens=2"), [sound(80)], "oorii" * 16))
    assert responses == [
        EmittedResponse(begun, begun + 2, response.text, True)
        for begun, response in zip(range(2, 80, 5), responses, strict=True)
    ]
    assert len({response.text for response in responses}) > 4


def test_ignored_slices_at_the_start():
    events = events_of(make(), [sound(9)], "iiiiioori")
    assert [event.action for event in events] == [
        *["listen", "drop"] * 2,
        *["listen"] * 3,
        "respond",
        "listen",
    ]


def test_emitted_responses_join_the_texts_of_events():
    events = events_of(make("duplex.max_tokens=3"), [sound(12)], "ooroor")
    cut, whole = emitted_responses(events)
    assert cut == EmittedResponse(2, 5, "".join(event.text for event in events[2:5]), False)
    assert whole == EmittedResponse(5, 10, "".join(event.text for event in events[5:11]), True)
    assert emitted_responses([]) == []


def test_a_character_of_several_tokens_is_emitted_whole():
    session, emitted = make(), TOKENS.encode(" café — née")
    assert any(REPLACEMENT_CHARACTER in TOKENS.decode(emitted[:i]) for i in range(len(emitted)))
    heard = [
        session._text(Response((), session.tokenizer.eos_id, 0, tuple(emitted[:i])))
        for i in range(len(emitted) + 1)
    ]
    assert all(later.startswith(text) for text, later in itertools.pairwise(heard))
    assert {"caf", "café", "café —"} < set(heard) and heard[-1] == "café — née"
    assert session._text(Response((), None, 0, tuple(emitted[:-2]))).endswith(REPLACEMENT_CHARACTER)


# ---- pauses of a response


PAUSE = ["duplex.on_onset=pause", "duplex.tokens_per_s=5"]


@pytest.mark.parametrize(
    ("script", "paused_slices"),
    [
        ("oor" + "i" * 20, []),
        # Two ignored slices drop the branch, and the second of them emits again.
        ("oor" + "iiioooo" + "i" * 13, [6, 7, 8, 9, 10]),
        ("oor" + "oiooi" + "i" * 15, [3, 4, 5, 6, 7]),
        ("oor" + "iioii" + "iiiioi" + "i" * 9, [5, 6, 12, 13]),
    ],
)
def test_a_paused_response_goes_on_word_for_word(script, paused_slices):
    samples = sound(len(script))
    undisturbed = events_of(make(*PAUSE), [samples], "oor")
    events = events_of(make(*PAUSE), [samples], script)
    assert [event.slice for event in events if event.paused] == paused_slices
    assert all(not event.tokens and event.answering for event in events if event.paused)
    spoken = [event for event in events if not event.paused]
    for event, expected in zip(spoken, undisturbed, strict=False):
        assert (event.tokens, event.text) == (expected.tokens, expected.text)
    [response] = emitted_responses(events)
    [expected] = emitted_responses(undisturbed)
    assert expected.text.startswith(response.text) and len(response.text) > 10


def test_a_question_ends_a_paused_response():
    events = events_of(make(*PAUSE), [sound(14)], "oorioor" + "i" * 7)
    assert [event.slice for event in events if event.paused] == [4, 5]
    cut, new = emitted_responses(events)
    assert not cut.complete and cut.stop_slice == new.start_slice == 6
    assert sum(len(event.tokens) for event in events[2:6]) == 2


def test_a_paused_session_gives_the_same_events_for_any_split_of_the_samples():
    samples, rng = sound(23), random.Random(4)
    whole = facts(events_of(make(*PAUSE), [samples], SCRIPT))
    assert sum(event.paused for event in whole) > 3
    for _ in range(4):
        cuts = sorted(rng.sample(range(len(samples)), 9))
        assert facts(events_of(make(*PAUSE), torch.tensor_split(samples, cuts), SCRIPT)) == whole


def test_without_a_response_nothing_pauses():
    events = events_of(make(*PAUSE, "duplex.max_tokens=2"), [sound(16)], "oorii" + "o" * 11)
    assert not any(event.paused for event in events)
    assert not any(event.paused for event in events_of(make(), [sound(23)], SCRIPT))


def test_a_paused_response_can_be_finished():
    session = make(*PAUSE, "duplex.max_tokens=9")
    events = events_of(session, [sound(7)], "ooriooo")
    assert events[-1].paused
    begun = "".join(event.text for event in events)
    assert session.finish().startswith(begun) and not session.answering


# ---- the end


def test_close_waits_for_the_answer_and_for_the_question():
    session = make("duplex.max_tokens=5")
    with scripted_states(session, "oooor"):
        events = [*session.push(sound(4)), *session.close()]
        assert session.close() == []
    [response] = emitted_responses(events)
    assert (
        response.complete
        and response.start_slice == 4
        and len(events) == response.stop_slice + 1
        and not session.answering
    )


@pytest.mark.parametrize("script", ["o" * 999, "r" * 999, "or" * 500])
def test_close_ends_also_with_a_model_that_never_does(script):
    session = make("duplex.max_wait_s=1", "duplex.max_tokens=4")
    with scripted_states(session, script):
        heard, after = session.push(sound(3)), session.close()
    assert len(after) <= 15 and emitted_responses(heard + after)


def test_close_gives_an_answer_that_patience_begins_its_time():
    session = make("duplex.max_wait_s=1", "duplex.max_tokens=4")
    with scripted_states(session, "o" * 8):
        [response] = emitted_responses([*session.push(sound(3)), *session.close()])
    assert response.start_slice == 7 and response.complete


def test_close_of_what_was_never_begun_or_only_ignored():
    assert make().close() == []
    session = make()
    with scripted_states(session, ""):
        session.push(sound(1)[:100])
        assert [event.slice for event in session.close()] == [0]


def test_an_hour_of_silence_leaves_the_memory_as_it_was():
    session = ForkSession(
        SpeechLM(SMALL.model).eval(), TOKENS, override(SMALL, ["duplex.slice_ms=60000"]).duplex
    )
    minute, sizes = torch.zeros(session.slice_samples), set()
    for i in range(60):
        session.push(minute)
        now = session.snapshot()
        if i:
            sizes.add(
                sum(
                    t.untyped_storage().nbytes()
                    for t in tensors(dataclasses.replace(now, listening=None))
                )
            )
        assert now.response is None and all(t.isfinite().all() for t in tensors(now))
    assert len(sizes) == 1 and now.num_slices == 60


# ---- mistakes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["encoder.context=full"], "encoder.context=full encodes whole utterances only.*causal"),
        (
            ["encoder.context=slice", "duplex.slice_ms=600", "encoder.slice_ms=400"],
            "set duplex.slice_ms=400",
        ),
        (["duplex.slice_ms=300"], "duplex.slice_ms=300 ms.*multiple of 200"),
    ],
)
def test_configurations_without_whole_slices_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        make(*words)


def test_a_model_in_training_is_refused():
    session = make()
    with pytest.raises(ValueError, match=r"call eval\(\)"):
        ForkSession(session.model.train(), session.tokenizer, SMALL.duplex)
