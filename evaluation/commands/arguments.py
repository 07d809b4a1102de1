"""What is asked of evaluate.py, and the command that does it."""

import argparse
import importlib
from pathlib import Path

COMMANDS = {
    "wer": "wer.score", "duplex": "duplex.score", "full-duplex-bench": "turn_benchmarks.score_full_duplex_bench",
    "turnbench": "turn_benchmarks.score_turnbench", "voicebench": "voicebench.run", "speed": "speed.score",
    "scorecard": "scorecard.make",
}  # fmt: skip
"""Functions of `evaluation.commands`; each is imported only when it is asked for, for what it needs."""


BATCH = 8


def score(asked: argparse.Namespace) -> dict[str, float | None]:
    """The scores that were asked for; None where one cannot be had. Raises what the command does."""
    module, function = COMMANDS[asked.score].split(".")
    scores: dict[str, float | None]
    scores = getattr(importlib.import_module(f"evaluation.commands.{module}"), function)(asked)
    return scores


def parser(description: str | None = None) -> argparse.ArgumentParser:
    """Every score takes a run, overrides and --json; VoiceBench also does without a run, a scorecard with several."""
    whole = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked_for = whole.add_subparsers(dest="score", required=True)
    for name in COMMANDS:
        command = asked_for.add_parser(name)
        if name == "scorecard":
            command.add_argument("runs", help="folders of finished runs, separated by commas")
            command.set_defaults(run=None)
        else:
            runs = "?" if name == "voicebench" else None
            command.add_argument("run", type=Path, nargs=runs, help="folder of a finished run")
        if name in ("full-duplex-bench", "turnbench"):
            command.add_argument("folder", type=Path, help="of the benchmark's data")
        command.add_argument("overrides", nargs="*", metavar="key=value", help="as for train.py")
        command.add_argument("--json", type=Path, help="file for the scores")
        if name in ("voicebench", "scorecard"):
            add_voicebench(command)
        if name == "voicebench":
            add_responses(command)
        if name == "scorecard":
            command.add_argument(
                "--as-is", action="store_true", help="score nothing: show the scores that are there"
            )
    return whole


def add_voicebench(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--subsets", default="", help="names, separated by commas; all nine of the leaderboard"
    )
    command.add_argument("--limit", type=positive, help="items of each subset, the first")
    command.add_argument(
        "--data",
        default="",
        help="hub, embedded, or a folder of the same schema; the first there is",
    )
    command.add_argument(
        "--mode", choices=["streaming", "offline"], help="streaming where the run has learnt it"
    )
    command.add_argument("--batch", type=positive, default=BATCH, help="items at a time")


def add_responses(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--responses", type=Path, help="score these instead: a file, or a folder of <subset>.jsonl"
    )
    command.add_argument("--subset", default="", help="of the file of responses")


def positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{word} is less than 1")
    return number
