"""Augmentation: what is asked for is what is heard."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st

from configs.loading import base_values
from configs.schema import AugmentConfig, EffectsConfig
from datamodules.synthetic.augment import FLOOR_DB, augment, condition, resample

RATE_HZ = 16_000
NO_EFFECTS = EffectsConfig(**base_values()["data"]["augment"]["effects"])
CLEAN = AugmentConfig(
    speeds=[1.0],
    level_db=[-20, -20],
    noise_share=0.0,
    snr_db=[10, 10],
    noise_path=None,
    rir_path=None,
    rir_share=0.0,
    pad_s=[0.1, 0.3],
    effects=NO_EFFECTS,
)
NOISY = dataclasses.replace(CLEAN, noise_share=1.0)


def rms_db(samples):
    return 20 * np.log10(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def tone(seconds, hz=440.0):
    return (
        np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE_HZ)) / RATE_HZ).astype(np.float32)
        * 0.3
    )


def test_level_and_pads_without_noise():
    heard = condition(tone(2), np.random.default_rng(0), CLEAN, RATE_HZ)
    voiced = np.flatnonzero(np.abs(heard) > 0.01)
    first, last = voiced[0], voiced[-1]
    assert rms_db(heard[first : last + 1]) == pytest.approx(-20, abs=0.2)
    for pad in (heard[: first - 2], heard[last + 2 :]):
        assert 0.09 < len(pad) / RATE_HZ < 0.31
        assert rms_db(pad) == pytest.approx(FLOOR_DB, abs=3)


@pytest.mark.parametrize("seed", range(8))
def test_noise_lies_as_far_below_speech_as_asked(seed):
    quiet = condition(
        np.zeros(2 * RATE_HZ, np.float32), np.random.default_rng(seed), NOISY, RATE_HZ
    )
    loud = condition(tone(2), np.random.default_rng(seed), NOISY, RATE_HZ)
    assert rms_db(quiet) == pytest.approx(-30, abs=0.1)
    speech = np.trim_zeros(np.where(np.abs(loud - quiet) > 1e-6, loud - quiet, 0))
    assert rms_db(speech) == pytest.approx(-20, abs=0.2)
    assert rms_db(quiet[:1_600]) > FLOOR_DB + 10, "the noise covers the pads too"


def test_share_of_noisy_utterances():
    half = dataclasses.replace(CLEAN, noise_share=0.5, pad_s=[0.1, 0.1])
    rng, silence = np.random.default_rng(1), np.zeros(1_600, np.float32)
    noisy = [rms_db(condition(silence, rng, half, RATE_HZ)) > -50 for _ in range(400)]
    assert 0.4 < np.mean(noisy) < 0.6


@given(
    size=st.integers(1, 9_000),
    level=st.floats(-60, 10),
    snr=st.floats(-10, 40),
    seed=st.integers(0, 2**32),
)
def test_never_beyond_full_scale_and_always_float32(size, level, snr, seed):
    config = dataclasses.replace(
        CLEAN,
        speeds=[0.9, 1.1],
        level_db=[level, level],
        noise_share=0.5,
        snr_db=[snr, snr],
        pad_s=[0, 0.1],
    )
    rng = np.random.default_rng(seed)
    heard = augment(rng.uniform(-1, 1, size).astype(np.float32), rng, config, RATE_HZ)
    assert heard.dtype == np.float32
    assert np.isfinite(heard).all()
    assert np.abs(heard).max(initial=0) <= 1


@pytest.mark.parametrize("speed", [0.9, 1.0, 1.1])
def test_speed_changes_length_and_pitch_together(speed):
    config = dataclasses.replace(CLEAN, speeds=[speed], pad_s=[0, 0])
    heard = augment(tone(2), np.random.default_rng(0), config, RATE_HZ)
    assert len(heard) == pytest.approx(2 * RATE_HZ / speed, abs=2)
    peak_hz = np.abs(np.fft.rfft(heard)).argmax() * RATE_HZ / len(heard)
    assert peak_hz == pytest.approx(440 * speed, abs=1)


def test_conditions_of_evaluation_keep_the_pace():
    config = dataclasses.replace(CLEAN, speeds=[2.0], noise_share=0.5, pad_s=[0, 0])
    assert len(condition(tone(1), np.random.default_rng(0), config, RATE_HZ)) == RATE_HZ


def test_resampling_to_the_same_rate_is_free():
    samples = tone(1)
    assert resample(samples, RATE_HZ, RATE_HZ) is samples


def test_the_generator_decides_everything():
    first, second, other = (
        augment(tone(1), np.random.default_rng(seed), NOISY, RATE_HZ) for seed in (5, 5, 6)
    )
    assert first.tobytes() == second.tobytes()
    assert first.tobytes() != other.tobytes()


def test_recorded_noise_lies_as_far_below_speech_as_asked(tmp_path: Path) -> None:
    sf.write(tmp_path / "hum.wav", tone(0.5, 50.0), RATE_HZ)
    config = dataclasses.replace(NOISY, noise_path=str(tmp_path))
    heard = condition(np.zeros(2 * RATE_HZ, np.float32), np.random.default_rng(1), config, RATE_HZ)
    assert rms_db(heard) == pytest.approx(-30, abs=0.1)
    spectrum = np.abs(np.fft.rfft(heard)) ** 2
    at_50_hz = np.abs(np.fft.rfftfreq(len(heard), 1 / RATE_HZ) - 50) < 5
    assert spectrum[at_50_hz].sum() > 0.9 * spectrum.sum()


def test_a_room_echoes_and_keeps_the_time(tmp_path: Path) -> None:
    response = np.zeros(RATE_HZ, np.float32)
    response[[400, 4400]] = 0.8, 0.4  # the direct sound and one echo, 0.25 s later
    sf.write(tmp_path / "room.wav", response, RATE_HZ)
    config = dataclasses.replace(CLEAN, rir_path=str(tmp_path), rir_share=1.0, pad_s=[0, 0])
    click = np.zeros(RATE_HZ, np.float32)
    click[100] = 0.5
    heard = condition(click, np.random.default_rng(1), config, RATE_HZ)
    first, second = np.sort(np.argsort(np.abs(heard))[-2:])
    assert (first, second) == (100, 4100) and heard[4100] / heard[100] == pytest.approx(
        0.5, abs=0.01
    )


def test_a_folder_without_noise_is_named(tmp_path: Path) -> None:
    config = dataclasses.replace(NOISY, noise_path=str(tmp_path))
    with pytest.raises(ValueError, match="data.augment.noise_path=.* holds no sound files"):
        condition(tone(1), np.random.default_rng(0), config, RATE_HZ)
