"""The parts of a stage put together: model, module, data, tokenizer, and the weights it starts from."""

import dataclasses
from pathlib import Path

import torch
from torch.distributed.fsdp import FSDPModule

from configs.schema import Config
from datamodules.corpus import Utterance
from datamodules.data import Corpora, StageData
from duplexmamba.models import lora
from duplexmamba.models.lm import load_pretrained
from duplexmamba.models.speech_lm import SpeechEncoder, SpeechLM, part_of
from duplexmamba.text.tokenizer import Tokenizer
from lightning_modules.lm import TextModel
from lightning_modules.stage import StageModule
from lightning_modules.stages import STAGE_REGISTRY
from lightning_modules.trainer.activation_checkpointing import checkpoint_activations
from lightning_modules.trainer.checkpoint import StageCheckpoint, load_ctc_head, load_parts
from lightning_modules.trainer.fsdp import full_tensor
from lightning_modules.trainer.precompute import PrecomputeFrames, can_precompute

FITTED_ON = 64
"""Training utterances from which the normalisation of the features is taken."""


def build(
    config: Config, corpora: Corpora, given: dict[str, StageCheckpoint], folder: Path
) -> tuple[StageModule, StageData]:
    """The stage's module, with the weights it starts from, and its data."""
    stage = STAGE_REGISTRY[config.stage.name]
    tokenizer = find_tokenizer(config, corpora, given, folder)
    torch.manual_seed(config.seed)
    model = stage.model(config.model)
    for source, checkpoint in given.items():
        load_parts(
            model,
            checkpoint,
            [part for part, s in config.stage.init.items() if s == source],
            source,
        )
    if config.connector.kind == "ctc" and {"encoder", "connector"} & config.stage.init.keys() == {
        "encoder"
    }:
        source = config.stage.init["encoder"]
        load_ctc_head(model, given[source], source)
    if (
        config.lm.pretrained
        and isinstance(model, SpeechLM | TextModel)
        and config.stage.init.get("lm", "lm") == "lm"
    ):
        load_pretrained(model.lm, config.lm.pretrained)
    if isinstance(model, SpeechEncoder) and "features" not in config.stage.init:
        fit_feature_norm(model, corpora)
    if config.lora.enabled:
        lora.adapt(model, config.lora, config.stage.trained)
    if config.trainer.activation_checkpointing:
        checkpoint_activations(model)
    module = stage.module(config, model, tokenizer)
    data = stage.data(config, corpora)
    if isinstance(model, SpeechEncoder) and can_precompute(config, model):
        data.ahead = PrecomputeFrames(model)
    return module, data


def unsharded(module: StageModule) -> StageModule:
    """The stage with all its weights on every rank, for what comes after training."""
    if not isinstance(module, FSDPModule):
        return module
    config = module.config
    stage = STAGE_REGISTRY[config.stage.name]
    model = stage.model(config.model)
    if config.lora.enabled:
        lora.adapt(model, dataclasses.replace(config.lora, start=None), config.stage.trained)
    model.load_state_dict(
        {name: full_tensor(weight).cpu() for name, weight in module.model.state_dict().items()}
    )
    plain = stage.module(config, model, module.tokenizer)
    plain.seen, plain.skipped = module.seen, module.skipped
    return plain


def check_adapters(config: Config) -> None:
    """Raises ValueError for adapters that the stage's model has no place for, without making its weights."""
    if not config.lora.enabled:
        return
    with torch.device("meta"):
        model = STAGE_REGISTRY[config.stage.name].model(config.model)
    parts = {part_of(name) for name in lora.targets(model, config.lora, config.stage.trained)}
    given = {*config.stage.init, *(["lm"] if config.lm.pretrained else [])}
    if parts - given:
        raise ValueError(
            f"lora.targets={config.lora.targets}: stage {config.stage.name} trains {', '.join(sorted(parts - given))} "
            "from random weights, of which adapters would keep most as they are; set lora.enabled=false"
        )


def fit_feature_norm(model: SpeechEncoder, corpora: Corpora) -> None:
    """Take the normalisation of the features from training utterances that can be read, in the shares of the stream."""
    begin = corpora.stream.ramp
    heard = [corpora.stream[i] for i in range(begin, begin + FITTED_ON)]
    usable = [torch.from_numpy(u.samples) for u in heard if isinstance(u, Utterance)]
    if not usable:
        raise ValueError(
            f"none of the first {FITTED_ON} training utterances can be used: {heard[0]}; mend the corpus"
        )
    model.features.fit(usable)


def find_tokenizer(
    config: Config, corpora: Corpora, given: dict[str, StageCheckpoint], folder: Path
) -> Tokenizer | None:
    """Those of the language model; the encoder needs none."""
    if not STAGE_REGISTRY[config.stage.name].has_tokenizer:
        return None
    if config.stage.init.get("lm") in given:
        return given[config.stage.init["lm"]].tokenizer
    made = folder / "tokenizer.json"
    if config.tokenizer.source != "bpe":
        tokenizer = Tokenizer.load(config.tokenizer.source)
    else:
        tokenizer = (
            Tokenizer.from_json(made.read_text())
            if made.exists()
            else Tokenizer.train(corpora.training_texts())
        )
    made.write_text(tokenizer.to_json())
    if tokenizer.size > config.lm.vocab_size:
        raise ValueError(
            f"lm.vocab_size={config.lm.vocab_size} is less than the tokenizer's {tokenizer.size}; set it to that or more"
        )
    return tokenizer
