"""Command line of evaluate.py, from the registry of scores."""

import argparse
from pathlib import Path

from evaluation.scores import BATCH_SIZE, SCORES

BATCH = BATCH_SIZE


def score(args: argparse.Namespace) -> dict[str, float | None]:
    """Compute the requested score; None for numbers that cannot be computed.

    Raises:
        ValueError: the score cannot be computed for this run or with these arguments.
    """
    return SCORES[args.score].run(args)


def parser(description: str | None = None) -> argparse.ArgumentParser:
    """Parser with a subcommand for each score."""
    whole = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subcommands = whole.add_subparsers(dest="score", required=True)
    for name, entry in SCORES.items():
        command = subcommands.add_parser(
            name, description=entry.description, help=entry.description
        )
        if entry.runs == "several":
            command.add_argument("runs", help="folders of finished runs, separated by commas")
            command.set_defaults(run=None)
        else:
            count = "?" if entry.runs == "optional" else None
            command.add_argument("run", type=Path, nargs=count, help="folder of a finished run")
        if entry.has_own_data:
            command.add_argument("folder", type=Path, help="folder of the benchmark's data")
        command.add_argument("overrides", nargs="*", metavar="key=value", help="as for train.py")
        command.add_argument("--json", type=Path, help="file for the scores")
        entry.add_arguments(command)
    return whole
