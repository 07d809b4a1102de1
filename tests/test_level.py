"""Causal level control: features that do not depend on the gain and the offset of a microphone."""

import numpy as np
import pytest
import torch

from configs.loading import load_config, override
from duplexmamba.models.features import FLOOR, LogMel
from duplexmamba.models.level import MAX_GAIN_DB, TARGET_DB, LevelControl
from duplexmamba.streaming.padded import Padded
from tests.conftest import TINY

CONFIG = override(load_config(TINY), ["features.level=causal"]).features
RATE_HZ, HOP = CONFIG.sample_rate_hz, CONFIG.hop_samples
SETTLED = 30
"""Frames within which the level of the first syllable is known."""


def speech(seconds: float, level_db: float, seed: int = 0) -> torch.Tensor:
    """Syllables of a voice, of that root mean square."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    pitch = 2 * np.pi * 130 * time_s
    voice = sum(np.sin(k * pitch + rng.uniform(0, 6)) / k for k in range(1, 30))
    syllables = np.clip(np.sin(2 * np.pi * 4 * time_s + 0.3), 0, 1) * (1 + 0.5 * np.sin(3 * time_s))
    signal = voice * syllables
    signal *= 10 ** (level_db / 20) / np.sqrt(np.mean(signal**2))
    return torch.from_numpy(signal)


def log_mel(samples: torch.Tensor) -> torch.Tensor:
    """(T, M) frames before normalisation."""
    frames, _ = LogMel(CONFIG).double().log_mel(Padded(samples.double()[None]))
    return frames.values[0]


def noise(seconds: float, level_db: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    size = int(seconds * RATE_HZ)
    return 10 ** (level_db / 20) * torch.randn(size, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("level_db", [-50, -40, -30, -10])
def test_speech_of_any_level_has_the_same_features(level_db: float) -> None:
    expected, heard = (log_mel(speech(2, db) + noise(2, db - 40)) for db in (-20, level_db))
    difference = (heard - expected)[SETTLED:].abs()
    assert float(difference.mean()) < 0.2
    # Without the control, a level of 30 dB less is a difference of 6.9.
    assert float(difference.quantile(0.99)) < 0.5


def test_the_loudest_frames_reach_the_target() -> None:
    for level_db in (-50, -25, -10):
        frames = log_mel(speech(2, level_db))[SETTLED:]
        power = frames.exp().sum(1) / LevelControl(CONFIG, LogMel(CONFIG).filters).full_scale_power
        assert 10 * float(power.max().log10()) == pytest.approx(TARGET_DB, abs=1.5)


@pytest.mark.parametrize("offset", [0.01, -0.3])
@pytest.mark.parametrize("level_db", [-20, -45])
def test_an_offset_changes_nothing(offset: float, level_db: float) -> None:
    samples = torch.cat([noise(0.3, -70), speech(2, level_db) + noise(2, -70)])
    difference = (log_mel(samples + offset) - log_mel(samples))[SETTLED:].abs()
    assert float(difference.max()) < 0.01


def test_silence_is_amplified_by_the_largest_gain_at_most() -> None:
    quiet = noise(3, -80)
    plain = LogMel(override(load_config(TINY), []).features).double()
    without, _ = plain.log_mel(Padded(quiet[None]))
    gain = (log_mel(quiet)[SETTLED:].exp() - FLOOR) / (without.values[0, SETTLED:].exp() - FLOOR)
    assert torch.allclose(10 * gain[:, 5:].log10(), torch.tensor(MAX_GAIN_DB).double(), atol=0.01)
    silence = log_mel(torch.zeros(RATE_HZ))
    assert torch.allclose(silence, torch.full_like(silence, np.log(FLOOR)))


def test_a_click_leaves_no_trace() -> None:
    samples = speech(2, -40) + noise(2, -80)
    clicked = samples.clone()
    position = RATE_HZ + 40
    clicked[position : position + 30] += 0.9
    after = position // HOP + 5
    difference = log_mel(clicked)[after:] - log_mel(samples)[after:]
    assert float(difference.abs().max()) < 0.01


def test_a_person_in_the_background_stays_quieter() -> None:
    """As the policy needs it: what is 20 dB quieter is still 14 dB quieter after 3 s."""
    user, other = speech(2, -25), speech(3, -45)
    frames = log_mel(torch.cat([user, other, noise(0.1, -80)]) + noise(5.1, -75))
    loud = frames[SETTLED:200].exp().sum(1).max().log10()
    background = frames[400:500].exp().sum(1).max().log10()
    assert 10 * float(loud - background) > 14


def test_a_user_who_moves_away_is_brought_back() -> None:
    frames = log_mel(torch.cat([speech(2, -20), speech(20, -40)]) + noise(22, -80))
    near, far = (
        frames[span].exp().sum(1).max().log10() for span in (slice(30, 200), slice(-200, -1))
    )
    assert 10 * float(near - far) < 4


def test_a_pause_does_not_change_the_gain() -> None:
    first, pause, second = speech(2, -40), torch.zeros(10 * RATE_HZ), speech(2, -40, seed=1)
    paused = log_mel(torch.cat([first, pause, second]) + noise(14, -75))[-190:]
    direct = log_mel(torch.cat([first, second]) + noise(4, -75))[-190:]
    assert float((paused - direct).median().abs()) < 0.1


def test_level_none_is_the_plain_log_mel() -> None:
    assert LogMel(load_config(TINY).features).level is None
    _, state = LogMel(load_config(TINY).features).log_mel(Padded(torch.zeros(1, 800)))
    assert state.level is None
