"""Score files in the folder of a run, and the settings that the scores were computed with."""

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluation.finished_run import checkpoint_hash
from evaluation.scorecard.card import SavedScores
from evaluation.scores import SCORES

FILE_ARGUMENTS = ("score", "run", "json")
"""Arguments that say where scores are, not how they are computed."""
RENAMED_KEYS = {
    "ignore/false_takeover_rate/aside": "ignore/false_takeover_rate/talking_to_other",
    "ignore/false_takeover_rate/background": "ignore/false_takeover_rate/background_speech",
}
"""Score keys of earlier versions -> present keys."""


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that the scores of a command depend on.

    Two commands with equal settings compute equal scores.

    Args:
        args: parsed arguments of the command.

    Raises:
        ValueError: the run has no checkpoint.
    """
    score = SCORES[args.score]
    ignored = {*FILE_ARGUMENTS}
    for option in score.options:
        if not option.affects_scores:
            ignored.add(option.name)
    settings: dict[str, Any] = {"weights": checkpoint_hash(args.run)}
    for name, value in vars(args).items():
        if name in ignored:
            continue
        # JSON has no paths.
        if isinstance(value, Path):
            value = str(value)
        settings[name] = value
    for name, variable in score.environment.items():
        settings[name] = os.environ.get(variable, "")
    return settings


def save_scores(args: argparse.Namespace, scores: Mapping[str, float | None]) -> None:
    """Write scores and settings into the folder of the run."""
    folder = args.run / "scores"
    settings_file = folder / f"{args.score}.settings.json"
    # Scores without settings are not read, so an interruption leaves no mismatched pair.
    settings_file.unlink(missing_ok=True)
    (folder / f"{args.score}.json").write_text(json.dumps(scores, indent=1) + "\n")
    settings_file.write_text(json.dumps(settings_of(args), indent=1) + "\n")


def load_scores(run: Path, score: str) -> SavedScores | None:
    """Read the scores of a run; None if there are none, or if they are those of other weights."""
    folder = run / "scores"
    try:
        scores = json.loads((folder / f"{score}.json").read_text())
        settings = json.loads((folder / f"{score}.settings.json").read_text())
    except (OSError, ValueError):
        return None  # missing, or incomplete after an interruption
    # A run that was resumed has other weights under the same name.
    if settings.get("weights") != checkpoint_hash(run):
        return None
    present = {RENAMED_KEYS.get(key, key): value for key, value in scores.items()}
    return SavedScores(present, settings)
