"""Score files in the folder of a run, and the settings that the scores were computed with.

<run>/scores/<score>.json           numbers by name
<run>/scores/<score>.jsonl          lines behind them, one for each case, of scores that have some
<run>/scores/<score>.settings.json  what both were computed with
"""

import argparse
import json
import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evaluation.arguments import parser
from evaluation.console import write_lines
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
    # Scores without settings are not read, so an interruption leaves no mismatched pair.
    _invalidate(args.run, args.score)
    (folder / f"{args.score}.json").write_text(json.dumps(scores, indent=1) + "\n")
    settings = json.dumps(settings_of(args), indent=1)
    _settings_file(args.run, args.score).write_text(settings + "\n")


def save_lines(run: Path, score: str, lines: Iterable[Any]) -> None:
    """Write the lines behind a score: one JSON value for each utterance, dialogue or other case.

    A score calls this while it computes; other scores read the lines by `load_lines`.

    Args:
        run: folder of the run.
        score: name of the score that is computed.
        lines: the values.
    """
    # The settings of earlier lines do not hold for these; `save_scores` writes the new ones.
    _invalidate(run, score)
    write_lines(run / "scores" / f"{score}.jsonl", lines)


def load_lines(args: argparse.Namespace, score: str) -> list[Any]:
    """Read the lines that another score has left, if they are those of this command.

    Args:
        args: parsed arguments of the score that reads them; the lines must have been computed for
            the same run with the same overrides.
        score: name of the score that has written them, with `save_lines`.

    Raises:
        ValueError: there are none, or they were computed with other weights or settings; the
            message has the command that computes them.
    """
    command = [score, str(args.run), *args.overrides]
    saved = load_scores(args.run, score)
    expected = settings_of(parser().parse_args(command))
    file = args.run / "scores" / f"{score}.jsonl"
    if saved is None or saved.settings != expected or not file.is_file():
        overrides = " ".join(args.overrides) or "none"
        raise ValueError(
            f"{args.score} needs {file} of the present checkpoint with the same overrides "
            f"({overrides}): first run `python evaluate.py {shlex.join(command)}`"
        )
    return [json.loads(line) for line in file.read_text().splitlines()]


def load_scores(run: Path, score: str) -> SavedScores | None:
    """Read the scores of a run; None if there are none, or if they are those of other weights."""
    folder = run / "scores"
    try:
        scores = json.loads((folder / f"{score}.json").read_text())
        settings = json.loads(_settings_file(run, score).read_text())
    except (OSError, ValueError):
        return None  # missing, or incomplete after an interruption
    # A run that was resumed has other weights under the same name.
    if settings.get("weights") != checkpoint_hash(run):
        return None
    present = {RENAMED_KEYS.get(key, key): value for key, value in scores.items()}
    return SavedScores(present, settings)


def _settings_file(run: Path, score: str) -> Path:
    return run / "scores" / f"{score}.settings.json"


def _invalidate(run: Path, score: str) -> None:
    """Make saved scores and lines count as missing."""
    _settings_file(run, score).unlink(missing_ok=True)
