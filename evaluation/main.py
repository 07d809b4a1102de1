"""Entry point of evaluate.py."""

import json
from collections.abc import Sequence

from evaluation.arguments import compute, parser
from evaluation.saved_scores import save_scores
from lightning_modules.trainer.exits import exit_cleanly, quiet_libraries


def main(args: Sequence[str], prog: str | None = None) -> dict[str, float | None]:
    """Compute scores and save them in the folder of the run.

    Args:
        args: name of the score, folder of the run, and options; see `evaluate.py --help`.
        prog: name of the program in usage lines.

    Returns:
        The scores; None for a score that cannot be computed.

    Raises:
        ValueError: an argument is wrong; the message names it and the remedy.
        ImportError: an optional library is missing.
    """
    parsed = parser(prog=prog).parse_args(args)
    scores = compute(parsed)
    # Responses of another system have no run to save their scores in.
    if parsed.run is not None:
        save_scores(parsed, scores)
    if parsed.json is not None:
        parsed.json.write_text(json.dumps(scores, indent=1) + "\n")
    return scores


def run_command(args: Sequence[str], prog: str | None = None) -> None:
    """Do what `main` does, and end the program with one sentence if the user has to act."""
    quiet_libraries()
    with exit_cleanly():
        main(args, prog)
