"""Scores as they lie in the folder of a run, with the settings that they were taken with."""

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from evaluation.commands.opened import identity

WITHOUT_EFFECT = ("score", "run", "json", "batch")
"""Words of a command that no score depends on, or that its file is named by."""


class Kept(NamedTuple):
    """One command's scores."""

    scores: dict[str, float | None]
    settings: dict[str, Any]
    """What it was asked, the identity of the weights, and who judged."""


def settings_of(asked: argparse.Namespace) -> dict[str, Any]:
    """Equal for commands that give the same scores."""
    words = {name: value for name, value in vars(asked).items() if name not in WITHOUT_EFFECT}
    words |= {name: str(value) for name, value in words.items() if isinstance(value, Path)}
    judge = {"judge": os.environ.get("JUDGE_MODEL", "")} if asked.score == "voicebench" else {}
    return {"weights": identity(asked.run), **words, **judge}


def keep(asked: argparse.Namespace, scores: Mapping[str, float | None]) -> None:
    """Write both files; the scores stand only once their settings do."""
    folder = asked.run / "scores"
    (folder / f"{asked.score}.settings.json").unlink(missing_ok=True)
    (folder / f"{asked.score}.json").write_text(json.dumps(scores, indent=1) + "\n")
    (folder / f"{asked.score}.settings.json").write_text(json.dumps(settings_of(asked), indent=1) + "\n")


def kept(run: Path, score: str) -> Kept | None:
    """What a run has of a score; None: nothing, or nothing of the weights that it has now."""
    try:
        scores, settings = (json.loads((run / "scores" / f"{score}{end}.json").read_text()) for end in ("", ".settings"))
    except (OSError, ValueError):  # not there, or cut off
        return None
    return Kept(scores, settings) if settings.get("weights") == identity(run) else None
