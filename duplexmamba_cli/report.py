"""duplexmamba report: write the report of a sweep."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from lightning_modules.trainer.exits import exit_cleanly, quiet_libraries
from sweeps.report import __main__ as sweep_report

DESCRIPTION = """\
Write one HTML file about the runs of a sweep: answer, figures, tables and commands.

example:
  duplexmamba report slice_size
"""


def main(args: Sequence[str]) -> None:
    """Write the report of the sweep that the arguments name."""
    parser = argparse.ArgumentParser(
        prog="duplexmamba report",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sweep", help="name of a sweep that was run")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder of all runs (default runs)"
    )
    parser.add_argument("--wandb", action="store_true", help="save it as a shared W&B report")
    parsed = parser.parse_args(args)
    options = ["--runs", str(parsed.runs)]
    if parsed.wandb:
        options.append("--wandb")
    quiet_libraries()
    with exit_cleanly():
        sweep_report.main([parsed.sweep, *options])
