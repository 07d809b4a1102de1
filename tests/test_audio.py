"""Reading sound files: the samples, and the error message for each kind of unusable file."""

import numpy as np
import pytest
import soundfile as sf

from datamodules.corpus import UnusableAudio
from datamodules.sources.audio import audio_duration_s, length_problem, read_audio

RATE_HZ = 16000


def tone(
    seconds: float, rate_hz: int = RATE_HZ, hz: float = 440.0, peak: float = 0.5
) -> np.ndarray:
    return (peak * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(
        np.float32
    )


def noise(seconds: float, rate_hz: int = RATE_HZ) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * rate_hz)).astype(np.float32)


def read(path, **changes) -> np.ndarray:
    return read_audio(path, RATE_HZ, **({"min_s": 0.1, "max_s": 20.0} | changes))


def problem(path, **changes) -> str:
    with pytest.raises(UnusableAudio) as caught:
        read(path, **changes)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_every_format_is_read_as_mono_float32(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    sf.write(path, tone(1.0), RATE_HZ)
    samples = read(path)
    assert samples.dtype == np.float32 and samples.shape == (RATE_HZ,)
    assert np.abs(samples - tone(1.0))[800:-800].max() < 0.05
    assert audio_duration_s(path) == 1.0


@pytest.mark.parametrize("rate_hz", [8000, 22050, 44100, 48000])
def test_every_rate_is_resampled(tmp_path, rate_hz):
    sf.write(tmp_path / "a.wav", tone(1.0, rate_hz), rate_hz)
    samples = read(tmp_path / "a.wav")
    assert len(samples) == RATE_HZ
    assert np.abs(samples - tone(1.0))[200:-200].max() < 0.01


def test_channels_are_averaged_or_selected(tmp_path):
    left, right = tone(1.0, hz=300), tone(1.0, hz=500)
    sf.write(tmp_path / "a.flac", np.stack([left, right], axis=1), RATE_HZ)
    assert np.allclose(read(tmp_path / "a.flac"), (left + right) / 2, atol=1e-3)
    assert np.allclose(read(tmp_path / "a.flac", channel=1), right, atol=1e-3)


def test_segments_are_read_exactly(tmp_path):
    sf.write(tmp_path / "a.flac", noise(3.0), RATE_HZ)
    whole = read(tmp_path / "a.flac")
    assert np.array_equal(
        read(tmp_path / "a.flac", start_s=1.0, duration_s=0.5), whole[RATE_HZ : RATE_HZ * 3 // 2]
    )
    assert np.array_equal(read(tmp_path / "a.flac", start_s=2.0), whole[RATE_HZ * 2 :])
    assert np.array_equal(read(tmp_path / "a.flac", duration_s=3.4), whole), (
        "a rounded duration is accepted"
    )
    assert "ends at 3.00 s, 1.00 s before its segment does" in problem(
        tmp_path / "a.flac", start_s=2.0, duration_s=2.0
    )
    assert "before its segment does" in problem(tmp_path / "a.flac", start_s=3.0)


def test_overshoot_is_scaled_to_full_scale(tmp_path):
    sf.write(tmp_path / "a.wav", 3.0 * tone(1.0), RATE_HZ, subtype="FLOAT")
    samples = read(tmp_path / "a.wav")
    assert np.abs(samples).max() == pytest.approx(1.0)
    assert np.allclose(samples, 2.0 * tone(1.0), atol=1e-3)


def test_a_missing_file_is_unusable(tmp_path):
    assert "is missing" in problem(tmp_path / "nowhere.wav")
    assert "is missing" in problem(tmp_path)


@pytest.mark.parametrize("content", [b"", b"this is not sound" * 99])
def test_a_file_without_sound_is_unusable(tmp_path, content):
    (tmp_path / "a.flac").write_bytes(content)
    assert "broken, or not wav, flac, ogg or mp3" in problem(tmp_path / "a.flac")
    with pytest.raises(UnusableAudio, match="broken"):
        audio_duration_s(tmp_path / "a.flac")


def test_a_broken_body_is_detected_by_decoding(tmp_path):
    path = tmp_path / "a.flac"
    sf.write(path, noise(2.0), RATE_HZ)
    content = bytearray(path.read_bytes())
    content[20000:23000] = bytes(3000)
    path.write_bytes(content)
    assert audio_duration_s(path) == 2.0
    assert "is broken or truncated" in problem(path)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
def test_a_truncated_file_is_unusable(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    sf.write(path, noise(2.0), RATE_HZ)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "truncated" in problem(path)


def test_a_truncated_wav_is_detected_by_its_header_but_a_streamed_wav_is_complete(tmp_path):
    path = tmp_path / "a.wav"
    sf.write(path, noise(2.0), RATE_HZ)
    content = path.read_bytes()
    path.write_bytes(content[: 44 + RATE_HZ * 2])
    with pytest.raises(UnusableAudio, match=r"is truncated: 1.00 s of 2.00 s are there"):
        audio_duration_s(path)
    path.write_bytes(content[:40] + b"\xff\xff\xff\xff" + content[44:])
    assert len(read(path)) == 2 * RATE_HZ


def test_an_empty_sound_is_unusable(tmp_path):
    sf.write(tmp_path / "a.wav", tone(0.0), RATE_HZ)
    assert "is empty" in problem(tmp_path / "a.wav")


@pytest.mark.parametrize("peak", [0.0, 0.9e-4])
def test_silence_is_unusable(tmp_path, peak):
    sf.write(tmp_path / "a.wav", tone(1.0, peak=peak), RATE_HZ, subtype="FLOAT")
    assert "is silent" in problem(tmp_path / "a.wav")


def test_a_quiet_sound_is_usable(tmp_path):
    sf.write(tmp_path / "a.wav", tone(1.0, peak=2e-4), RATE_HZ, subtype="FLOAT")
    assert len(read(tmp_path / "a.wav")) == RATE_HZ


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_unusable(tmp_path, value):
    samples = tone(1.0)
    samples[99] = value
    sf.write(tmp_path / "a.wav", samples, RATE_HZ, subtype="FLOAT")
    assert "NaN or infinite" in problem(tmp_path / "a.wav")


def test_an_hour_is_rejected_by_its_header(tmp_path, monkeypatch):
    sf.write(tmp_path / "a.wav", np.zeros(3600 * 100, np.int16), 100)
    monkeypatch.setattr(sf.SoundFile, "read", None)
    assert "lasts 3600.00 s, over data.max_s=20" in problem(tmp_path / "a.wav")
    assert audio_duration_s(tmp_path / "a.wav") == 3600.0


def test_a_short_sound_is_unusable(tmp_path):
    sf.write(tmp_path / "a.wav", tone(0.05), RATE_HZ)
    assert "lasts 0.05 s, under data.min_s=0.1" in problem(tmp_path / "a.wav")


def test_lengths_are_compared_to_the_hundredth_of_a_second():
    assert length_problem(20.004, 0.3, 20.0) is None and length_problem(0.2996, 0.3, 20.0) is None
    assert length_problem(20.02, 0.3, 20.0) and length_problem(0.28, 0.3, 20.0)
