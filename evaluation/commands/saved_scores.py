"""Scores as they lie in the folder of a run, with the settings that they were taken with."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluation.commands.finished_run import identity
from evaluation.scorecard.card import Part
from evaluation.scores import SCORES

WITHOUT_EFFECT = ("score", "run", "json", "batch")
"""Words of a command that no score depends on, or that its file is named by."""

EARLIER_NAMES = {
    "ignore/false_takeover_rate/aside": "ignore/false_takeover_rate/talking_to_other",
    "ignore/false_takeover_rate/background": "ignore/false_takeover_rate/background_speech",
}
"""Names of numbers in files that an earlier version saved -> today's."""


def settings_of(asked: argparse.Namespace) -> dict[str, Any]:
    """What is asked, of which weights, and who judges: equal for commands that give the same scores."""
    words = {name: value for name, value in vars(asked).items() if name not in WITHOUT_EFFECT}
    words |= {name: str(value) for name, value in words.items() if isinstance(value, Path)}
    return {"weights": identity(asked.run), **words, **SCORES[asked.score].settings()}


def keep(asked: argparse.Namespace, scores: Mapping[str, float | None]) -> None:
    """Write both files; the scores stand only once their settings do."""
    folder = asked.run / "scores"
    (folder / f"{asked.score}.settings.json").unlink(missing_ok=True)
    (folder / f"{asked.score}.json").write_text(json.dumps(scores, indent=1) + "\n")
    (folder / f"{asked.score}.settings.json").write_text(
        json.dumps(settings_of(asked), indent=1) + "\n"
    )


def kept(run: Path, score: str) -> Part | None:
    """What a run has of a score; None: nothing, or nothing of the weights that it has now."""
    try:
        files = [run / "scores" / f"{score}{end}.json" for end in ("", ".settings")]
        scores, settings = (json.loads(file.read_text()) for file in files)
    except (OSError, ValueError):  # not there, or cut off
        return None
    if settings.get("weights") != identity(run):
        return None
    return Part({EARLIER_NAMES.get(name, name): value for name, value in scores.items()}, settings)
