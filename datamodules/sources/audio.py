"""Decoding of sound files to mono samples; a file that cannot be used raises UnusableAudio with the
reason in one sentence."""

import io
from pathlib import Path
from typing import IO

import numpy as np
import soundfile as sf
import soxr

from datamodules.corpus import UnusableAudio
from datamodules.sources.audio_sources import AudioSource
from datamodules.sources.completeness import announced_frames, ogg_problem
from datamodules.sources.folders import UNREAD_SUFFIXES
from datamodules.watchdog import reading

SILENCE_PEAK = 1e-4
"""Peak (-80 dBFS) below which a file counts as silent."""
HEADER_SLACK_S = 0.1
"""Seconds of audio that may be missing relative to the header: only some MP3 encoders count their
padding."""
CANCELLED_RATIO = 0.01
"""Peak of the mean of all channels, relative to the loudest one, below which they cancel each other."""
CHECKED_FORMATS = {"WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3", "AIFF", "AU", "NIST", "CAF", "W64"}
"""Formats of which `completeness` knows whether a file is whole; libsndfile reads others too."""
SEGMENT_SLACK_S = 0.5
"""Seconds by which a manifest's segment may pass the end of its file: durations are often
rounded."""
POWER_BLOCK_FRAMES = 500
"""Frames of `read_power` that are decoded at a time: few enough for the processor's cache."""
UNKNOWN_FRAMES = 2**62
"""libsndfile reports more frames than this for a FLAC whose header has no length."""


def read_audio(
    path: AudioSource,
    rate_hz: int,
    start_s: float = 0.0,
    duration_s: float | None = None,
    channel: int | None = None,
    *,
    min_s: float,
    max_s: float,
    may_be_silent: bool = False,
) -> np.ndarray:
    """Read a sound file (wav, flac, ogg, mp3), or a segment of one.

    Args:
        path: the sound file.
        rate_hz: sample rate of the result.
        start_s: start of the segment.
        duration_s: length of the segment; None: to the end of the file.
        channel: the channel to take; None: the mean of all.
        min_s: shortest length that is accepted.
        max_s: longest length that is accepted; a longer file is not decoded.
        may_be_silent: whether silence is no error, as in a part of a conversation.

    Returns:
        (n,) float32 in [-1, 1] at `rate_hz`.

    Raises:
        UnusableAudio: the file is missing, broken, truncated, empty, silent, too short or too long,
            has NaN or infinite samples, or lacks the channel.
    """
    with reading(str(path)), _open(path) as sound:
        start, count = _segment(path, sound, start_s, duration_s)
        seconds = count / sound.samplerate
        problem = length_problem(seconds, min_s, max_s)
        if problem:
            raise UnusableAudio(f"{path} lasts {seconds:.2f} s, {problem}")
        samples = _decode(path, sound, start, count)  # (n, channels)
    mono = _to_mono(path, samples, channel)  # (n,)
    if not np.isfinite(mono).all():
        raise UnusableAudio(f"{path} holds NaN or infinite samples")
    # A constant offset, which some recorders add, is no sound.
    is_constant = mono.max() - SILENCE_PEAK < mono.min()
    is_silent = np.abs(mono).max() < SILENCE_PEAK
    if (is_silent or is_constant) and not may_be_silent:
        raise UnusableAudio(f"{path} is silent: no sample above -80 dB of full scale")
    mono = soxr.resample(mono, sound.samplerate, rate_hz)
    # Lossy codecs and resampling overshoot full scale a little, float files by any amount. Scaled,
    # since clipping distorts.
    peak = np.abs(mono).max()
    return mono / np.float32(max(1.0, peak))


