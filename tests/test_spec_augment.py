"""Masks and noise on features: the asked-for share, in blocks, in training alone."""

import pytest
import torch

from configs.loading import load_config, override
from configs.schema import Config
from duplexmamba.models.encoders import build_encoder_parts
from duplexmamba.models.spec_augment import mask_blocks, perturb
from duplexmamba.streaming.padded import Padded
from tests.conftest import SMALL_SIZES, TINY


def runs(masked: torch.Tensor) -> list[int]:
    """Lengths of the runs of True."""
    text = "".join("x" if value else " " for value in masked.tolist())
    return [len(run) for run in text.split()]


def test_frames_and_bands_are_masked_in_their_share() -> None:
    torch.manual_seed(0)
    x = mask_blocks(Padded(torch.ones(200, 600, 40)), 0.2, longest=40)
    masked = x.values == 0
    frames, bands = masked.all(2), masked.all(1)
    # Overlaps lower both shares a little.
    assert 0.14 < frames.float().mean() < 0.2 and 0.14 < bands.float().mean() < 0.21
    assert torch.equal(masked, frames[:, :, None] | bands[:, None, :])
    assert all(len(runs(row)) <= 2 for row in bands)
    assert max(len(runs(row)) for row in frames) <= 600 * 0.4 / 40
    assert not torch.equal(frames[0], frames[1])


def test_short_rows_are_masked_within_their_length() -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([600, 100, 5])
    x = mask_blocks(Padded(torch.ones(3, 600, 40), lengths), 0.2, longest=40)
    frames = (x.values == 0).all(2)
    assert frames[0].sum() > 20 and not frames[1, 100:].any() and not frames[2].any()


CONFIG = load_config([*TINY, *SMALL_SIZES])
PRETRAINED = load_config(["configs/preset/tiny_pretrained.yaml", "configs/stage/asr.yaml"])


def frontend_of(config: Config, *overrides: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_encoder_parts(override(config, list(overrides)).model).frontend


@pytest.mark.parametrize("setting", ["masked_share", "noise_std"])
@pytest.mark.parametrize("value", [0.0, 0.3])
@pytest.mark.parametrize(("config", "width"), [(CONFIG, 20), (PRETRAINED, 288)])
def test_masks_and_noise_belong_to_training(
    config: Config, width: int, value: float, setting: str
) -> None:
    frontend = frontend_of(
        config, "frontend.masked_share=0", "frontend.noise_std=0", f"frontend.{setting}={value}"
    )
    x = Padded(torch.randn(2, 400, width))
    expected, _ = frontend.eval()(x)
    torch.manual_seed(1)
    again, _ = frontend.train()(x)
    drawn = torch.rand(())
    torch.manual_seed(1)
    assert torch.equal(again.values, expected.values) == (value == 0)
    assert (drawn == torch.rand(())) == (value == 0), "without them nothing is drawn"


def test_noise_has_its_deviation() -> None:
    config = override(CONFIG, ["frontend.noise_std=0.3"]).frontend
    noise = perturb(Padded(torch.zeros(20, 100, 40)), config, frame_ms=10).values
    assert noise.std() == pytest.approx(0.3, rel=0.02) and abs(noise.mean()) < 0.01


def test_the_longest_mask_is_a_time() -> None:
    config = override(CONFIG, ["frontend.masked_share=0.2"]).frontend
    torch.manual_seed(0)
    x = perturb(Padded(torch.ones(100, 100, 40)), config, frame_ms=100)
    lengths = [length for row in (x.values == 0).all(2) for length in runs(row)]
    # a few masks touch each other
    assert torch.tensor(lengths, dtype=torch.float).quantile(0.9) <= 4


def test_a_negative_deviation_is_refused() -> None:
    with pytest.raises(ValueError, match="frontend.noise_std=-1: .*cannot be negative"):
        override(CONFIG, ["frontend.noise_std=-1"])
