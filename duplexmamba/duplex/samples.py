"""Samples as they come from a microphone: checked, without invalid values, and their level.

Glossary: n samples.
"""

import dataclasses
import math

import torch
from torch import Tensor

MAX_AMPLITUDE = 1e6
"""Largest absolute value of a valid sample: squares of much larger ones overflow in the features."""
MIN_LEVEL_DB = -100.0
"""Level of digital silence."""
INT16_FULL_SCALE = 32_768
FLOOR_WINDOW_S = 5.0
"""Duration of the recent past whose quietest slice gives the noise floor."""
FLOOR_MIN_S = 1.0
"""Duration from which that past is long enough; before it, the first words would be the floor."""
FLOOR_MARGIN_DB = 6.0
"""A slice that exceeds the noise floor by no more than this contains no speech."""

MIN_SPEECH_DB = 12.0
"""Loudest slice of a question above the noise floor, at least; else what was taken for the floor may
be the quietest slice of speech without a pause."""


def check_samples(samples: Tensor, num_samples: int | None = None) -> None:
    """Check dtype and shape of samples.

    Args:
        samples: (n,) of a floating-point dtype.
        num_samples: n that is expected; None: any.

    Raises:
        ValueError: they are not; the message names what came, what is expected, and the remedy.
    """
    if not samples.is_floating_point():
        raise ValueError(
            f"samples of dtype {samples.dtype}: floating-point values in [-1, 1] are expected; "
            f"convert 16-bit integers by samples.float() / {INT16_FULL_SCALE}"
        )
    shape = tuple(samples.shape)
    if samples.dim() != 1:
        raise ValueError(
            f"samples of shape {shape}: one channel of shape (n,) is expected; select a channel, "
            "or average them, and push each conversation to a session of its own"
        )
    if num_samples not in (None, len(samples)):
        raise ValueError(
            f"samples of shape {shape}: one slice of shape ({num_samples},) is expected; "
            "Session.push takes any number of samples"
        )


def replace_invalid(samples: Tensor) -> tuple[Tensor, int]:
    """Replace NaN, infinite and absurdly large samples by zeros.

    A single one of them would spread to all later states of the model.

    Args:
        samples: (n,)

    Returns:
        (n,) samples, and the number of those that were replaced.
    """
    # A comparison with NaN is false.
    valid = samples.abs() <= MAX_AMPLITUDE
    if bool(valid.all()):
        return samples, 0
    return torch.where(valid, samples, 0.0), int((~valid).sum())


def level_db(samples: Tensor) -> float:
    """Root mean square of (n,) samples in dB relative to full scale, without their mean.

    The mean is the offset of a cheap microphone, which nobody hears.
    """
    power = float(samples.var(correction=0))
    # The small constant avoids log10(0) for digital silence.
    return max(MIN_LEVEL_DB, 10 * math.log10(power + 1e-12))


@dataclasses.dataclass(frozen=True)
class NoiseFloor:
    """Causal estimate of the background level: the smallest level of recent slices.

    Source: minimum statistics (R. Martin, 2001), with slices in place of spectral bins.
    """

    slice_s: float
    """Duration of a slice in seconds."""
    recent_db: tuple[float, ...] = ()
    """Levels of the latest slices, newest last."""

    def updated(self, slice_db: float) -> "NoiseFloor":
        """Return the estimate after another slice of this level."""
        num_slices = max(1, round(FLOOR_WINDOW_S / self.slice_s))
        recent_db = (*self.recent_db, slice_db)[-num_slices:]
        return NoiseFloor(self.slice_s, recent_db)

    @property
    def level_db(self) -> float:
        """The noise floor in dB relative to full scale; that of silence while it is unknown."""
        if len(self.recent_db) * self.slice_s < FLOOR_MIN_S:
            return MIN_LEVEL_DB
        # Digital silence is a gap of the network, or a microphone without noise.
        sounding_db = [slice_db for slice_db in self.recent_db if slice_db > MIN_LEVEL_DB]
        return min(sounding_db, default=MIN_LEVEL_DB)


def is_silent(slice_db: float, loudest_db: float, floor_db: float, silence_db: float) -> bool:
    """Whether a slice contains no speech: far below the loudest one, or near the noise floor.

    Args:
        slice_db: level of the slice.
        loudest_db: level of the loudest slice of the question, this one included.
        floor_db: level of the noise floor.
        silence_db: difference to the loudest slice, negative.
    """
    if slice_db < loudest_db + silence_db:
        return True
    stands_out = loudest_db >= floor_db + MIN_SPEECH_DB
    return stands_out and slice_db <= floor_db + FLOOR_MARGIN_DB