def read_power(
    path: AudioSource,
    frame_s: float,
    start_s: float,
    duration_s: float,
    channel: int | None,
) -> tuple[np.ndarray, float]:
    """Read the power of frames of a segment, at the file's own rate and in little memory.

    Args:
        path: the sound file.
        frame_s: length of a frame.
        start_s: start of the segment.
        duration_s: length of the segment.
        channel: the channel to take; None: the mean of all.

    Returns:
        (num_frames,) float32 mean squares of whole frames, and the exact length of a frame in
        seconds.

    Raises:
        UnusableAudio: as `read_audio`.
    """
    parts = []
    peak = 0.0
    with reading(str(path)), _open(path) as sound:
        start, count = _segment(path, sound, start_s, duration_s)
        frame_samples = round(frame_s * sound.samplerate)
        block_samples = POWER_BLOCK_FRAMES * frame_samples
        _seek(path, sound, start)
        for first in range(0, count, block_samples):
            block = _decode_next(path, sound, min(block_samples, count - first))
            mono = _to_mono(path, block, channel)
            num_frames = len(mono) // frame_samples
            frames = mono[: num_frames * frame_samples].reshape(num_frames, frame_samples)
            parts.append(np.einsum("fs,fs->f", frames, frames) / frame_samples)
            peak = max(peak, float(np.abs(mono).max()))
    power = np.concatenate(parts)
    if not np.isfinite(power).all():
        raise UnusableAudio(f"{path} holds NaN or infinite samples")
    if peak < SILENCE_PEAK:
        raise UnusableAudio(f"{path} is silent: no sample above -80 dB of full scale")
    return power, frame_samples / sound.samplerate


def _to_mono(path: AudioSource, samples: np.ndarray, channel: int | None) -> np.ndarray:
    """(n, channels) -> (n,): one channel, or the mean of all."""
    if channel is None:
        mean = samples.mean(axis=1)
        # Channels in opposite phase cancel each other; each alone is the sound.
        peaks = np.abs(samples).max(axis=0)  # (channels,)
        cancelled = np.abs(mean).max() < CANCELLED_RATIO * peaks.max()
        return samples[:, peaks.argmax()] if cancelled else mean
    num_channels = samples.shape[1]
    if not 0 <= channel < num_channels:
        raise UnusableAudio(
            f"{path} has {num_channels} channels, counted from 0: there is no channel {channel}"
        )
    return samples[:, channel]


def audio_duration_s(path: AudioSource) -> float:
    """Length of a sound file in seconds, from its header alone.

    Raises:
        UnusableAudio: the file is missing, broken, empty, or a truncated WAV.
    """
    with _open(path) as sound:
        return sound.frames / sound.samplerate


def sound_shape(path: AudioSource) -> tuple[float, int]:
    """Length of a sound file in seconds, and its number of channels, from its header alone.

    Raises:
        UnusableAudio: the file is missing, broken, empty, or a truncated WAV.
    """
    with _open(path) as sound:
        return sound.frames / sound.samplerate, sound.channels


def native_rate_hz(path: AudioSource) -> int:
    """Sample rate at which a file is stored.

    Raises:
        UnusableAudio: the file is missing, broken, empty, or a truncated WAV.
    """
    with _open(path) as sound:
        return sound.samplerate


def stream_duration_s(file: IO[bytes], name: str) -> float:
    """Length of an open sound file in seconds, from its header alone.

    Args:
        file: the encoded sound, at its beginning.
        name: its name, for messages.

    Raises:
        UnusableAudio: the file is broken, empty, or a truncated WAV.
    """
    with _open_stream(file, name) as sound:
        return sound.frames / sound.samplerate


def length_problem(seconds: float, min_s: float, max_s: float) -> str | None:
    """Phrase about a length that is out of range; None: it is within.

    The length is compared to the hundredth of a second, since manifests round.
    """
    rounded_s = round(seconds, 2)
    if rounded_s > max_s:
        return f"over data.max_s={max_s:g}"
    if rounded_s < min_s:
        return f"under data.min_s={min_s:g}"
    return None


def _open(path: AudioSource) -> sf.SoundFile:
    if not isinstance(path, Path):
        return _open_stream(io.BytesIO(path.read()), str(path))
    try:
        is_file = path.is_file()
    except OSError as error:
        raise UnusableAudio(f"{str(path)[:200]} cannot be a file: {error.strerror}") from None
    if not is_file:
        raise UnusableAudio(f"{path} is missing")
    return _open_stream(path, str(path))


