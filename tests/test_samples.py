"""Sessions with the samples of real microphones: invalid values, wrong types, offset, hum, hiss."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from duplexmamba.duplex.samples import NoiseFloor, is_silent, level_db
from duplexmamba.duplex.session import push_batched
from tests import test_multiplex, test_session
from tests.test_session import SLICE, facts, scripted_states, sound

MAKERS = {"fork": test_session.make, "multiplex": test_multiplex.make}
QUESTION_SLICES = 8
WAIT_SLICES = 15
"""Slices of duplex.max_wait_s=3."""


# ---- invalid samples


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
def test_invalid_samples_count_as_zeros(kind, value):
    damaged, zeroed = MAKERS[kind](), MAKERS[kind]()
    samples = sound(8)
    broken, silent = samples.clone(), samples.clone()
    for position in (0, SLICE + 5, SLICE + 6, 7 * SLICE):
        broken[position], silent[position] = value, 0.0
    with pytest.warns(UserWarning, match="replaced by zeros") as warned:
        events = [event for part in broken.split(777) for event in damaged.push(part)]
    assert facts(events) == facts(zeroed.push(silent))
    assert len(warned) == 1, "said once a session"
    assert (damaged.num_invalid_samples, zeroed.num_invalid_samples) == (4, 0)


def test_the_count_is_part_of_the_state():
    session = test_session.make()
    before = session.snapshot()
    with pytest.warns(UserWarning):
        session.push(torch.full((SLICE,), math.nan))
    assert session.num_invalid_samples == SLICE
    session.restore(before)
    assert session.num_invalid_samples == 0


def test_invalid_samples_in_a_batch_reach_no_other_session():
    session = test_session.make()
    group = [copy.copy(session), copy.copy(session)]
    good, bad = sound(4).split(SLICE), [torch.full((SLICE,), math.nan)] * 4
    with pytest.warns(UserWarning):
        events = [push_batched(group, [*slices])[0] for slices in zip(good, bad, strict=True)]
    for event, expected in zip(events, copy.copy(session).push(torch.cat(good)), strict=True):
        assert event.probabilities == pytest.approx(expected.probabilities, abs=1e-6)
    assert [each.num_invalid_samples for each in group] == [0, 4 * SLICE]


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (torch.zeros(SLICE, dtype=torch.int16), "torch.int16.*floating-point.*/ 32768"),
        (torch.zeros(SLICE, dtype=torch.int64), "torch.int64"),
        (torch.zeros(1, SLICE), r"shape \(1, 3200\).*\(n,\) is expected"),
        (torch.zeros(()), r"shape \(\)"),
    ],
)
def test_wrong_dtypes_and_shapes_are_refused(samples, message):
    session = test_session.make()
    before = session.snapshot()
    for take in (session.push, session.process_slice, lambda x: push_batched([session], [x])):
        with pytest.raises(ValueError, match=message):
            take(samples)
    assert session.snapshot() is before


def test_a_slice_of_another_length_is_refused():
    session = test_session.make()
    with pytest.raises(ValueError, match=r"\(3199,\): one slice of shape \(3200,\)"):
        push_batched([session], [torch.zeros(SLICE - 1)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16])
def test_every_floating_dtype_is_taken(dtype):
    samples = sound(3).to(dtype)
    assert facts(test_session.make().push(samples)) == facts(
        test_session.make().push(samples.float())
    )


# ---- silence


def room(name: str, num_samples: int) -> torch.Tensor:
    """Background of a microphone, 20 dB below the speech or an offset above it."""
    time_s = torch.arange(num_samples) / 16_000
    noise = torch.randn(num_samples, generator=torch.Generator().manual_seed(0))
    hum = torch.sin(2 * torch.pi * 50 * time_s) + 0.3 * torch.sin(2 * torch.pi * 150 * time_s)
    return {
        "clean": torch.zeros(num_samples),
        "offset": torch.full((num_samples,), 0.3),
        "hum": 0.014 * hum,
        "hiss": 0.01 * noise,
        "hum, hiss and offset": 0.01 * hum + 0.005 * noise - 0.05,
        "slow swell": 0.01 * noise * (1 + 0.3 * torch.sin(2 * torch.pi * 0.3 * time_s)),
    }[name]


def speech(num_slices: int) -> torch.Tensor:
    """Tones of changing level, as syllables are, at about -20 dB."""
    levels = torch.tensor([0.3, 0.8, 1.0, 0.5, 0.25, 0.9, 0.4, 0.7])[:num_slices]
    carrier = torch.sin(2 * torch.pi * 300 * torch.arange(SLICE) / 16_000)
    return (0.2 * levels[:, None] * carrier).flatten()


@pytest.mark.parametrize("lead_slices", [0, 3, 40])
@pytest.mark.parametrize(
    "name", ["clean", "offset", "hum", "hiss", "hum, hiss and offset", "slow swell"]
)
def test_an_unfinished_question_is_answered_after_max_wait_s(name, lead_slices):
    session = test_session.make("duplex.max_wait_s=3", "duplex.ignored_slices=99")
    silence = torch.zeros(lead_slices * SLICE), torch.zeros(25 * SLICE)
    samples = torch.cat([silence[0], speech(QUESTION_SLICES), silence[1]])
    samples = samples + room(name, len(samples))
    end = lead_slices + QUESTION_SLICES
    with scripted_states(session, "i" * lead_slices + "o" * 99):
        events = session.push(samples)
    answered = [event.slice for event in events if event.action == "respond"]
    assert answered[:1] == [end + WAIT_SLICES - 1]


@pytest.mark.parametrize("name", ["clean", "hiss"])
def test_a_question_that_goes_on_is_not_answered(name):
    session = test_session.make("duplex.max_wait_s=3")
    samples = speech(QUESTION_SLICES).repeat(5)
    samples = samples + room(name, len(samples))
    with scripted_states(session, "o" * 99):
        assert {event.action for event in session.push(samples)} == {"listen"}


@pytest.mark.parametrize("name", ["clean", "offset", "hum", "hiss"])
def test_a_room_without_speech_is_no_question(name):
    session = test_session.make("duplex.max_wait_s=1")
    with scripted_states(session, "o" * 99):
        assert {event.action for event in session.push(room(name, 30 * SLICE))} == {"listen"}


@given(offset=st.floats(-0.9, 0.9), gain_db=st.floats(-60, 0))
def test_the_level_ignores_an_offset(offset, gain_db):
    tone = 10 ** (gain_db / 20) * torch.sin(torch.arange(3200) * 0.2)
    assert level_db(tone.double() + offset) == pytest.approx(gain_db - 3.01, abs=0.05)


def test_the_noise_floor_follows_the_room_and_not_a_gap():
    floor = NoiseFloor(0.2)
    for slice_db in [-60.0] * 30 + [-20.0] * 10:
        floor = floor.updated(slice_db)
    assert floor.level_db == -60
    # A fan starts: known after the window of 5 s.
    for _ in range(25):
        floor = floor.updated(-40)
    assert floor.level_db == -40 and len(floor.recent_db) == 25
    assert floor.updated(-100).level_db == -40, "a gap of the network is no silence"


@pytest.mark.parametrize(
    ("slice_db", "loudest_db", "floor_db", "silent"),
    [
        (-50, -20, -90, True),  # far below the loudest
        (-40, -20, -90, False),
        (-40, -20, -43, True),  # near the floor
        (-30, -24, -33, False),  # nothing stands out of the noise
    ],
)
def test_what_is_silent(slice_db, loudest_db, floor_db, silent):
    assert is_silent(slice_db, loudest_db, floor_db, -25) is silent
