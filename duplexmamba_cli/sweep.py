"""duplexmamba sweep: run a sweep of trainings."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from lightning_modules.trainer.exits import exit_cleanly, quiet_libraries
from sweeps import run

DESCRIPTION = """\
Run a sweep of trainings with `wandb agent`: on the W&B cloud if you are logged in, else on a local
hub. It runs in a checkout, whose folder sweeps/ holds the files of the sweeps.

example:
  duplexmamba sweep slice_size --agents 2 trainer.max_steps=400
"""


def main(args: Sequence[str]) -> int:
    """Run the sweep that the arguments name; returns 0 if all its trials have finished."""
    parser = argparse.ArgumentParser(
        prog="duplexmamba sweep",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sweep", help="name of a file in sweeps/")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="overrides for every trial"
    )
    parser.add_argument(
        "--agents", type=int, default=1, help="number of trials at a time (default 1)"
    )
    parser.add_argument(
        "--backend",
        choices=("auto", "cloud", "local"),
        default="auto",
        help="where the sweep is kept (default auto: cloud if you are logged in)",
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder of all runs (default runs)"
    )
    parsed = parser.parse_intermixed_args(args)
    options = ["--agents", str(parsed.agents), "--backend", parsed.backend]
    options += ["--runs", str(parsed.runs)]
    quiet_libraries()
    with exit_cleanly():
        return run.main([parsed.sweep, *parsed.overrides, *options])
