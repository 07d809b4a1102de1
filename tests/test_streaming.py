"""Any split of the input gives the whole's output, in every room on the road, alone and in ragged batches."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.loading import load_config, override
from configs.schema import Config
from duplexmamba.models.connectors import CONNECTORS
from duplexmamba.models.mixers.attention import SelfAttention
from duplexmamba.models.mixers.mamba import MambaMixer
from duplexmamba.models.mixers.mamba2 import Mamba2Mixer
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.streaming import state as states
from duplexmamba.streaming.buffer import stream_windows
from duplexmamba.streaming.padded import Padded, Positions, join
from tests.conftest import SMALL_SIZES, TINY

Room = Callable[..., tuple[Padded, object]]
CONTEXTS = ("causal", "causal_lookahead", "slice", "full")
STREAMING = CONTEXTS[:3]
ROOMS = {
    **{room: "causal" for room in ("features", "frontend", "mixer", "mixer2", "attention", "lm")},
    **{f"lm {kind}": "causal" for kind in ("mamba2", "transformer")},
    **{f"connector {kind}": "causal" for kind in CONNECTORS},
    **{f"{room} {context}": context for room in ("encoder", "listen", "speech_lm") for context in STREAMING},
    **{f"encoder {context} {mixer}": context for context in STREAMING for mixer in ("attention", "transformer")},
}  # fmt: skip
LMS = {
    "mamba2": ["lm.kind=mamba2", "lm.head_dim=16", "lm.num_groups=2"], "transformer": ["lm.kind=transformer"],
}  # fmt: skip
FULL = {
    **{f"{room} full": "full" for room in ("encoder", "listen", "speech_lm")},
    **{f"encoder full {mixer}": "full" for mixer in ("attention", "transformer")},
}
DOUBLE = {"atol": 1e-10, "rtol": 0.0}


def build(name: str, dtype: torch.dtype = torch.float64) -> tuple[Room, tuple[int, ...], int]:
    """A room's forward, the shape of one step, and how many steps make a test input."""
    found = made(name, dtype)
    torch.manual_seed(0)
    return found


@functools.cache
def made(name: str, dtype: torch.dtype) -> tuple[Room, tuple[int, ...], int]:
    config = replaced(small_config(), (ROOMS | FULL)[name])
    room, *rest = name.split()
    if room == "encoder" and rest[-1] in (
        "attention",
        "transformer",
    ):  # a past of less than the test input
        config = override(config, [f"encoder.mixer={rest[-1]}", "encoder.left_context_ms=280"])
    if room == "connector":
        config = override(config, [f"connector.kind={rest[0]}", "connector.merge_threshold=0"])
    if room == "lm" and rest:
        config = override(config, LMS[rest[0]])
    torch.manual_seed(0)
    d, mels, model = (
        config.encoder.d_model,
        config.features.num_mels,
        SpeechLM(config.model).to(dtype).eval(),
    )
    return {
        "features": (model.features, (), 2000),
        "frontend": (model.frontend, (mels,), 37),
        "mixer": (MambaMixer(d, 4, 4, 2).to(dtype), (d,), 23),
        "mixer2": (Mamba2Mixer(d, 4, 4, 2, head_dim=16, num_groups=2).to(dtype), (d,), 131),
        "attention": (SelfAttention(d, 16, 2, past_steps=7).to(dtype), (d,), 23),
        "encoder": (model.encoder, (d,), 23),
        "connector": (model.connector, (d,), 23),
        "lm": (model.lm, (config.lm.d_model,), 23),
        "listen": (model.embed_speech, (), 16000),
        "speech_lm": (whole_model(model), (), 16000),
    }[room]


def whole_model(model: SpeechLM) -> Room:
    """Samples to logits."""

    def forward(samples: Padded, state: tuple | None = None) -> tuple[Padded, tuple]:
        ear, memory = state or (None, None)
        speech, ear = model.embed_speech(samples, ear)
        hidden, memory = model.lm(speech, memory)
        return hidden.with_values(model.lm.logits(hidden.values)), (ear, memory)

    return forward


