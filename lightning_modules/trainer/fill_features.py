"""Computes the features of a pretrained encoder ahead of the stages that train on them.

    python -m lightning_modules.trainer.fill_features configs/preset/tiny_pretrained.yaml configs/stage/streaming.yaml

A training starts this as a subprocess, so that a core that has nothing else to do fills the cache
(`feature_cache`) while the language model is trained. What is missing there is computed by the data
workers of the stages. It may be stopped at any time.
"""

import argparse
import contextlib
import functools
import os
import sys
from collections.abc import Callable, Sequence

import torch
from torch.utils.data import Dataset

from configs.loading import load_config
from configs.recipes import STAGES
from configs.schema import Config, DataConfig
from datamodules.batching import ScoredSet
from datamodules.corpora import Corpora
from datamodules.corpus import UnusableAudio
from datamodules.dialogue.data import DialogueData
from duplexmamba.config import EncoderConfig
from duplexmamba.models.encoders import ENCODERS
from duplexmamba.models.speech_lm import SpeechEncoder
from lightning_modules.stages import STAGE_REGISTRY
from lightning_modules.trainer.feature_cache import cached_features_of
from lightning_modules.trainer.feature_items import FeatureItems
from lightning_modules.trainer.hardware import num_cores, trains_on_cpu
from lightning_modules.trainer.stage_graph import checkpoint_sources, is_trained

PRINT_EVERY = 500
"""Items between two lines of progress."""
YIELDING = 10
"""Niceness of the process: what it computes now is not needed before the next stages."""

Item = Callable[[], object]
"""Makes one item and computes its features."""


def fill_command(args: Sequence[str]) -> list[str] | None:
    """Return the command that fills the cache for a training; None where there is none to fill.

    Args:
        args: configuration files and overrides of the training.
    """
    config = load_config(list(args))
    if not ENCODERS[config.encoder.kind].is_pretrained:
        return None
    # the other processes of one training run the same command: the first one fills for all
    if "LOCAL_RANK" in os.environ:
        return None
    if not trains_on_cpu(config.trainer) or num_cores() < 2:
        # a GPU machine has data workers enough, a single core none to spare
        return None
    return [sys.executable, "-m", "lightning_modules.trainer.fill_features", *args]


def fill(args: Sequence[str]) -> None:
    """Compute the features of all stages that a training runs, in their order."""
    args = list(args)
    torch.set_num_threads(1)
    filled: list[tuple[str, DataConfig, EncoderConfig]] = []
    for stage in needed_stages(args):
        config = load_config(args, stage)
        if config.encoder.trainable:
            continue
        needed = (config.stage.data, config.data, config.encoder)
        # single utterances are the same ones in several stages; dialogues differ from stage to stage
        if config.stage.data == "speech" and needed in filled:
            continue
        filled.append(needed)
        items = _items(config)
        for number, item in enumerate(items, 1):
            item()
            if number % PRINT_EVERY == 0 or number == len(items):
                print(f"features of {stage}: {number} of {len(items)}", flush=True)


def needed_stages(args: list[str]) -> list[str]:
    """Return the stages with audio that a training runs: the requested one and what it needs, as
    far as they are not trained yet."""
    requested = load_config(args)
    needed = {requested.stage.name}
    for stage in reversed(STAGES):
        if stage in needed:
            config = requested if stage == requested.stage.name else load_config(args, stage)
            if is_trained(args, config):
                needed.remove(stage)
            else:
                needed |= set(checkpoint_sources(config)) & set(STAGES)
    return [name for name in STAGES if name in needed and STAGE_REGISTRY[name].has_speech_encoder]


def _items(config: Config) -> Sequence[Item]:
    """Everything whose features a stage needs and repeats, as functions that compute them."""
    corpora = Corpora(config)
    encoder = SpeechEncoder(config.model)
    data = STAGE_REGISTRY[config.stage.name].data(config, corpora)
    train = cached_features_of(encoder, config, training=True)
    scored = cached_features_of(encoder, config, training=False)
    assert train is not None and scored is not None
    positions = data.sample() or []
    if isinstance(data, DialogueData):
        data.add_features = functools.partial(FeatureItems, cache=train, config=config)
        dialogues = data.training_dialogues()
        return [functools.partial(_fill, dialogues, position) for position in positions]
    utterances = FeatureItems(corpora.stream, train, config)
    items = [functools.partial(_fill, utterances, position) for position in positions]
    for corpus in (corpora.valid, corpora.test):
        scored_set = FeatureItems(ScoredSet(corpus), scored, config)
        items += [functools.partial(_fill, scored_set, index) for index in range(len(corpus))]
    return items


def _fill(dataset: Dataset, index: int) -> None:
    """Compute the features of an item; what cannot be used is counted when it is trained on."""
    with contextlib.suppress(UnusableAudio):
        dataset[index]


def main() -> None:
    """Run the command, which leaves the cores to trainings that can use them."""
    os.nice(YIELDING)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("args", nargs="*", metavar="FILE|key=value")
    fill(parser.parse_intermixed_args().args)


if __name__ == "__main__":
    main()
