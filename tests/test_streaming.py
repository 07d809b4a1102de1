"""Streaming modules: any split of the input gives the output of one pass, for rows and batches."""

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
from duplexmamba.models.mixers import MIXERS
from duplexmamba.models.mixers.attention import SelfAttention
from duplexmamba.models.mixers.mamba import MambaMixer
from duplexmamba.models.mixers.mamba2 import Mamba2Mixer
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.streaming import state as states
from duplexmamba.streaming.buffer import stream_windows
from duplexmamba.streaming.padded import Padded, Positions, join
from tests.conftest import LM_KINDS, SMALL_SIZES, TINY

StreamingModule = Callable[..., tuple[Padded, object]]
CONTEXTS = ("causal", "causal_lookahead", "slice", "full")
STREAMING = CONTEXTS[:3]
WHOLE_ENCODERS = ("encoder", "embed_speech", "speech_lm")
OTHER_MIXERS = [name for name in MIXERS if name != "mamba"]
"""Encoder mixers that the cases without a mixer's name do not test."""
HYBRID = ["lm.head_dim=16", "lm.num_groups=2", "lm.num_layers=4", "lm.pattern='M*-'"]
SMALL_LM = {
    "mamba2": ["lm.head_dim=16", "lm.num_groups=2"],
    "hybrid": HYBRID,
    # shorter than the test input
    "hybrid bounded": ["lm.kind=hybrid", *HYBRID, "lm.attention_window=5", "lm.num_kv_heads=2"],
    "hybrid rotary": ["lm.kind=hybrid", *HYBRID, "lm.attention_window=5", "lm.hybrid_family=bamba"],
}
"""Language model -> sizes that fit `SMALL_SIZES`, where those of tiny.yaml do not."""
LANGUAGE_MODELS = [*LM_KINDS, "hybrid bounded", "hybrid rotary"]
MODULES = {
    "features": "causal",
    "features level": "causal",
    "frontend": "causal",
    "mixer": "causal",
    "mixer2": "causal",
    "attention": "causal",
    **{f"lm {kind}": "causal" for kind in LANGUAGE_MODELS},
    **{f"connector {kind}": "causal" for kind in CONNECTORS},
    **{f"{part} {context}": context for part in WHOLE_ENCODERS for context in STREAMING},
    **{f"encoder {context} {mixer}": context for context in STREAMING for mixer in OTHER_MIXERS},
}
"""Test case -> context of its encoder."""
FULL = {
    **{f"{part} full": "full" for part in WHOLE_ENCODERS},
    **{f"encoder full {mixer}": "full" for mixer in OTHER_MIXERS},
}
"""Cases that do not stream."""
ENCODERS = [name for name in MODULES if name.startswith("encoder ")]
DOUBLE = {"atol": 1e-10, "rtol": 0.0}


def build(
    name: str, dtype: torch.dtype = torch.float64
) -> tuple[StreamingModule, tuple[int, ...], int]:
    """A module, the shape of one step of its input, and the number of steps of a test input."""
    built = build_cached(name, dtype)
    torch.manual_seed(0)
    return built


@functools.cache
def build_cached(name: str, dtype: torch.dtype) -> tuple[StreamingModule, tuple[int, ...], int]:
    config = with_context(small_config(), (MODULES | FULL)[name])
    part, *rest = name.split()
    if part == "encoder" and rest[-1] in OTHER_MIXERS:
        # The attended past is shorter than the test input.
        config = override(config, [f"encoder.mixer={rest[-1]}", "encoder.left_context_ms=280"])
    if part == "connector":
        config = override(config, [f"connector.kind={rest[0]}", "connector.merge_threshold=0"])
    if name == "features level":
        config = override(config, ["features.level=causal"])
    if part == "lm":
        kind = " ".join(rest)
        config = override(config, [f"lm.kind={rest[0]}", *SMALL_LM.get(kind, [])])
    torch.manual_seed(0)
    d = config.encoder.d_model
    mels = config.features.num_mels
    model = SpeechLM(config.model).to(dtype).eval()
    return {
        "features": (model.features, (), 2000),
        "frontend": (model.frontend, (mels,), 37),
        "mixer": (MambaMixer(d, 4, 4, 2).to(dtype), (d,), 23),
        "mixer2": (Mamba2Mixer(d, 4, 4, 2, head_dim=16, num_groups=2).to(dtype), (d,), 131),
        "attention": (SelfAttention(d, 16, 2, past_steps=7).to(dtype), (d,), 23),
        "encoder": (model.encoder, (d,), 23),
        "connector": (model.connector, (d,), 23),
        "lm": (model.lm, (config.lm.d_model,), 23),
        "embed_speech": (model.embed_speech, (), 16000),
        "speech_lm": (samples_to_logits(model), (), 16000),
    }[part]


