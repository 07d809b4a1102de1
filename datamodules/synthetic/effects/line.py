"""What lies between a microphone and the model: narrow bands and codecs."""

import dataclasses
import io
import math

import numpy as np
import soundfile as sf
import soxr
from numpy.random import Generator

from datamodules.synthetic.effects.spectrum import filtered

TELEPHONE_HZ = (300.0, 3_400.0)
"""Band of a telephone."""
LOW_RATE_HZ = 8_000
"""Sample rate of telephones and their codecs."""
LOW_PASS_HZ = (2_000.0, 7_000.0)
"""Range of the upper limit of other narrow bands, such as those of radio and cheap microphones."""
COMPRESSION = (0.5, 1.0)
"""Range of libsndfile's compression level, of which 1 is the lowest bit rate."""
BLOCK_S = 0.1
"""Padding after the samples: codecs store whole blocks, and the last one could be missing."""


@dataclasses.dataclass(frozen=True)
class Codec:
    """A codec that libsndfile has and that does not delay the signal."""

    format: str
    subtype: str
    rate_hz: int | None = None
    """Its sample rate in hertz; None: any."""
    has_bit_rates: bool = False


# Opus is missing, since its encoder takes ten times as long as the slowest of these.
CODECS = {
    "mu-law": Codec("WAV", "ULAW", LOW_RATE_HZ),
    "gsm": Codec("WAV", "GSM610", LOW_RATE_HZ),
    "vorbis": Codec("OGG", "VORBIS", has_bit_rates=True),
    "mp3": Codec("MP3", "MPEG_LAYER_III", has_bit_rates=True),
}
"""All codecs by name."""


def limit_band(samples: np.ndarray, rng: Generator, rate_hz: int) -> np.ndarray:
    """Limit the band: that of a telephone, that of recordings at 8 kHz, or any other upper limit."""
    kind = int(rng.integers(3))
    if kind == 0:
        low_hz, high_hz = TELEPHONE_HZ
    elif kind == 1:
        low_hz, high_hz = 0.0, 0.46 * LOW_RATE_HZ
    else:
        lowest, highest = LOW_PASS_HZ
        low_hz, high_hz = 0.0, lowest * (highest / lowest) ** rng.random()

    def gain(bins_hz: np.ndarray) -> np.ndarray:
        below = _slope(bins_hz, 1.1 * high_hz, high_hz)
        if not low_hz:
            return below
        return below * _slope(bins_hz, low_hz / 2, low_hz)

    return filtered(samples, rate_hz, gain)


def _slope(bins_hz: np.ndarray, from_hz: float, to_hz: float) -> np.ndarray:
    """(F,) gains that rise from 0 at one frequency to 1 at the other, as half a cosine."""
    progress = (bins_hz - from_hz) / (to_hz - from_hz)
    phase = np.clip(progress, 0, 1) * math.pi
    return 0.5 - 0.5 * np.cos(phase)


def transcode(samples: np.ndarray, rng: Generator, rate_hz: int) -> np.ndarray:
    """Encode and decode with one of `CODECS`, at a random bit rate where it has several."""
    names = list(CODECS)
    codec = CODECS[names[int(rng.integers(len(names)))]]
    options = {}
    if codec.has_bit_rates:
        options["compression_level"] = rng.uniform(*COMPRESSION)
    codec_hz = codec.rate_hz or rate_hz
    padded = np.pad(samples, (0, round(BLOCK_S * rate_hz)))
    resampled = soxr.resample(padded, rate_hz, codec_hz)
    encoded = io.BytesIO()
    sf.write(encoded, resampled, codec_hz, codec.subtype, format=codec.format, **options)
    encoded.seek(0)
    decoded, _ = sf.read(encoded, dtype="float32")
    return soxr.resample(decoded, codec_hz, rate_hz)[: len(samples)]
