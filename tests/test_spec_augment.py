"""SpecAugment: the asked-for share, in blocks, in training alone."""

import pytest
import torch

from configs.loading import load_config, override
from duplexmamba.models.spec_augment import MAX_MASKED_FRAMES, mask_blocks
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.streaming.padded import Padded
from tests.conftest import SMALL_SIZES, TINY


def runs(masked: torch.Tensor) -> list[int]:
    """Lengths of the runs of True."""
    text = "".join("x" if value else " " for value in masked.tolist())
    return [len(run) for run in text.split()]


def test_frames_and_bands_are_masked_in_their_share() -> None:
    torch.manual_seed(0)
    x = mask_blocks(Padded(torch.ones(200, 600, 40)), 0.2)
    masked = x.values == 0
    frames, bands = masked.all(2), masked.all(1)
    # Overlaps lower both shares a little.
    assert 0.14 < frames.float().mean() < 0.2 and 0.14 < bands.float().mean() < 0.21
    assert torch.equal(masked, frames[:, :, None] | bands[:, None, :])
    assert all(len(runs(row)) <= 2 for row in bands)
    assert max(len(runs(row)) for row in frames) <= 600 * 0.4 / MAX_MASKED_FRAMES
    assert not torch.equal(frames[0], frames[1])


def test_short_rows_are_masked_within_their_length() -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([600, 100, 5])
    x = mask_blocks(Padded(torch.ones(3, 600, 40), lengths), 0.2)
    frames = (x.values == 0).all(2)
    assert frames[0].sum() > 20 and not frames[1, 100:].any() and not frames[2].any()


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_masks_belong_to_training(share: float) -> None:
    config = load_config([*TINY, *SMALL_SIZES])
    frontend = SpeechLM(override(config, [f"frontend.masked_share={share}"]).model).frontend
    x = Padded(torch.randn(2, 400, 20))
    expected, _ = frontend.eval()(x)
    torch.manual_seed(1)
    again, _ = frontend.train()(x)
    drawn = torch.rand(())
    torch.manual_seed(1)
    assert torch.equal(again.values, expected.values) == (share == 0)
    assert (drawn == torch.rand(())) == (share == 0), "without masks nothing is drawn"
