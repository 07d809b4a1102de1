"""Effects of voices, rooms, microphones and lines: each does what it says, and moves nothing in time."""

import dataclasses
from unittest import mock

import numpy as np
import pytest

from configs.loading import load_config, override
from configs.schema import EffectsConfig
from datamodules.dialogue.dialogues import open_dialogues
from datamodules.synthetic.augment import augment
from datamodules.synthetic.effects import EFFECTS, apply_effects, line
from datamodules.synthetic.effects.line import CODECS
from datamodules.synthetic.effects.spectrum import speech_db
from datamodules.synthetic.effects.voice import move_formants
from datamodules.synthetic.speech import SyntheticSpeech
from tests.conftest import TINY

RATE_HZ = 16_000
CONFIG = load_config(TINY)
NONE = CONFIG.data.augment.effects
ALL = EffectsConfig(**dict.fromkeys(EFFECTS, 1.0))


def voice(seconds: float = 1.0, formant_hz: float = 1000.0, pitch_hz: float = 110.0) -> np.ndarray:
    """Harmonics with one formant, in bursts of 0.2 s."""
    time_s = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    samples = np.zeros(len(time_s))
    for hz in np.arange(pitch_hz, 0.48 * RATE_HZ, pitch_hz):
        strength = 0.01 + np.exp(-0.5 * ((hz - formant_hz) / 150) ** 2)
        samples += strength * np.sin(2 * np.pi * hz * time_s + hz)
    bursts = np.sin(2 * np.pi * 2.5 * time_s) > 0
    return (0.3 * samples * bursts / np.abs(samples).max()).astype(np.float32)


def changed(name: str, samples: np.ndarray, seed: int = 0) -> np.ndarray:
    return EFFECTS[name](samples, np.random.default_rng(seed), RATE_HZ)


def power(samples: np.ndarray) -> np.ndarray:
    """Power of each bin of the whole signal, (F,)."""
    return np.abs(np.fft.rfft(samples.astype(np.float64))) ** 2


def test_each_effect_has_a_share() -> None:
    assert [field.name for field in dataclasses.fields(EffectsConfig)] == list(EFFECTS)
    assert set(dataclasses.asdict(NONE).values()) == {0.0}


@pytest.mark.parametrize("name", EFFECTS)
def test_an_effect_keeps_length_and_time(name: str) -> None:
    samples = voice()
    for seed in range(4):
        heard = changed(name, samples, seed)
        assert heard.shape == samples.shape
        assert np.isfinite(heard).all() and not np.array_equal(heard, samples)
        centred = heard - heard.mean()
        if name == "room":
            continue  # a strong echo is as loud as the direct sound; the next test looks at a click
        # The correlation is largest without a shift.
        product = np.fft.rfft(centred, 2 * len(samples)) * np.conj(
            np.fft.rfft(samples, 2 * len(samples))
        )
        assert np.abs(np.fft.irfft(product)).argmax() == 0
    assert np.array_equal(changed(name, samples, 3), heard), "the generator decides everything"


@pytest.mark.parametrize("name", EFFECTS)
@pytest.mark.parametrize("size", [1, 2, 333, 1601])
def test_short_and_silent_signals(name: str, size: int) -> None:
    for samples in (np.zeros(size, np.float32), voice()[100 : 100 + size]):
        heard = changed(name, samples)
        assert heard.shape == (size,) and np.isfinite(heard).all()


@pytest.mark.parametrize("factor", [0.85, 1.18])
def test_formants_move_and_the_pitch_stays(factor: float) -> None:
    rng = mock.Mock(uniform=lambda low, high: factor)
    samples = voice()
    heard = move_formants(samples, rng, RATE_HZ)
    bins_hz = np.fft.rfftfreq(len(samples), 1 / RATE_HZ)
    near = (bins_hz > 400) & (bins_hz < 1800)

    def formant_hz(signal: np.ndarray) -> float:
        return float(np.average(bins_hz[near], weights=power(signal)[near]))

    assert formant_hz(heard) / formant_hz(samples) == pytest.approx(factor, abs=0.06)
    harmonics = power(heard)[np.round(np.arange(440, 1800, 110)).astype(int)].sum()
    assert harmonics > 5 * power(heard)[np.round(np.arange(495, 1800, 110)).astype(int)].sum()


def test_a_room_decays_after_the_direct_sound() -> None:
    click = np.zeros(RATE_HZ, np.float32)
    click[4000] = 0.5
    for seed in range(5):
        heard = changed("room", click, seed)
        assert np.abs(heard).argmax() == 4000 and np.abs(heard[:3950]).max() < 1e-3
        early, late = (
            np.square(heard[4050:][part]).sum() for part in (slice(1600), slice(9700, None))
        )
        assert early > 1e-4 and late < 1e-5 * early


def test_a_microphone_has_a_smooth_response() -> None:
    noise = np.random.default_rng(0).standard_normal(RATE_HZ).astype(np.float32)
    spreads_db = []
    for seed in range(5):
        gain = power(changed("equaliser", noise, seed)) / power(noise)
        bands_db = 10 * np.log10(gain[101:].reshape(100, -1).mean(1))
        assert np.abs(np.diff(bands_db)).max() < 5 and np.abs(bands_db).max() < 40
        spreads_db.append(np.ptp(bands_db))
    assert max(spreads_db) > 6