def draw(steps: int, shape: tuple[int, ...], rows: int = 1) -> torch.Tensor:
    return torch.randn(rows, steps, *shape, dtype=torch.float64) * 0.1


def alone(room: Room, signal: torch.Tensor) -> torch.Tensor:
    """What a room makes of one signal (T, ...) in one piece."""
    y, _ = room(Padded(signal[None]))
    return y.values[0, : int(y.row_lengths()[0])]


def run_in_chunks(room: Room, x: torch.Tensor, cuts: list[int]) -> torch.Tensor:
    """(1, T, ...) cut at `cuts`, one output."""
    state, outputs, edges = None, [], [0, *sorted(cuts), x.shape[1]]
    for start, end in zip(edges, edges[1:], strict=False):
        y, state = room(Padded(x[:, start:end]), state)
        outputs.append(y.values[0, : int(y.row_lengths()[0])])
    return torch.cat(outputs)


@pytest.mark.parametrize("name", ROOMS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_any_split_into_chunks_gives_the_whole(name: str, data: st.DataObject) -> None:
    room, shape, steps = build(name)
    x = draw(steps, shape)
    cuts = data.draw(st.lists(st.integers(0, steps), max_size=6))
    torch.testing.assert_close(run_in_chunks(room, x, cuts), alone(room, x[0]), **DOUBLE)


@pytest.mark.parametrize("size", [1, 7, 97])
@pytest.mark.parametrize("name", ROOMS)
def test_equal_chunks_give_the_whole_in_float32(name: str, size: int) -> None:
    room, shape, steps = build(name, torch.float32)
    x = draw(steps, shape).float()
    size *= 1 if shape else 160
    got = run_in_chunks(room, x, list(range(size, steps, size)))
    torch.testing.assert_close(got, alone(room, x[0]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["features", "listen causal", "listen causal_lookahead", "listen slice"]
)
def test_single_samples_give_the_whole(name: str) -> None:
    room, shape, _ = build(name)
    x = draw(1800, shape)
    torch.testing.assert_close(
        run_in_chunks(room, x, list(range(1, x.shape[1]))), alone(room, x[0]), **DOUBLE
    )


@pytest.mark.parametrize("name", ROOMS)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_the_future_does_not_change_the_past(name: str, data: st.DataObject) -> None:
    room, shape, steps = build(name)
    known = data.draw(st.integers(1, steps))
    past, future = draw(known, shape)[0], draw(steps - known, shape)[0]
    before = alone(room, past)
    torch.testing.assert_close(
        alone(room, torch.cat([past, future]))[: len(before)], before, **DOUBLE
    )


@pytest.mark.parametrize("name", [*ROOMS, *FULL])
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_a_padded_batch_equals_each_row_alone(name: str, data: st.DataObject) -> None:
    room, shape, steps = build(name)
    lengths = data.draw(st.lists(st.integers(1, steps), min_size=2, max_size=3))
    x = draw(max(lengths), shape, len(lengths))
    batch, _ = room(Padded(x, torch.tensor(lengths)))
    for row, length in enumerate(lengths):
        expected = alone(room, x[row, :length])
        assert int(batch.row_lengths()[row]) == len(expected)
        torch.testing.assert_close(batch.values[row, : len(expected)], expected, **DOUBLE)


@pytest.mark.parametrize("name", ROOMS)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_rows_of_a_ragged_stream_keep_their_own_pace(name: str, data: st.DataObject) -> None:
    """A chunk with rows of different lengths, then rows swapped, forked and reset: every row as if it were alone."""
    room, shape, steps = build(name)
    first = data.draw(st.tuples(st.integers(0, steps // 2), st.integers(0, steps // 2)))
    x = draw(steps, shape, 2)
    _, state = room(Padded(x[:, : steps // 2], torch.tensor(first)))
    state = states.select(state, torch.tensor([1, 0, 1, 0]))
    state = states.reset(state, torch.tensor([False, False, True, False]))
    chunk = x[[1, 0, 0, 1], steps // 2 :]
    y, _ = room(Padded(chunk), state)
    streams = [
        torch.cat([x[1, : first[1]], chunk[0]]), torch.cat([x[0, : first[0]], chunk[1]]), chunk[2],
        torch.cat([x[0, : first[0]], chunk[3]]),
    ]  # fmt: skip
    for row, signal in enumerate(streams):
        expected, new = alone(room, signal), int(y.row_lengths()[row])
        torch.testing.assert_close(y.values[row, :new], expected[len(expected) - new :], **DOUBLE)


@pytest.mark.parametrize("name", ["lm", "lm mamba2", "lm transformer"])
def test_states_behind_places_are_those_of_rows_that_end_there(name: str) -> None:
    room, shape, steps = build(name)
    x, following = draw(steps, shape, 3), draw(4, shape)
    _, old = room(Padded(x[:, :6], torch.tensor([6, 0, 3])))
    rows, heard = [2, 0, 0, 2, 0], [5, steps - 6, 0, 1, 5]
    behind = Positions(torch.tensor(rows), torch.tensor(heard))
    y, state = room(Padded(x[:, 6:], torch.tensor([steps - 6, 4, 5])), old, return_states_at=behind)
    expected, _ = room(Padded(x[:, 6:], torch.tensor([steps - 6, 4, 5])), old)
    torch.testing.assert_close(y.values, expected.values, **DOUBLE)
    found, _ = room(Padded(following.expand(len(rows), *following.shape[1:])), state)
    for i, (row, step) in enumerate(zip(rows, heard, strict=True)):
        past = x[row, : (6, 0, 3)[row]], x[row, 6 : 6 + step]
        torch.testing.assert_close(
            found.values[i], alone(room, torch.cat([*past, following[0]]))[-4:], **DOUBLE
        )


@pytest.mark.parametrize("name", ROOMS)
def test_a_state_is_a_value(name: str, tmp_path: Path) -> None:
    """Going on from a state leaves it as it was, and one from disk does as well."""
    room, shape, steps = build(name)
    x = draw(steps, shape)
    _, state = room(Padded(x[:, : steps // 2]))
    torch.save(state, tmp_path / "state.pt")
    first, _ = room(Padded(x[:, steps // 2 :]), state)
    room(Padded(draw(steps, shape)), state)
    for again in (state, torch.load(tmp_path / "state.pt", weights_only=False)):
        torch.testing.assert_close(
            room(Padded(x[:, steps // 2 :]), again)[0].values, first.values, atol=0, rtol=0
        )


@pytest.mark.parametrize("name", ROOMS)
def test_a_state_has_one_size_after_any_past_but_a_transformers(name: str) -> None:
    room, shape, steps = build(name)
    sizes = {states.num_bytes(room(Padded(draw(n, shape)))[1]) for n in (1, steps // 3, steps)}
    assert len(sizes) == (3 if name == "lm transformer" else 1)


@pytest.mark.parametrize("context", ["causal_lookahead", "slice"])
@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(0, 23), max_size=4))
def test_the_end_lets_out_frames_that_wait_for_their_slice(context: str, cuts: list[int]) -> None:
    encoder, shape, steps = build(f"encoder {context}")
    x, lengths = draw(steps, shape, 2), torch.tensor([steps, 11])
    whole, _ = encoder(Padded(x, lengths), final=True)
    assert whole.row_lengths().tolist() == lengths.tolist()
    outputs, edges, state = [], [0, *sorted(cuts), steps], None
    for start, end in zip(edges, edges[1:], strict=False):
        inside = (lengths - start).clamp(0, end - start)
        y, state = encoder(
            Padded(x[:, start:end], inside), state, final=end == steps and start == edges[-2]
        )
        outputs.append(y)
    got = join(outputs)
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(got.values[row, :length], whole.values[row, :length], **DOUBLE)


def test_slices_know_nothing_of_each_other(config: Config) -> None:
    encoder, full = (
        SpeechLM(replaced(config, c).model).double().eval().encoder for c in ("slice", "full")
    )
    full.load_state_dict(encoder.state_dict())
    x = draw(13, (config.encoder.d_model,))
    expected = torch.cat(
        [full(Padded(part))[0].values for part in x.split(encoder.slice_frames, 1)], 1
    )
    torch.testing.assert_close(encoder(Padded(x), final=True)[0].values, expected, **DOUBLE)


def test_lookback_is_a_forward_scan_and_one_backward_scan_per_slice(config: Config) -> None:
    """The mixer against its definition, slice by slice and step by step."""
    mixer = MambaMixer(8, 4, 4, 2, bidirectional=True).double()
    x = draw(11, (8,))
    inner, gate = mixer.in_proj(x).chunk(2, -1)
    forward, _ = mixer.ssm(Padded(inner))
    backward = [mixer.ssm_reverse(Padded(part.flip(1)))[0].flip(1) for part in inner.split(4, 1)]
    y = (forward + torch.cat(backward, 1)) / 2 * torch.nn.functional.silu(gate)
    torch.testing.assert_close(
        mixer(Padded(x), slice_steps=4)[0].values, mixer.out_proj(y), **DOUBLE
    )


def test_training_draws_slices_and_a_stream_keeps_them(config: Config) -> None:
    config = override(
        config, ["encoder.context=causal_lookahead", "encoder.train_slice_ms=[200,1000]"]
    )
    encoder = SpeechLM(config.model).encoder.train()
    x = Padded(torch.randn(1, 3, config.encoder.d_model))
    begun = [encoder(x)[1] for _ in range(60)]
    assert {state.pending.tail.shape[1] + 1 for state in begun} == {5, 10, 15, 20, 25}
    assert all(encoder(x, s)[1].pending.tail.shape == s.pending.tail.shape for s in begun[:5])
    assert encoder.eval()(x)[1].pending.tail.shape[1] + 1 == encoder.slice_frames


def test_full_context_refuses_a_state(config: Config) -> None:
    encoder = SpeechLM(replaced(config, "full").model).encoder
    with pytest.raises(ValueError, match="context=causal"):
        encoder(Padded(torch.zeros(1, 4, config.encoder.d_model)), ())


def test_carry_cuts_whole_hops() -> None:
    x = torch.arange(1.0, 12.0)[None]
    window, state = stream_windows(Padded(x[:, :7]), None, history=2, hop=3)
    assert window.values.tolist() == [[0, 0, 1, 2, 3, 4, 5, 6]] and window.lengths.tolist() == [2]
    window, state = stream_windows(Padded(x[:, 7:]), state, history=2, hop=3)
    assert window.values.tolist() == [[5, 6, 7, 8, 9]] and state.pending.tolist() == [2]


def test_join_leaves_no_gaps() -> None:
    a = Padded(torch.tensor([[1.0, 2.0], [3.0, 9.0]])[..., None], torch.tensor([2, 1]))
    b = Padded(torch.tensor([[4.0], [5.0]])[..., None])
    joined = join([a, b])
    assert joined.lengths.tolist() == [3, 2]
    assert joined.values[0, :, 0].tolist() == [1, 2, 4] and joined.values[1, :2, 0].tolist() == [
        3,
        5,
    ]


def small_config() -> Config:
    return load_config([*TINY, *SMALL_SIZES])


def replaced(config: Config, context: str) -> Config:
    return override(config, [f"encoder.context={context}", "encoder.slice_ms=200"])
