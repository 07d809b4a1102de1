"""Effects of voices, rooms, microphones and lines that a synthesiser does not have.

Each effect is a pure function (samples, rng, rate_hz) -> samples of the same length, in which every
sound keeps its position in time, so that times of words and labels of slices remain valid. To add
one, write the function, register it in `EFFECTS`, and add its share to `EffectsConfig`.
"""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from configs.schema import EffectsConfig
from datamodules.synthetic.effects.line import limit_band, transcode
from datamodules.synthetic.effects.microphone import (
    add_hum,
    add_offset,
    change_level,
    clip,
    equalise,
)
from datamodules.synthetic.effects.room import reverberate
from datamodules.synthetic.effects.voice import move_formants

Apply = Callable[[np.ndarray, Generator, int], np.ndarray]
"""(n,) samples, source of every random decision, sample rate in hertz -> (n,) samples."""

EFFECTS: dict[str, Apply] = {
    "vocal_tract": move_formants,
    "room": reverberate,
    "equaliser": equalise,
    "hum": add_hum,
    "clipping": clip,
    "band_limit": limit_band,
    "codec": transcode,
    "level": change_level,
    "offset": add_offset,
}
"""All effects by the names of their shares in `EffectsConfig`, from the mouth to the computer."""


def apply_effects(
    samples: np.ndarray, rng: Generator, config: EffectsConfig, rate_hz: int
) -> np.ndarray:
    """Apply each effect with the probability that the configuration gives it.

    Args:
        samples: (n,) float32 in [-1, 1], n at least 1.
        rng: source of every random decision; without effects nothing is drawn from it.
        config: share of each effect.
        rate_hz: sample rate.

    Returns:
        (n,) float32 in [-1, 1]; the samples themselves if no effect is drawn.
    """
    for name, apply in EFFECTS.items():
        share = getattr(config, name)
        # Without a share nothing is drawn, so that recipes without effects keep their draws.
        if share and rng.random() < share:
            changed = apply(samples, rng, rate_hz)
            peak = np.abs(changed).max()
            samples = (changed / max(1.0, peak)).astype(np.float32)
    return samples
