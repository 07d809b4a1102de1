"""duplexmamba train: train a stage, and first the stages that it starts from."""

import argparse
from collections.abc import Sequence

from configs.recipes import STAGES
from duplexmamba_cli.config_files import add_config_arguments, config_args
from lightning_modules.trainer.exits import exit_cleanly
from lightning_modules.trainer.train import run_command

DESCRIPTION = """\
Train a stage, and first the stages that it starts from where these are not trained yet.

examples:
  duplexmamba train                                   # stage asr, preset tiny
  duplexmamba train --stage instruct --preset small data.path=my/speech optim.lr=1e-3
  duplexmamba train --stage instruct lora_drop.enabled=true
  duplexmamba train configs/preset/tiny.yaml configs/stage/asr.yaml my_changes.yaml
"""


def main(args: Sequence[str]) -> None:
    """Train as the arguments say."""
    parser = argparse.ArgumentParser(
        prog="duplexmamba train",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser)
    # for the program's own subprocesses
    parser.add_argument("--only-stage", choices=STAGES, help=argparse.SUPPRESS)
    parsed = parser.parse_intermixed_args(args)
    with exit_cleanly():
        training_args = config_args(parsed)
    run_command(training_args, parsed.only_stage)