def samples_to_logits(model: SpeechLM) -> StreamingModule:
    """The whole model from samples to logits."""

    def forward(samples: Padded, state: tuple | None = None) -> tuple[Padded, tuple]:
        encoder_state, lm_state = state or (None, None)
        speech, encoder_state = model.embed_speech(samples, encoder_state)
        hidden, lm_state = model.lm(speech, lm_state)
        logits = model.lm.logits(hidden.values)
        return hidden.with_values(logits), (encoder_state, lm_state)

    return forward


def draw(steps: int, shape: tuple[int, ...], rows: int = 1) -> torch.Tensor:
    return torch.randn(rows, steps, *shape, dtype=torch.float64) * 0.1


def run_single(module: StreamingModule, signal: torch.Tensor) -> torch.Tensor:
    """The output for one signal (T, ...) in one pass."""
    y, _ = module(Padded(signal[None]))
    return y.values[0, : int(y.row_lengths()[0])]


def run_in_chunks(module: StreamingModule, x: torch.Tensor, splits: list[int]) -> torch.Tensor:
    """The joined output for (1, T, ...) in chunks that end at `splits`."""
    state, outputs, edges = None, [], [0, *sorted(splits), x.shape[1]]
    for start, end in zip(edges, edges[1:], strict=False):
        y, state = module(Padded(x[:, start:end]), state)
        outputs.append(y.values[0, : int(y.row_lengths()[0])])
    return torch.cat(outputs)


@pytest.mark.parametrize("name", MODULES)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_any_split_into_chunks_equals_one_pass(name: str, data: st.DataObject) -> None:
    module, shape, steps = build(name)
    x = draw(steps, shape)
    splits = data.draw(st.lists(st.integers(0, steps), max_size=6))
    torch.testing.assert_close(run_in_chunks(module, x, splits), run_single(module, x[0]), **DOUBLE)


@pytest.mark.parametrize("size", [1, 7, 97])
@pytest.mark.parametrize("name", MODULES)
def test_equal_chunks_equal_one_pass_in_float32(name: str, size: int) -> None:
    module, shape, steps = build(name, torch.float32)
    x = draw(steps, shape).float()
    size *= 1 if shape else 160
    got = run_in_chunks(module, x, list(range(size, steps, size)))
    torch.testing.assert_close(got, run_single(module, x[0]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "features",
        "features level",
        "embed_speech causal",
        "embed_speech causal_lookahead",
        "embed_speech slice",
    ],
)
def test_single_samples_equal_one_pass(name: str) -> None:
    module, shape, _ = build(name)
    x = draw(1800, shape)
    torch.testing.assert_close(
        run_in_chunks(module, x, list(range(1, x.shape[1]))), run_single(module, x[0]), **DOUBLE
    )


@pytest.mark.parametrize("name", MODULES)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_the_future_does_not_change_the_past(name: str, data: st.DataObject) -> None:
    module, shape, steps = build(name)
    known = data.draw(st.integers(1, steps))
    past, future = draw(known, shape)[0], draw(steps - known, shape)[0]
    before = run_single(module, past)
    torch.testing.assert_close(
        run_single(module, torch.cat([past, future]))[: len(before)], before, **DOUBLE
    )


