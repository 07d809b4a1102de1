"""Registry of synthesisers, and the voices of a configuration: several of them in given shares.

To add a synthesiser, write a module with a function that turns text and voice into `Speech` and one
that draws a voice, and register their record in `SYNTHESISERS`.
"""

import functools
import random
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from configs.recipes import check_names
from configs.schema import DataConfig
from datamodules.synthetic.command import COMMAND
from datamodules.synthetic.espeak import Speech
from datamodules.synthetic.espeak_voices import ESPEAK
from datamodules.synthetic.festival import FESTIVAL
from datamodules.synthetic.flite import FLITE
from datamodules.synthetic.grammar import Split
from datamodules.synthetic.kokoro import KOKORO
from datamodules.synthetic.pico import PICO
from datamodules.synthetic.piper import PIPER
from datamodules.synthetic.speech_cache import SpeechCache
from datamodules.synthetic.synthesiser import Synthesiser, Voice

SYNTHESISERS: dict[str, Synthesiser] = {
    synthesiser.name: synthesiser
    for synthesiser in (ESPEAK, FLITE, PICO, FESTIVAL, PIPER, KOKORO, COMMAND)
}
"""Every synthesiser by its name in `data.voices`."""


class Family(NamedTuple):
    """An entry of `data.voices` or `data.test_voices` with a share above 0."""

    synthesiser: Synthesiser
    argument: str
    """What follows the colon in its name."""
    share: float


class Voices:
    """The voices of one or several synthesisers.

    Args:
        families: synthesisers in their shares, which need not sum to 1.
        cache: keeps the speech of slow ones; None: it is not kept.
    """

    def __init__(self, families: list[Family], cache: SpeechCache | None = None) -> None:
        self.families = families
        self.cache = cache

    def draw(self, rng: random.Random, split: Split) -> Voice:
        """Draw a voice of a split."""
        family = self.families[0]
        # No draw where there is nothing to choose: the order of draws defines a corpus.
        if len(self.families) > 1:
            shares = [family.share for family in self.families]
            [family] = rng.choices(self.families, shares)
        return family.synthesiser.draw_voice(rng, split, family.argument)

    def speak(self, text: str, voice: Voice) -> Speech:
        """Speak a text in a voice that `draw` has returned. Raises as the synthesiser does."""
        speak = SYNTHESISERS[voice.synthesiser].speak
        file = self.cached_file(text, voice)
        if self.cache is None or file is None:
            return speak(text, voice)
        return self.cache.get(file, text, functools.partial(speak, text, voice))

    def cached_file(self, text: str, voice: Voice) -> Path | None:
        """File that keeps the speech of a text in a voice, present or not; None: it is not kept."""
        synthesiser = SYNTHESISERS[voice.synthesiser]
        if self.cache is None or not synthesiser.is_cached:
            return None
        return self.cache.file(text, voice, synthesiser.version(voice.name))


DEFAULT_VOICES = Voices([Family(ESPEAK, "", 1.0)])


def open_voices(data: DataConfig) -> Voices:
    """The voices that are trained with, those of `data.voices`.

    Raises:
        ValueError: a synthesiser is unknown or for scores alone, or there is none.
    """
    families = parse_families("data.voices", data.voices)
    if not families:
        raise ValueError(f"data.voices={data.voices}: give one synthesiser a share of more than 0")
    for family in families:
        if family.synthesiser.is_held_out(family.argument):
            raise ValueError(
                f"data.voices: {_entry(family)} is never trained with, since the scores on unseen "
                "voices use it; leave it out, or name it in data.test_voices"
            )
    return Voices(families, open_cache(data))


def open_unseen_voices(data: DataConfig) -> Voices:
    """The voices for scores alone, those of `data.test_voices`.

    Raises:
        ValueError: a synthesiser is unknown or not installed.
    """
    families = parse_families("data.test_voices", data.test_voices)
    check_installed("data.test_voices", families)
    return Voices(families, open_cache(data))


def open_cache(data: DataConfig) -> SpeechCache:
    """The cache of a configuration, in the folder `data.cache`."""
    return SpeechCache(Path(data.cache).expanduser() / "voices")


def parse_families(field: str, shares: Mapping[str, float]) -> list[Family]:
    """The entries of a map of synthesisers that have a share.

    Args:
        field: name of the map, for the messages.
        shares: `name` or `name:argument` -> share.

    Raises:
        ValueError: a name is unknown, or a share negative.
    """
    families = []
    for entry, share in shares.items():
        name, _, argument = entry.partition(":")
        check_names([name], SYNTHESISERS, "synthesiser", field)
        if share < 0:
            raise ValueError(f"{field}.{entry}={share:g}: a share cannot be negative; 0 is none")
        if share:
            families.append(Family(SYNTHESISERS[name], argument, share))
    return families


def check_installed(field: str, families: list[Family]) -> None:
    """Check that every synthesiser can speak here.

    Args:
        field: name of the map that lists them.
        families: its entries.

    Raises:
        ValueError: one cannot; the message names the field, the synthesiser, and the command that
            installs it.
    """
    for family in families:
        problem = family.synthesiser.problem(family.argument)
        if problem is not None:
            raise ValueError(
                f"{field}: {_entry(family)} cannot speak: {problem}; "
                f"install it with `{family.synthesiser.install}`, or leave it out"
            )


def _entry(family: Family) -> str:
    """The name of an entry, as it is written in the configuration."""
    if family.argument:
        return f"{family.synthesiser.name}:{family.argument}"
    return family.synthesiser.name


def describe() -> str:
    """Every synthesiser: whether it can speak here, or how to install it."""
    lines = []
    for name, synthesiser in SYNTHESISERS.items():
        # A command is installed by whoever names it.
        problem = None if synthesiser is COMMAND else synthesiser.problem("")
        state = "ready"
        if problem is not None:
            state = f"{problem}: {synthesiser.install}"
        lines.append(f"{name:<10}{state}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(describe())
