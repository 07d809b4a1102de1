"""Registry of baselines: what a user would put in front of a speech recogniser instead of this model.

A baseline is a function `rate_hz -> Listen` in a module of this package and a record here. Importing
this package is cheap: a baseline's module, and the optional libraries that it needs, are imported
when the baseline is opened.
"""

import dataclasses
import importlib
import importlib.util
from collections.abc import Mapping

from configs.recipes import check_names
from evaluation.duplex.turn_scores import System

SILENCES_S = (0.2, 0.5, 0.7, 1.0)
"""Silences after which voice assistants commonly take a turn for ended."""
LONGEST_SILENCE_S = 4.0
"""Silence at which the score of silence end-pointing reaches 1."""
ALL = "all"
"""Value of BASELINE that names every baseline that is installed."""


def silence_thresholds() -> dict[str, float]:
    """Operating points of silence end-pointing: thresholds on silence / `LONGEST_SILENCE_S`."""
    return {f"{silence_s:.1f} s": silence_s / LONGEST_SILENCE_S for silence_s in SILENCES_S}


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A way to find ends of turns without this project's model."""

    name: str
    """Value of BASELINE."""
    description: str
    function: str
    """Module of this package and function, joined by a dot."""
    operating_points: Mapping[str, float]
    """Name of a setting that people use -> threshold on the score `ended`."""
    needs: tuple[str, ...] = ()
    """Importable packages; any one of each entry's alternatives, divided by |, is enough."""
    install: str = ""
    """Command that installs them."""

    def missing(self) -> list[str]:
        """What is not installed of `needs`."""
        absent = []
        for alternatives in self.needs:
            names = alternatives.split("|")
            if not any(importlib.util.find_spec(name) for name in names):
                absent.append(" or ".join(names))
        return absent

    def open(self, rate_hz: int) -> System:
        """Load the baseline for audio of a sample rate.

        Raises:
            ImportError: a package is missing; the message has the command that installs it.
        """
        missing = self.missing()
        if missing:
            raise ImportError(
                f"BASELINE={self.name} needs {' and '.join(missing)}: {self.install}; "
                "or leave it out, BASELINE=energy needs nothing"
            )
        module_name, function_name = self.function.split(".")
        module = importlib.import_module(f"{__name__}.{module_name}")
        return System(self.name, getattr(module, function_name)(rate_hz), self.operating_points)


_BASELINES = (
    Baseline(
        "energy",
        "the turn ends after a silence, found by the level",
        "energy.open_energy",
        silence_thresholds(),
    ),
    Baseline(
        "silero",
        "the turn ends after a silence, found by Silero VAD",
        "silero.open_silero",
        silence_thresholds(),
        needs=("silero_vad|pipecat", "onnxruntime"),
        install="pip install silero-vad onnxruntime",
    ),
    Baseline(
        "smart-turn",
        "smart-turn v3.2 judges the turn after 0.2 s of silence found by Silero VAD",
        "smart_turn.open_smart_turn",
        {"0.5": 0.5},
        needs=("pipecat", "onnxruntime"),
        # Its other dependencies, some of them older than this project's, serve voice agents.
        install="pip install --no-deps pipecat-ai==1.14.0 && pip install onnxruntime",
    ),
)
BASELINES = {baseline.name: baseline for baseline in _BASELINES}
"""Every baseline by its name."""


def setting_name(system: str, setting: str) -> str:
    """Name of a setting of a system in score keys, such as energy_0.5s."""
    name = f"{system}_{setting}" if setting else system
    return name.replace(" ", "")


def setting_key(system: str, setting: str) -> str:
    """Beginning of the score keys of a setting in test dialogues."""
    return f"systems/{setting_name(system, setting)}"


def open_baselines(names: str, rate_hz: int) -> list[System]:
    """Open the baselines of a comma-separated list; none for an empty one.

    Args:
        names: names in `BASELINES`, or `all` for those that are installed.
        rate_hz: sample rate of the audio that they will hear.

    Raises:
        ValueError: a name is unknown.
        ImportError: a named baseline needs a package that is not installed.
    """
    if names == ALL:
        chosen = []
        for baseline in BASELINES.values():
            missing = baseline.missing()
            if missing:
                # Not an error, but a table without it should not surprise.
                print(f"{baseline.name} is left out: {baseline.install}")
            else:
                chosen.append(baseline)
    else:
        listed = [name.strip() for name in names.split(",") if name.strip()]
        check_names(listed, [*BASELINES, ALL], "baseline", "BASELINE")
        chosen = [BASELINES[name] for name in listed if name != ALL]
    return [baseline.open(rate_hz) for baseline in chosen]