@pytest.mark.parametrize("name", [*MODULES, *FULL])
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_padded_batch_equals_single_rows(name: str, data: st.DataObject) -> None:
    module, shape, steps = build(name)
    lengths = data.draw(st.lists(st.integers(1, steps), min_size=2, max_size=3))
    x = draw(max(lengths), shape, len(lengths))
    batch, _ = module(Padded(x, torch.tensor(lengths)))
    for row, length in enumerate(lengths):
        expected = run_single(module, x[row, :length])
        assert int(batch.row_lengths()[row]) == len(expected)
        torch.testing.assert_close(batch.values[row, : len(expected)], expected, **DOUBLE)


@pytest.mark.parametrize("name", MODULES)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_rows_of_a_stream_advance_independently(name: str, data: st.DataObject) -> None:
    """Rows of different lengths, then swapped, forked and reset, each equal to a single stream."""
    module, shape, steps = build(name)
    first = data.draw(st.tuples(st.integers(0, steps // 2), st.integers(0, steps // 2)))
    x = draw(steps, shape, 2)
    _, state = module(Padded(x[:, : steps // 2], torch.tensor(first)))
    state = states.select(state, torch.tensor([1, 0, 1, 0]))
    state = states.reset(state, torch.tensor([False, False, True, False]))
    chunk = x[[1, 0, 0, 1], steps // 2 :]
    y, _ = module(Padded(chunk), state)
    streams = [
        torch.cat([x[1, : first[1]], chunk[0]]),
        torch.cat([x[0, : first[0]], chunk[1]]),
        chunk[2],
        torch.cat([x[0, : first[0]], chunk[3]]),
    ]
    for row, signal in enumerate(streams):
        expected, new = run_single(module, signal), int(y.row_lengths()[row])
        torch.testing.assert_close(y.values[row, :new], expected[len(expected) - new :], **DOUBLE)


@pytest.mark.parametrize("name", [f"lm {kind}" for kind in LANGUAGE_MODELS])
def test_states_at_positions_are_those_of_rows_that_end_there(name: str) -> None:
    module, shape, steps = build(name)
    x, following = draw(steps, shape, 3), draw(4, shape)
    _, old = module(Padded(x[:, :6], torch.tensor([6, 0, 3])))
    rows, positions = [2, 0, 0, 2, 0], [5, steps - 6, 0, 1, 5]
    at = Positions(torch.tensor(rows), torch.tensor(positions))
    y, state = module(Padded(x[:, 6:], torch.tensor([steps - 6, 4, 5])), old, return_states_at=at)
    expected, _ = module(Padded(x[:, 6:], torch.tensor([steps - 6, 4, 5])), old)
    torch.testing.assert_close(y.values, expected.values, **DOUBLE)
    continued, _ = module(Padded(following.expand(len(rows), *following.shape[1:])), state)
    for i, (row, step) in enumerate(zip(rows, positions, strict=True)):
        past = x[row, : (6, 0, 3)[row]], x[row, 6 : 6 + step]
        torch.testing.assert_close(
            continued.values[i], run_single(module, torch.cat([*past, following[0]]))[-4:], **DOUBLE
        )


@pytest.mark.parametrize("name", MODULES)
def test_a_state_is_not_changed_and_can_be_saved(name: str, tmp_path: Path) -> None:
    """Continuing from a state does not change it, and a saved state gives the same output."""
    module, shape, steps = build(name)
    x = draw(steps, shape)
    _, state = module(Padded(x[:, : steps // 2]))
    torch.save(state, tmp_path / "state.pt")
    first, _ = module(Padded(x[:, steps // 2 :]), state)
    module(Padded(draw(steps, shape)), state)
    for again in (state, torch.load(tmp_path / "state.pt", weights_only=False)):
        torch.testing.assert_close(
            module(Padded(x[:, steps // 2 :]), again)[0].values, first.values, atol=0, rtol=0
        )


@pytest.mark.parametrize("name", MODULES)
def test_state_size_is_constant_except_for_unbounded_attention(name: str) -> None:
    module, shape, steps = build(name)
    sizes = {states.num_bytes(module(Padded(draw(n, shape)))[1]) for n in (1, steps // 3, steps)}
    assert len(sizes) == (3 if name in ("lm transformer", "lm hybrid") else 1)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_state_keeps_structure_shapes_and_dtypes_under_autocast(name: str) -> None:
    """Of every block, from chunk to chunk, also under bfloat16 and for an empty chunk."""
    module, shape, steps = build(name, torch.float32)
    forms, state = [], None
    for length in (steps, 0, 1, steps):
        with torch.autocast("cpu", torch.bfloat16):
            _, state = module(Padded(draw(length, shape).float()), state)
        form = states.map_state(lambda leaf: torch.empty_like(leaf, device="meta"), state)
        forms.append(repr(form))
    assert len(set(forms)) == 1, forms


@pytest.mark.parametrize("context", ["causal_lookahead", "slice"])
@settings(max_examples=10, deadline=None)
@given(splits=st.lists(st.integers(0, 23), max_size=4))
def test_final_returns_the_frames_of_an_incomplete_slice(context: str, splits: list[int]) -> None:
    encoder, shape, steps = build(f"encoder {context}")
    x, lengths = draw(steps, shape, 2), torch.tensor([steps, 11])
    expected, _ = encoder(Padded(x, lengths), final=True)
    assert expected.row_lengths().tolist() == lengths.tolist()
    outputs, edges, state = [], [0, *sorted(splits), steps], None
    for start, end in zip(edges, edges[1:], strict=False):
        inside = (lengths - start).clamp(0, end - start)
        y, state = encoder(
            Padded(x[:, start:end], inside), state, final=end == steps and start == edges[-2]
        )
        outputs.append(y)
    got = join(outputs)
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(
            got.values[row, :length], expected.values[row, :length], **DOUBLE
        )


def test_slices_are_independent(config: Config) -> None:
    encoder, full = (
        SpeechLM(with_context(config, c).model).double().eval().encoder for c in ("slice", "full")
    )
    full.load_state_dict(encoder.state_dict())
    x = draw(13, (config.encoder.d_model,))
    expected = torch.cat(
        [full(Padded(part))[0].values for part in x.split(encoder.slice_frames, 1)], 1
    )
    torch.testing.assert_close(encoder(Padded(x), final=True)[0].values, expected, **DOUBLE)


def test_bidirectional_mixer_is_a_forward_scan_and_a_backward_scan_per_slice(
    config: Config,
) -> None:
    """The mixer against its definition, slice by slice and step by step."""
    mixer = MambaMixer(8, 4, 4, 2, bidirectional=True).double()
    x = draw(11, (8,))
    inner, gate = mixer.in_proj(x).chunk(2, -1)
    forward, _ = mixer.ssm(Padded(inner))
    backward = [mixer.ssm_reverse(Padded(part.flip(1)))[0].flip(1) for part in inner.split(4, 1)]
    y = (forward + torch.cat(backward, 1)) / 2 * torch.nn.functional.silu(gate)
    torch.testing.assert_close(
        mixer(Padded(x), slice_frames=4)[0].values, mixer.out_proj(y), **DOUBLE
    )


def test_training_draws_a_slice_length_that_a_stream_keeps(config: Config) -> None:
    config = override(
        config, ["encoder.context=causal_lookahead", "encoder.train_slice_ms=[200,1000]"]
    )
    encoder = SpeechLM(config.model).encoder.train()
    x = Padded(torch.randn(1, 3, config.encoder.d_model))
    states_drawn = [encoder(x)[1] for _ in range(60)]
    assert {state.pending.tail.shape[1] + 1 for state in states_drawn} == {5, 10, 15, 20, 25}
    assert all(
        encoder(x, s)[1].pending.tail.shape == s.pending.tail.shape for s in states_drawn[:5]
    )
    assert encoder.eval()(x)[1].pending.tail.shape[1] + 1 == encoder.slice_frames


def test_full_context_rejects_a_state(config: Config) -> None:
    encoder = SpeechLM(with_context(config, "full").model).encoder
    with pytest.raises(ValueError, match="context=causal"):
        encoder(Padded(torch.zeros(1, 4, config.encoder.d_model)), ())


def test_stream_windows_have_whole_hops() -> None:
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


def with_context(config: Config, context: str) -> Config:
    return override(config, [f"encoder.context={context}", "encoder.slice_ms=200"])
