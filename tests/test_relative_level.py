"""Relative levels: a literal recursion, chunks, padded rows, clicks and changes of the microphone."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from duplexmamba.models.relative_level import SCALE_DB, START_DB, RelativeLevel
from duplexmamba.streaming.padded import Padded

FRAME_MS = 24.0
WIDTH = 3


def frames_of(levels_db: Tensor) -> Padded:
    """Levels (B, T) in dB of full scale as the last channel of frames."""
    x = torch.randn(*levels_db.shape, WIDTH)
    x[..., -1] = (levels_db - START_DB) / SCALE_DB
    return Padded(x)


def relative_db(levels_db: Tensor) -> Tensor:
    """Relative levels (B, T) of levels (B, T), both in dB."""
    relative, _ = RelativeLevel(FRAME_MS)(frames_of(levels_db), None)
    return relative.values[..., -1] * SCALE_DB


def literal(levels_db: list[float]) -> list[float]:
    """The recursion frame by frame."""
    module = RelativeLevel(FRAME_MS)
    recent = [START_DB] * module.history
    loudest = START_DB
    result = []
    for level in levels_db:
        recent.append(level)
        sustained = min(recent[-module.history - 1 :])
        loudest = max(sustained, loudest - module.fall * SCALE_DB, START_DB)
        result.append(level - loudest)
    return result


LEVELS = st.lists(st.floats(-80, 0), min_size=1, max_size=40)


@settings(max_examples=30, deadline=None)
@given(LEVELS)
def test_all_frames_at_once_equal_the_recursion(levels_db: list[float]) -> None:
    expected = torch.tensor([literal(levels_db)])
    torch.testing.assert_close(relative_db(torch.tensor([levels_db])), expected, atol=1e-3, rtol=0)


@settings(max_examples=30, deadline=None)
@given(LEVELS, st.lists(st.integers(0, 40), max_size=4))
def test_chunks_equal_the_whole(levels_db: list[float], splits: list[int]) -> None:
    module = RelativeLevel(FRAME_MS)
    x = frames_of(torch.tensor([levels_db])).values
    whole, _ = module(Padded(x), None)
    num_frames = len(levels_db)
    edges = [0, *sorted(min(split, num_frames) for split in splits), num_frames]
    chunks = []
    state = None
    for start, end in zip(edges, edges[1:], strict=False):
        chunk, state = module(Padded(x[:, start:end]), state)
        chunks.append(chunk.values)
    torch.testing.assert_close(torch.cat(chunks, 1), whole.values, atol=1e-5, rtol=0)


def test_the_state_of_a_padded_row_is_that_of_its_own_end() -> None:
    module = RelativeLevel(FRAME_MS)
    x = frames_of(torch.full((2, 30), -10.0)).values
    x[0, :20, -1] = 1
    lengths = torch.tensor([20, 30])
    _, padded = module(Padded(x, lengths), None)
    _, alone = module(Padded(x[:1, :20]), None)
    assert padded.loudest[0] == alone.loudest[0] == 1


def test_the_other_channels_stay_as_they_are() -> None:
    x = frames_of(torch.full((1, 10), -30.0))
    relative, _ = RelativeLevel(FRAME_MS)(x, None)
    assert torch.equal(relative.values[..., :-1], x.values[..., :-1])


def test_a_click_does_not_become_the_loudest_speech() -> None:
    levels_db = torch.full((1, 60), -30.0)
    levels_db[0, 20:22] = 0.0
    assert (relative_db(levels_db)[0, 22:].abs() < 0.1).all()


def test_a_person_further_away_is_as_much_softer_with_any_microphone() -> None:
    user_and_other = torch.cat([torch.full((1, 40), -20.0), torch.full((1, 40), -40.0)], 1)
    loud = relative_db(user_and_other)[0, 45:]
    soft = relative_db(user_and_other - 10)[0, 45:]
    torch.testing.assert_close(loud, soft, atol=1e-3, rtol=0)
    assert (loud < -19).all() and (loud > -20.1).all()


def test_a_loud_sound_is_forgotten() -> None:
    second = round(1000 / FRAME_MS)
    levels_db = torch.cat([torch.full((1, 10), 0.0), torch.full((1, 25 * second), -20.0)], 1)
    relative = relative_db(levels_db)[0]
    assert relative[20] < -19 and relative[-1].abs() < 0.1
