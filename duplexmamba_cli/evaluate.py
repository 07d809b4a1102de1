"""duplexmamba evaluate: score a finished run."""

from collections.abc import Sequence

from evaluation.main import run_command


def main(args: Sequence[str]) -> None:
    """Score as the arguments say."""
    run_command(args, prog="duplexmamba evaluate")
