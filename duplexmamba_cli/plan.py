"""duplexmamba plan: estimate the GPU memory that a training needs."""

import argparse
from collections.abc import Sequence

from duplexmamba_cli.config_files import add_config_arguments, config_args
from lightning_modules.trainer import plan
from lightning_modules.trainer.exits import exit_cleanly, quiet_libraries

DESCRIPTION = """\
Estimate the memory of a training on each of several GPUs, and the cards on which it fits.

example:
  duplexmamba plan 6 --stage asr --preset paper
"""


def main(args: Sequence[str]) -> None:
    """Print the plan that the arguments ask for."""
    parser = argparse.ArgumentParser(
        prog="duplexmamba plan",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("gpus", type=int, help="number of GPUs")
    add_config_arguments(parser)
    parsed = parser.parse_intermixed_args(args)
    quiet_libraries()
    with exit_cleanly():
        plan.main([str(parsed.gpus), *config_args(parsed)])