def test_hum_is_that_of_the_mains() -> None:
    for seed in range(4):
        hum = changed("hum", voice(), seed) - voice()
        assert -41 < speech_db(hum, RATE_HZ) - speech_db(voice(), RATE_HZ) < -9
        assert power(hum)[:620].sum() > 0.99 * power(hum).sum()
        overtones = np.arange(1, 11)[:, None] * [50, 60]
        near = (overtones[..., None] + np.arange(-2, 3)).flatten()
        assert power(hum)[np.unique(near)].sum() > 0.95 * power(hum).sum()


def test_clipping_changes_the_peaks_alone() -> None:
    samples, heard = voice(), changed("clipping", voice())
    limit = np.abs(heard).max()
    assert 0.3 < limit / np.abs(samples).max() < 0.8
    assert np.array_equal(heard[np.abs(samples) < limit], samples[np.abs(samples) < limit])


def test_bands_end_where_those_of_telephones_and_radios_do() -> None:
    noise = np.random.default_rng(0).standard_normal(RATE_HZ).astype(np.float32)
    tops_hz, telephones = [], 0
    for seed in range(12):
        share = power(changed("band_limit", noise, seed)) / power(noise)
        tops_hz.append(int(np.flatnonzero(share > 0.25)[-1]))
        telephones += share[50:140].max() < 0.01
        assert share[400:1900].mean() == pytest.approx(1, abs=0.05)
    assert min(tops_hz) > 1900 and max(tops_hz) < 7800 and 1 <= telephones < 12


@pytest.mark.parametrize("name", CODECS)
def test_codecs_keep_the_speech(name: str) -> None:
    with mock.patch.object(line, "CODECS", {name: CODECS[name]}):
        heard = changed("codec", voice())
    assert 0.8 < np.corrcoef(heard, voice())[0, 1] < 1


def test_levels_cover_the_range() -> None:
    levels_db = [speech_db(changed("level", voice(), seed), RATE_HZ) for seed in range(40)]
    assert min(levels_db) < -45 and max(levels_db) > -20
    assert min(levels_db) > -55.1 and max(levels_db) < -9.9


def test_an_offset_is_a_constant() -> None:
    offsets = [changed("offset", voice(), seed) - voice() for seed in range(20)]
    assert all(np.ptp(offset) < 1e-6 for offset in offsets)
    means = [float(offset.mean()) for offset in offsets]
    assert min(means) < 0 < max(means) and min(np.abs(means)) > 0.0009 and max(np.abs(means)) < 0.11


def test_without_shares_nothing_is_drawn() -> None:
    rng, samples = np.random.default_rng(0), voice()
    assert apply_effects(samples, rng, NONE, RATE_HZ) is samples
    assert rng.random() == np.random.default_rng(0).random()


def test_a_share_is_that_of_the_utterances() -> None:
    config = dataclasses.replace(NONE, clipping=0.3)
    rng, samples = np.random.default_rng(0), voice(0.1)
    num_changed = sum(
        apply_effects(samples, rng, config, RATE_HZ) is not samples for _ in range(500)
    )
    assert 120 < num_changed < 180


def test_all_effects_together_stay_within_full_scale() -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        heard = apply_effects(10 * voice() / 3, rng, ALL, RATE_HZ)
        assert heard.dtype == np.float32 and np.abs(heard).max() <= 1


def test_recordings_are_changed_too() -> None:
    augment_config = dataclasses.replace(CONFIG.data.augment, effects=ALL)
    plain, heard = (
        augment(voice(), np.random.default_rng(0), config, RATE_HZ)
        for config in (CONFIG.data.augment, augment_config)
    )
    assert len(plain) == len(heard) and not np.array_equal(plain, heard)


def test_training_utterances_are_changed_and_scored_ones_are_not() -> None:
    pytest.importorskip("espeakng_loader")
    augment_config = dataclasses.replace(CONFIG.data.augment, effects=ALL)
    for split in ("train", "valid", "test"):
        plain, heard = (
            SyntheticSpeech(split, 1, 10, RATE_HZ, config)[0]
            for config in (CONFIG.data.augment, augment_config)
        )
        assert len(plain.samples) == len(heard.samples) and plain.text == heard.text
        assert np.array_equal(plain.samples, heard.samples) == (split != "train")


def test_a_dialogue_has_one_microphone_and_the_same_labels() -> None:
    pytest.importorskip("espeakng_loader")
    plain_config = load_config([TINY[0], "configs/stage/streaming.yaml"])
    shares = [f"data.augment.effects.{name}=1" for name in ("offset", "band_limit", "level")]
    for split in ("train", "test"):
        plain, heard = (
            open_dialogues(config, split, 5)[1]
            for config in (plain_config, override(plain_config, shares))
        )
        assert plain.labels == heard.labels and plain.turns == heard.turns
        assert plain.answers == heard.answers and len(plain.samples) == len(heard.samples)
        assert np.array_equal(plain.samples, heard.samples) == (split != "train")


def test_a_share_beyond_one_is_refused() -> None:
    with pytest.raises(ValueError, match="data.augment.effects.room=1.5: a share lies between"):
        load_config([*TINY, "data.augment.effects.room=1.5"])
