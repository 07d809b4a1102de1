"""Sound files in, mono samples out, or one sentence that says why not."""

import io
import re
from pathlib import Path
from typing import IO

import numpy as np
import soundfile as sf
import soxr

from datamodules.corpus import UnusableAudio
from datamodules.sources.audio_sources import AudioSource
from datamodules.watchdog import reading

SILENCE = 1e-4
"""Peak (-80 dBFS) below which a file counts as silent."""
HEADER_SLACK_S = 0.1
"""Seconds of audio that may be missing against the header: MP3 encoders count their padding in or
not."""
SEGMENT_SLACK_S = 0.5
"""Seconds by which a manifest's segment may pass the end of its file: durations are often
rounded."""
UNKNOWN_FRAMES = 2**62
"""libsndfile's count for a FLAC without a length is beyond this."""
STREAMED_BYTES = 0x7FFF0000
"""A WAV written to a pipe announces at least this many bytes, because its writer could not know."""
CUT_WAV = re.compile(r"^data : (\d+) \(should be (\d+)\)", re.MULTILINE)


def read_audio(
    path: AudioSource,
    rate_hz: int,
    start_s: float = 0.0,
    duration_s: float | None = None,
    channel: int | None = None,
    *,
    min_s: float,
    max_s: float,
) -> np.ndarray:
    """A file (wav, flac, ogg, mp3), or a segment of one, as (n,) float32 in [-1, 1] at `rate_hz`.

    Args:
        start_s, duration_s: the segment; None reads to the end.
        channel: the channel to take; None averages all.
        min_s, max_s: lengths that are accepted; a longer one is refused before it is read.

    Raises:
        UnusableAudio: missing, broken, truncated, empty, silent, NaN or infinite, too short or too
            long, without the channel.
    """
    with reading(str(path)), _open(path) as sound:
        start, count = _segment(path, sound, start_s, duration_s)
        seconds = count / sound.samplerate
        if trouble := length_trouble(seconds, min_s, max_s):
            raise UnusableAudio(f"{path} lasts {seconds:.2f} s, {trouble}")
        samples = _decode(path, sound, start, count)
    if channel is not None and not 0 <= channel < samples.shape[1]:
        raise UnusableAudio(
            f"{path} has {samples.shape[1]} channels, counted from 0: there is no channel {channel}"
        )
    mono = samples.mean(axis=1) if channel is None else samples[:, channel]
    if not np.isfinite(mono).all():
        raise UnusableAudio(f"{path} holds NaN or infinite samples")
    if np.abs(mono).max() < SILENCE:
        raise UnusableAudio(f"{path} is silent: no sample above -80 dB of full scale")
    mono = soxr.resample(mono, sound.samplerate, rate_hz)
    # Lossy codecs and resampling overshoot full scale a little, float files at will: scale, since
    # clipping distorts.
    return mono / np.float32(max(1.0, np.abs(mono).max()))


def audio_duration_s(path: AudioSource) -> float:
    """Length in seconds from the header alone. Raises UnusableAudio: missing, broken, truncated
    WAV, or empty."""
    with _open(path) as sound:
        return sound.frames / sound.samplerate


def native_rate_hz(path: AudioSource) -> int:
    """The rate of the file itself. Raises UnusableAudio."""
    with _open(path) as sound:
        return sound.samplerate


def stream_duration_s(file: IO[bytes], name: str) -> float:
    """Duration in seconds of an open sound file, from its header alone."""
    with _sound(file, name) as sound:
        return sound.frames / sound.samplerate


def length_trouble(seconds: float, min_s: float, max_s: float) -> str | None:
    """Sentence about a length out of range, or None; to the hundredth of a second, since manifests
    round."""
    if round(seconds, 2) > max_s:
        return f"over data.max_s={max_s:g}"
    return f"under data.min_s={min_s:g}" if round(seconds, 2) < min_s else None


def _open(path: AudioSource) -> sf.SoundFile:
    if not isinstance(path, Path):
        return _sound(io.BytesIO(path.read()), str(path))
    if not path.is_file():
        raise UnusableAudio(f"{path} is missing")
    return _sound(path, str(path))


def _sound(file: Path | IO[bytes], name: str) -> sf.SoundFile:
    try:
        sound = sf.SoundFile(file)
    except sf.LibsndfileError as error:
        raise UnusableAudio(
            f"{name} is broken, or not wav, flac, ogg or mp3: {_plain(error)}"
        ) from None
    if not 0 < sound.frames < UNKNOWN_FRAMES:
        raise UnusableAudio(f"{name} is empty, or its header does not say how long it is")
    _check_whole(name, sound, sound.frames, _announced_frames(sound))
    return sound


def _decode(path: AudioSource, sound: sf.SoundFile, start: int, count: int) -> np.ndarray:
    try:
        sound.seek(start)
        samples = sound.read(count, dtype="float32", always_2d=True)
    except sf.LibsndfileError as error:
        raise UnusableAudio(f"{path} is broken or truncated: {_plain(error)}") from None
    _check_whole(path, sound, len(samples), count)
    return samples


def _plain(error: sf.LibsndfileError) -> str:
    return error.error_string.removeprefix("Error : ").rstrip(".")


def _announced_frames(sound: sf.SoundFile) -> int:
    """Frames according to the header: of a cut WAV libsndfile counts only what is there, and tells
    its log alone."""
    cut = CUT_WAV.search(sound.extra_info)
    if cut is None or int(cut[1]) >= STREAMED_BYTES:
        return sound.frames
    return sound.frames * int(cut[1]) // int(cut[2])


def _segment(
    path: AudioSource, sound: sf.SoundFile, start_s: float, duration_s: float | None
) -> tuple[int, int]:
    """First frame and number of frames."""
    rate_hz, start = sound.samplerate, round(start_s * sound.samplerate)
    count = sound.frames - start if duration_s is None else round(duration_s * rate_hz)
    past_s = (start + count - sound.frames) / rate_hz
    if start >= sound.frames or past_s > SEGMENT_SLACK_S:
        raise UnusableAudio(
            f"{path} ends at {sound.frames / rate_hz:.2f} s, {past_s:.2f} s before its segment does"
        )
    return start, min(count, sound.frames - start)


def _check_whole(path: AudioSource | str, sound: sf.SoundFile, frames: int, announced: int) -> None:
    rate_hz = sound.samplerate
    if announced - frames > HEADER_SLACK_S * rate_hz:
        or_else = ", or lacks the length tag of an MP3" if sound.format == "MP3" else ""
        raise UnusableAudio(
            f"{path} is truncated{or_else}: {frames / rate_hz:.2f} s of "
            f"{announced / rate_hz:.2f} s are there"
        )
