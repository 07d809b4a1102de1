"""Any split of the input gives the whole's output, in every room on the road, alone and in ragged batches."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duplexmamba import state as states
from duplexmamba.config import Config
from duplexmamba.connector import StackConnector
from duplexmamba.encoder import ConMambaEncoder, Frontend
from duplexmamba.features import LogMel
from duplexmamba.lm import MambaLM
from duplexmamba.mamba import MambaMixer
from duplexmamba.model import SpeechLM
from duplexmamba.padded import Padded, carry, join

Room = Callable[..., tuple[Padded, object]]


def rooms(config: Config) -> dict[str, tuple[Room, tuple[int, ...], int]]:
    """Name -> (forward, shape of one step, steps that make a test input)."""
    d, mels, torch_dtype = config.encoder.d_model, config.features.num_mels, torch.float64
    model = SpeechLM(config).to(torch_dtype).eval()
    return {
        "features": (LogMel(config.features).to(torch_dtype), (), 2000),
        "frontend": (Frontend(config.frontend, mels, d).to(torch_dtype), (mels,), 37),
        "mixer": (MambaMixer(d, 4, 4, 2).to(torch_dtype), (d,), 23),
        "encoder": (ConMambaEncoder(config.encoder).to(torch_dtype).eval(), (d,), 23),
        "connector": (StackConnector(config.connector, d, 16).to(torch_dtype), (d,), 23),
        "lm": (MambaLM(config.lm).to(torch_dtype), (config.lm.d_model,), 23),
        "listen": (model.listen, (), 9000),
    }


NAMES = ("features", "frontend", "mixer", "encoder", "connector", "lm", "listen")


def run_in_chunks(room: Room, x: torch.Tensor, cuts: list[int]) -> torch.Tensor:
    """(1, T, ...) cut at `cuts`, one output."""
    state, outputs, edges = None, [], [0, *sorted(cuts), x.shape[1]]
    for start, end in zip(edges, edges[1:], strict=False):
        y, state = room(Padded(x[:, start:end]), state)
        outputs.append(y.values[:, : int(y.row_lengths()[0])])
    return torch.cat(outputs, 1)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_any_split_into_chunks_gives_the_whole(name: str, data: st.DataObject) -> None:
    config = small_config()
    room, shape, steps = rooms(config)[name]
    x = torch.randn(1, steps, *shape, dtype=torch.float64) * 0.1
    cuts = data.draw(st.lists(st.integers(0, steps), max_size=6))
    whole, _ = room(Padded(x))
    torch.testing.assert_close(
        run_in_chunks(room, x, cuts), whole.values[:, : int(whole.row_lengths()[0])], atol=1e-10, rtol=0
    )


@pytest.mark.parametrize("name", ["frontend", "mixer", "encoder", "connector", "lm"])
def test_single_steps_give_the_whole_in_float32(name: str, config: Config) -> None:
    room, shape, steps = rooms(config)[name]
    room = room.float()
    x = torch.randn(1, steps, *shape)
    whole, _ = room(Padded(x))
    torch.testing.assert_close(run_in_chunks(room, x, list(range(steps))), whole.values, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_future_does_not_change_the_past(name: str, config: Config) -> None:
    room, shape, steps = rooms(config)[name]
    x = torch.randn(1, steps, *shape, dtype=torch.float64) * 0.1
    other = x.clone()
    other[:, steps // 2 :] = torch.randn_like(other[:, steps // 2 :])
    before, _ = room(Padded(x[:, : steps // 2]))
    known = int(before.row_lengths()[0])
    for signal in (x, other):
        after, _ = room(Padded(signal))
        torch.testing.assert_close(after.values[:, :known], before.values[:, :known], atol=1e-10, rtol=0)


@pytest.mark.parametrize("context", ["carried", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_a_padded_batch_equals_each_row_alone(name: str, context: str, config: Config) -> None:
    room, shape, steps = rooms(replaced(config, context))[name]
    x = torch.randn(3, steps, *shape, dtype=torch.float64) * 0.1
    lengths = torch.tensor([steps, steps // 2, steps // 3])
    batch, _ = room(Padded(x, lengths))
    for row, length in enumerate(lengths.tolist()):
        alone, _ = room(Padded(x[row : row + 1, :length]))
        assert int(batch.row_lengths()[row]) == int(alone.row_lengths()[0])
        known = int(alone.row_lengths()[0])
        torch.testing.assert_close(batch.values[row, :known], alone.values[0, :known], atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_a_ragged_stream_keep_their_own_pace(name: str, config: Config) -> None:
    """Two chunks whose rows have different lengths, then select and reset: every row as if it were alone."""
    room, shape, steps = rooms(config)[name]
    x = torch.randn(2, steps, *shape, dtype=torch.float64) * 0.1
    first = torch.tensor([steps // 2, steps // 3])
    _, state = room(Padded(x[:, : steps // 2], first))
    state = states.select(state, torch.tensor([1, 0, 1]))
    state = states.reset(state, torch.tensor([False, False, True]))
    chunk = x[[1, 0, 0], steps // 2 :]
    y, _ = room(Padded(chunk), state)
    alone = [torch.cat([x[1, : first[1]], chunk[0]]), torch.cat([x[0, : first[0]], chunk[1]]), chunk[2]]
    for row, signal in enumerate(alone):
        whole, _ = room(Padded(signal[None]))
        new = int(y.row_lengths()[row])
        end = int(whole.row_lengths()[0])
        torch.testing.assert_close(y.values[row, :new], whole.values[0, end - new : end], atol=1e-10, rtol=0)


def test_a_fork_leaves_no_trace(config: Config) -> None:
    model = SpeechLM(config).eval()
    before, state = model.lm(Padded(torch.randn(1, 5, config.lm.d_model)))
    kept = states.clone(state)
    model.lm(Padded(torch.randn(1, 9, config.lm.d_model)), state)
    again, other = states.map_state(lambda t: t, state), kept
    x = Padded(torch.randn(1, 3, config.lm.d_model))
    torch.testing.assert_close(model.lm(x, again)[0].values, model.lm(x, other)[0].values, atol=0, rtol=0)


def test_state_survives_the_disk(config: Config, tmp_path) -> None:
    model = SpeechLM(config).eval()
    samples = torch.randn(1, 8000) * 0.1
    _, state = model.listen(Padded(samples[:, :5000]))
    torch.save(state, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=False)
    expected, _ = model.listen(Padded(samples[:, 5000:]), state)
    got, _ = model.listen(Padded(samples[:, 5000:]), loaded)
    torch.testing.assert_close(got.values, expected.values, atol=0, rtol=0)


def test_state_has_the_same_size_after_any_past(config: Config) -> None:
    model = SpeechLM(config).eval()
    sizes = {states.num_bytes(model.listen(Padded(torch.zeros(1, n)))[1]) for n in (10, 3200, 40000)}
    assert len(sizes) == 1


def test_full_context_refuses_a_state(config: Config) -> None:
    encoder = ConMambaEncoder(replaced(config, "full").encoder)
    with pytest.raises(ValueError, match="context=carried"):
        encoder(Padded(torch.zeros(1, 4, config.encoder.d_model)), ())


def test_carry_cuts_whole_hops() -> None:
    x = torch.arange(1.0, 12.0)[None]
    window, state = carry(Padded(x[:, :7]), None, history=2, hop=3)
    assert window.values.tolist() == [[0, 0, 1, 2, 3, 4, 5, 6]] and window.lengths.tolist() == [2]
    window, state = carry(Padded(x[:, 7:]), state, history=2, hop=3)
    assert window.values.tolist() == [[5, 6, 7, 8, 9]] and state.pending.tolist() == [2]


def test_join_leaves_no_gaps() -> None:
    a = Padded(torch.tensor([[1.0, 2.0], [3.0, 9.0]])[..., None], torch.tensor([2, 1]))
    b = Padded(torch.tensor([[4.0], [5.0]])[..., None])
    joined = join([a, b])
    assert joined.lengths.tolist() == [3, 2]
    assert joined.values[0, :, 0].tolist() == [1, 2, 4] and joined.values[1, :2, 0].tolist() == [3, 5]


def small_config() -> Config:
    from tests.conftest import SMALL_SIZES, TINY, load_config

    return load_config([*TINY, *SMALL_SIZES])


def replaced(config: Config, context: str) -> Config:
    from duplexmamba.config import override

    return override(config, [f"encoder.context={context}"])
