"""The command `train`: train a stage, and before it the stages that it starts from.

All of them are checked first (`preflight`).
"""

import argparse
from collections.abc import Sequence

from configs.loading import load_config
from configs.recipes import STAGES
from configs.schema import Config
from datamodules.corpus_digest import contents_of
from lightning_modules.trainer.exits import exit_cleanly, quiet_libraries
from lightning_modules.trainer.fill_features import fill_command
from lightning_modules.trainer.lora_drop import train_with_lora_drop
from lightning_modules.trainer.machine import announce
from lightning_modules.trainer.parallel import run_parallel
from lightning_modules.trainer.preflight import preflight
from lightning_modules.trainer.stage_graph import parallel_commands, train_with_prerequisites
from lightning_modules.trainer.sweep_trial import sweep_trial


def train(args: Sequence[str], only_stage: str | None = None) -> dict[str, float]:
    """Train a stage after its missing prerequisites; returns the stage's summary.

    Args:
        args: configuration files and overrides.
        only_stage: train this prerequisite stage, and those that it depends on, instead of the
            requested stage.
    """
    args = list(args)
    return _train_checked(args, _check(args, only_stage), only_stage)


def _check(args: list[str], only_stage: str | None) -> Config:
    """Check a training before any stage of it; returns the configuration of its stage."""
    # corpora may have changed since an earlier training of this process
    contents_of.cache_clear()
    config = load_config(args, only_stage)
    preflight(args, config)
    return config


def _train_checked(args: list[str], config: Config, only_stage: str | None) -> dict[str, float]:
    """Train as `train` does."""
    if config.lora_drop.enabled and only_stage is None:
        return train_with_lora_drop(args).summary
    return train_with_prerequisites(args, config, {}).summary


def argument_parser(description: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "args",
        nargs="*",
        metavar="FILE|key=value",
        help="YAML files of the configuration, and overrides of single values",
    )
    parser.add_argument(
        "--only-stage",
        choices=STAGES,
        help="train this prerequisite stage and stop; used by the program for its subprocesses",
    )
    return parser


def run_command(args: Sequence[str], only_stage: str | None = None) -> None:
    """Train as a program: with exit codes, sweep trials, and root stages in parallel.

    Args:
        args: configuration files and overrides.
        only_stage: as for `train`.
    """
    quiet_libraries()
    with exit_cleanly(), sweep_trial(args) as trial_args:
        stage_args = list(trial_args)
        # before other processes train anything
        config = _check(stage_args, only_stage)
        if not only_stage:
            announce(config)
        commands = [] if only_stage else _parallel_commands(stage_args)
        with run_parallel(commands):
            _train_checked(stage_args, config, only_stage)


def _parallel_commands(args: Sequence[str]) -> list[list[str]]:
    """Commands that run beside this process: other root stages, and the cache of features."""
    commands = parallel_commands(args)
    fill = fill_command(args)
    if fill is not None:
        commands.append(fill)
    return commands
