"""Command-line options of VoiceBench."""

import argparse
from pathlib import Path

from evaluation.record import Option

DEFAULT_BATCH_ITEMS = 8


def positive_int(text: str) -> int:
    """Parse a positive number. Raises argparse.ArgumentTypeError: it is less than 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


OPTIONS = (
    Option(
        "--subsets",
        "names, separated by commas; default: all nine of the leaderboard",
        default="",
    ),
    Option("--limit", "only the first items of each subset", type=positive_int),
    Option(
        "--data",
        "hub, embedded, or a folder of the same schema; default: the first that is available",
        default="",
    ),
    Option(
        "--mode",
        "default: streaming if the run was trained on dialogues, else offline",
        choices=("streaming", "offline"),
    ),
    # The batch size changes only the speed, so saved scores stay valid.
    Option(
        "--batch",
        f"items at a time (default {DEFAULT_BATCH_ITEMS})",
        default=DEFAULT_BATCH_ITEMS,
        type=positive_int,
        affects_scores=False,
    ),
    Option(
        "--responses",
        "score these responses instead of a run: a file, or a folder of <subset>.jsonl",
        type=Path,
        on_scorecard=False,
    ),
    Option("--subset", "subset of the file of responses", default="", on_scorecard=False),
)
