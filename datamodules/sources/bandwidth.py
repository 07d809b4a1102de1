"""A note on recordings of less bandwidth than the model's, such as telephone calls."""

import collections
from collections.abc import Iterable, Mapping

from datamodules.corpus import UnusableAudio
from datamodules.sources.audio import native_rate_hz
from datamodules.sources.audio_sources import AudioSource
from datamodules.sources.storage import is_url

NUM_INSPECTED = 200
"""Files of which the header is read to find out the sample rate."""


def sample_rates(sounds: Iterable[AudioSource]) -> dict[int, int]:
    """Sample rate in hertz -> number of files, of the first files on this machine."""
    rates_hz: collections.Counter[int] = collections.Counter()
    for number, sound in enumerate(sounds):
        if number == NUM_INSPECTED:
            break
        # Fetching a file for a note would take longer than it is worth.
        if is_url(str(sound)):
            continue
        try:
            rates_hz[native_rate_hz(sound)] += 1
        except UnusableAudio:
            # Counted where it is decoded.
            continue
    return rates_hz


def narrow_band_notes(rates_hz: Mapping[int, int], model_rate_hz: int) -> list[str]:
    """A sentence on files that lack the upper part of what the model hears; empty: none does.

    Args:
        rates_hz: sample rate in hertz -> number of files.
        model_rate_hz: `features.sample_rate_hz`.
    """
    num_narrow = sum(count for rate, count in rates_hz.items() if rate < model_rate_hz)
    if not num_narrow:
        return []
    total = sum(rates_hz.values())
    return [
        f"{num_narrow:,} of {total:,} files have less than {model_rate_hz:,} Hz: a model that was "
        "trained on full bandwidth alone hears them much worse; data.augment.effects.band_limit=0.2 "
        "trains it on both"
    ]
