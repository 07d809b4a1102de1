"""Files that TurnBench accepts, and the rules by which its checker accepts them."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.duplex.turnbench import SPEAKERS, TASKS
from evaluation.duplex.turnbench.sweep import Probabilities, num_frames

SCHEMA_VERSION = 1
PREDICTION_KEYS = {"eot": "eot", "int": "interruption"}
"""Task -> its key in predictions."""

PredictedTimes = Mapping[str, Mapping[int, Sequence[float]]]
"""Task -> speaker -> times."""


def predictions_file(predicted: Mapping[str, PredictedTimes]) -> dict[str, Any]:
    """Content of predictions-dev.json or predictions-test.json.

    Args:
        predicted: conversation -> times of its events.
    """
    entries = []
    for name, tasks in predicted.items():
        entry: dict[str, Any] = {"conversation_id": name}
        for speaker in SPEAKERS:
            entry[f"speaker_{speaker}"] = {
                PREDICTION_KEYS[task]: list(tasks[task][speaker]) for task in TASKS
            }
        entries.append(entry)
    return {"schema_version": SCHEMA_VERSION, "predictions": entries}


def probabilities_file(
    task: str, frame_rate_hz: float, probabilities: Mapping[str, Probabilities]
) -> dict[str, Any]:
    """Content of probs-eot.json or probs-int.json.

    Args:
        task: eot or int.
        frame_rate_hz: of the probabilities.
        probabilities: conversation -> speaker -> one value for each frame.
    """
    entries = []
    for name, speakers in probabilities.items():
        entry: dict[str, Any] = {"conversation_id": name}
        for speaker in SPEAKERS:
            entry[f"speaker_{speaker}"] = {"prob": list(speakers[speaker])}
        entries.append(entry)
    return {
        "schema_version": SCHEMA_VERSION,
        "task": task,
        "frame_rate_hz": frame_rate_hz,
        "probs": entries,
    }


def check_predictions(content: Mapping[str, Any], durations_s: Mapping[str, float]) -> None:
    """Apply the rules of the benchmark's checker to predictions.

    Args:
        content: of the file.
        durations_s: conversation -> length, for every conversation of the split.

    Raises:
        ValueError: the file would be refused.
    """
    _check_coverage(content["predictions"], durations_s)
    for entry in content["predictions"]:
        duration_s = durations_s[entry["conversation_id"]]
        for speaker in SPEAKERS:
            for key, times_s in entry[f"speaker_{speaker}"].items():
                where = f"conversation {entry['conversation_id']}, speaker_{speaker}, {key}"
                _check_times(times_s, duration_s, where)


def _check_times(times_s: Sequence[float], duration_s: float, where: str) -> None:
    increases = all(earlier < later for earlier, later in itertools.pairwise(times_s))
    if not increases:
        raise ValueError(f"{where}: times do not increase strictly")
    if any(not math.isfinite(time_s) or not 0 <= time_s <= duration_s for time_s in times_s):
        raise ValueError(f"{where}: a time is outside the audio of {duration_s:.2f} s")


def check_probabilities(content: Mapping[str, Any], durations_s: Mapping[str, float]) -> None:
    """Apply the rules of the benchmark's checker to probabilities; see `check_predictions`.

    Raises:
        ValueError: the file would be refused.
    """
    _check_coverage(content["probs"], durations_s)
    for entry in content["probs"]:
        expected = num_frames(durations_s[entry["conversation_id"]], content["frame_rate_hz"])
        for speaker in SPEAKERS:
            where = f"conversation {entry['conversation_id']}, speaker_{speaker}"
            values = entry[f"speaker_{speaker}"]["prob"]
            if len(values) != expected:
                raise ValueError(f"{where}: {len(values)} frames instead of {expected}")
            if any(not 0 <= value <= 1 for value in values):
                raise ValueError(f"{where}: a probability is not in [0, 1]")


def _check_coverage(entries: Sequence[Mapping[str, Any]], durations_s: Mapping[str, float]) -> None:
    names = [entry["conversation_id"] for entry in entries]
    if sorted(names) != sorted(durations_s):
        differing = sorted(set(names) ^ set(durations_s)) or "one twice"
        raise ValueError(f"conversations missing, unknown or repeated: {differing}")


def write(content: Mapping[str, Any], file: Path) -> None:
    """Write a file as JSON."""
    file.write_text(json.dumps(content) + "\n")