def _open_stream(file: Path | IO[bytes], name: str) -> sf.SoundFile:
    try:
        sound = sf.SoundFile(file)
    except sf.LibsndfileError as error:
        reason = _plain_text(error)
        remedy = ""
        if name.lower().endswith(UNREAD_SUFFIXES):
            remedy = "; convert it, for example by ffmpeg -i x.m4a x.flac"
        raise UnusableAudio(
            f"{name} is broken, or not wav, flac, ogg or mp3: {reason}{remedy}"
        ) from None
    except OSError as error:
        raise UnusableAudio(f"{name} cannot be read: {error.strerror}") from None
    if sound.format not in CHECKED_FORMATS:
        raise UnusableAudio(
            f"{name} is in the format {sound.format}, of which a cut file looks like a whole one; "
            "convert it to flac or wav"
        )
    if not 0 < sound.frames < UNKNOWN_FRAMES:
        raise UnusableAudio(f"{name} is empty, or its header does not say how long it is")
    _check_complete(name, sound, sound.frames, announced_frames(sound, file))
    problem = ogg_problem(file) if sound.format == "OGG" else None
    if problem:
        raise UnusableAudio(
            f"{name} is truncated, or a stream that was never ended: {problem}; fetch it again, or "
            "write what is there anew: ffmpeg -i in.ogg out.flac"
        )
    return sound


def _decode(path: AudioSource, sound: sf.SoundFile, start: int, count: int) -> np.ndarray:
    """Samples of a segment of a sound that has just been opened, (count, channels) float32."""
    _seek(path, sound, start)
    return _decode_next(path, sound, count)


def _seek(path: AudioSource, sound: sf.SoundFile, start: int) -> None:
    try:
        if sound.seekable():
            sound.seek(start)
        else:
            # GSM 6.10, of which libsndfile reads one frame after another.
            sound.read(start, dtype="float32")
    except sf.LibsndfileError as error:
        raise UnusableAudio(f"{path} is broken or truncated: {_plain_text(error)}") from None


def _decode_next(path: AudioSource, sound: sf.SoundFile, count: int) -> np.ndarray:
    """The next samples, (count, channels) float32."""
    try:
        samples = sound.read(count, dtype="float32", always_2d=True)
    except sf.LibsndfileError as error:
        raise UnusableAudio(f"{path} is broken or truncated: {_plain_text(error)}") from None
    _check_complete(path, sound, len(samples), count)
    return samples


def _plain_text(error: sf.LibsndfileError) -> str:
    return error.error_string.removeprefix("Error : ").rstrip(".")


def _segment(
    path: AudioSource, sound: sf.SoundFile, start_s: float, duration_s: float | None
) -> tuple[int, int]:
    """First frame of a segment, and its number of frames."""
    rate_hz = sound.samplerate
    start = round(start_s * rate_hz)
    available = sound.frames - start
    count = available if duration_s is None else round(duration_s * rate_hz)
    past_s = (count - available) / rate_hz
    if count <= 0 < available:
        raise UnusableAudio(f"{path}: a segment of {count / rate_hz:.2f} s holds no sound")
    if start >= sound.frames or past_s > SEGMENT_SLACK_S:
        raise UnusableAudio(
            f"{path} ends at {sound.frames / rate_hz:.2f} s, {past_s:.2f} s before its segment does"
        )
    return start, min(count, available)


def _check_complete(
    path: AudioSource | str, sound: sf.SoundFile, frames: int, announced: int
) -> None:
    """Raise UnusableAudio when fewer frames than announced are present."""
    rate_hz = sound.samplerate
    if announced - frames > HEADER_SLACK_S * rate_hz:
        # Without a length tag, the length of an MP3 is an estimate from its bit rate.
        or_else = ", or lacks the length tag of an MP3" if sound.format == "MP3" else ""
        raise UnusableAudio(
            f"{path} is truncated{or_else}: {frames / rate_hz:.2f} s of "
            f"{announced / rate_hz:.2f} s are there"
        )
