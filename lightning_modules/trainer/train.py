"""The command `train`: train a stage, and before it the stages that it starts from."""

import argparse
from collections.abc import Sequence

from configs.loading import load_config
from configs.recipes import STAGES
from datamodules.corpora import Corpora, check_synthesisers
from datamodules.corpus_digest import contents_of
from datamodules.dialogue.data import DialogueData
from datamodules.unseen import check_unseen
from duplexmamba.models.encoders import check_pretrained_encoder
from lightning_modules.trainer.exits import exit_cleanly, quiet_libraries
from lightning_modules.trainer.fill_features import fill_command
from lightning_modules.trainer.lora_drop import train_with_lora_drop
from lightning_modules.trainer.parallel import run_parallel
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
    # corpora may have changed since an earlier training of this process
    contents_of.cache_clear()
    config = load_config(args, only_stage)
    check_synthesisers(config)
    check_pretrained_encoder(config.encoder)
    check_unseen(config)
    if config.stage.data == "dialogues":
        # opens the dialogues: what is wrong with them should be known before hours of training
        DialogueData(config, Corpora(config)).dialogues("train", 0)
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
        commands = [] if only_stage else _parallel_commands(trial_args)
        with run_parallel(commands):
            train(trial_args, only_stage)


def _parallel_commands(args: Sequence[str]) -> list[list[str]]:
    """Commands that run beside this process: other root stages, and the cache of features."""
    commands = parallel_commands(args)
    fill = fill_command(args)
    if fill is not None:
        commands.append(fill)
    return commands
