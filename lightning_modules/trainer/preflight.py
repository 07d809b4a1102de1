"""Checks of a whole training before its first update: all stages, and the files that they need.

A stage may begin hours after the command. What it would then lack, a tokenizer, a pretrained
language model that fits, an encoder, a synthesiser, is said at the start. Of language models the
weights are not read, and of those on the hub only the configuration.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from configs.loading import load_config
from configs.recipes import STAGES
from configs.schema import Config
from datamodules.corpora import Corpora, check_synthesisers
from datamodules.dialogue.data import DialogueData
from datamodules.unseen import check_unseen
from duplexmamba.models.encoders import (
    ENCODERS,
    PretrainedEncoder,
    build_encoder_parts,
    check_pretrained_encoder,
)
from duplexmamba.models.language_models import build_lm, check_pretrained
from duplexmamba.text.tokenizer import Tokenizer
from lightning_modules.assembly import check_adapters, check_vocabulary
from lightning_modules.stages import STAGE_REGISTRY
from lightning_modules.trainer.checkpoint import checkpoint_file
from lightning_modules.trainer.exits import is_rank_zero
from lightning_modules.trainer.machine import check_device
from lightning_modules.trainer.stage_graph import checkpoint_sources, run_folder
from lightning_modules.trainer.summary import SUMMARY


def preflight(args: Sequence[str], config: Config) -> None:
    """Check every stage that a training will run, before any of them is trained.

    Args:
        args: configuration files and overrides of the command.
        config: configuration of the requested stage.

    Raises:
        ValueError: a configuration does not fit, or a file that it needs cannot be used; names
            field, value and remedy.
    """
    for stage_config in untrained_stages(args, config):
        check_device(stage_config.trainer)
        check_adapters(stage_config)
        check_synthesisers(stage_config)
        check_unseen(stage_config)
        check_starts(stage_config)
        check_encoder(stage_config)
        check_tokenizer(stage_config)
        check_lm(stage_config)
        is_requested = stage_config is config
        if is_requested and config.stage.data == "dialogues":
            # opens the dialogues, which names what is wrong with them
            DialogueData(config, Corpora(config)).training_dialogues()


def untrained_stages(args: Sequence[str], config: Config) -> list[Config]:
    """Return the configurations of the stages that a training runs, in the order of training.

    Finished runs are left out.

    Args:
        args: configuration files and overrides of the command.
        config: configuration of the requested stage.
    """
    untrained: list[Config] = []
    _visit(list(args), config, {}, untrained)
    return untrained


def _visit(
    args: list[str], config: Config, folders: dict[str, Path], untrained: list[Config]
) -> Path:
    """Add a stage after those that it starts from, and return the folder of its run.

    Args:
        args: as in `untrained_stages`.
        config: configuration of the stage.
        folders: stage -> folder of its run, of all stages that have been visited.
        untrained: the configurations so far.
    """
    source_runs = []
    for source in checkpoint_sources(config):
        if source not in STAGES:
            source_runs.append(Path(source).name)
            continue
        # two stages may depend on the same one
        if source not in folders:
            folders[source] = _visit(args, load_config(args, source), folders, untrained)
        source_runs.append(folders[source].name)
    folder = run_folder(config, source_runs)
    if not (folder / SUMMARY).exists():
        untrained.append(config)
    return folder


def check_starts(config: Config) -> None:
    """Check that the runs that `stage.init` names by their folders have a checkpoint.

    Raises:
        ValueError: one has none.
    """
    for source in checkpoint_sources(config):
        if source in STAGES:
            continue
        file = checkpoint_file(Path(source))
        if not file.exists():
            raise ValueError(
                f"stage.init of stage {config.stage.name} names {source}, which has no "
                f"{file.name}; name the folder of a finished run"
            )


def check_encoder(config: Config) -> None:
    """Check that a pretrained encoder, or the teacher of stage encoder, can be used.

    Its weights are opened, the only ones that are.

    Raises:
        ValueError: it is not installed, its weights do not fit, or it cannot hear the configured
            slices or utterances; says what to do.
    """
    if not STAGE_REGISTRY[config.stage.name].has_speech_encoder:
        return
    if ENCODERS[config.encoder.kind].is_pretrained:
        # its slices are checked as it is built
        with torch.device("meta"):
            features = build_encoder_parts(config.model).features
        assert isinstance(features, PretrainedEncoder), features
        if features.context == "full":
            features.check_length(int(config.data.max_s * config.features.sample_rate_hz))
    check_pretrained_encoder(config.encoder)
    if config.stage.teacher is not None:
        teacher = dataclasses.replace(config.encoder, pretrained=config.stage.teacher)
        check_pretrained_encoder(teacher)


def check_tokenizer(config: Config) -> None:
    """Check a tokenizer of others, where the stage does not take it from a checkpoint.

    Raises:
        ValueError: it cannot be read, lacks a token, or has more ids than the language model has
            embeddings.
    """
    lm_source = config.stage.init.get("lm")
    is_loaded = lm_source is None or lm_source not in checkpoint_sources(config)
    has_tokenizer = STAGE_REGISTRY[config.stage.name].has_tokenizer
    if has_tokenizer and is_loaded and config.tokenizer.source != "bpe":
        check_vocabulary(Tokenizer.load(config.tokenizer.source), config)


def check_lm(config: Config) -> None:
    """Check a pretrained language model by its configuration, where the stage starts from it.

    Prints how many embeddings it gets in addition, if any.

    Raises:
        ValueError: it cannot be read, or computes another function than the section `lm`.
    """
    source = config.lm.pretrained
    # stage encoder has neither
    has_lm = STAGE_REGISTRY[config.stage.name].has_tokenizer
    if not source or not has_lm or config.stage.init.get("lm", "lm") != "lm":
        return
    with torch.device("meta"):
        lm = build_lm(config.lm)
    num_new = check_pretrained(lm, source)
    if num_new and is_rank_zero():
        print(
            f"lm.pretrained={source!r} has {config.lm.vocab_size - num_new} embeddings, "
            f"lm.vocab_size={config.lm.vocab_size}: {num_new} new ones start from their mean",
            flush=True,
        )
