"""Builds a stage from its configuration: model, initial weights, tokenizer, module and data."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from configs.schema import Config
from datamodules.corpora import Corpora
from datamodules.corpus import Utterance
from datamodules.data import StageData
from datamodules.dialogue.text_dialogues import open_text_dialogues
from duplexmamba.models import lora
from duplexmamba.models.connectors import CONNECTORS
from duplexmamba.models.encoders import ENCODERS
from duplexmamba.models.language_models import load_pretrained
from duplexmamba.models.speech_lm import SpeechEncoder, SpeechLM, part_of
from duplexmamba.text.tokenizer import Tokenizer
from lightning_modules.dialogue import DialogueStage
from lightning_modules.lm import TextModel
from lightning_modules.speech import SpeechStage
from lightning_modules.stage import StageModule
from lightning_modules.stages import STAGE_REGISTRY
from lightning_modules.trainer.activation_checkpointing import checkpoint_activations
from lightning_modules.trainer.checkpoint import StageCheckpoint, load_ctc_head, load_parts
from lightning_modules.trainer.feature_cache import cached_features_of
from lightning_modules.trainer.feature_items import FeatureItems
from lightning_modules.trainer.fsdp import full_tensor
from lightning_modules.trainer.hardware import trains_on_cpu
from lightning_modules.trainer.precompute import PrecomputeFrames, can_precompute
from lightning_modules.trainer.teacher_items import TeacherItems, build_teacher

NUM_NORM_UTTERANCES = 64
"""Training utterances from which the normalisation of the features is computed."""


def build(
    config: Config, corpora: Corpora, checkpoints: Mapping[str, StageCheckpoint], folder: Path
) -> tuple[StageModule, StageData]:
    """Build a stage's module, with the weights it starts from, and its data.

    Args:
        config: of the stage.
        corpora: the data of all stages.
        checkpoints: of the stages and runs that `stage.init` names.
        folder: the run's folder, where a new tokenizer is saved.

    Raises:
        ValueError: a checkpoint, the tokenizer or the corpus does not fit the configuration.
    """
    stage = STAGE_REGISTRY[config.stage.name]
    tokenizer = find_tokenizer(config, corpora, checkpoints, folder)
    torch.manual_seed(config.seed)
    model = stage.model(config.model)
    _load_initial_weights(model, config, checkpoints)
    if isinstance(model, SpeechEncoder) and _starts_without_norm(config, checkpoints):
        fit_feature_norm(model, corpora)
    # adapters are added to the weights that they adapt, so after these are loaded
    if config.lora.enabled:
        lora.adapt(model, config.lora, config.stage.trained)
    learn_marker_rows(model, config, tokenizer)
    if config.trainer.activation_checkpointing:
        checkpoint_activations(model)
    module = stage.module(config, model, tokenizer)
    if config.stage.texts_per_utterance:
        assert isinstance(module, SpeechStage), module
        module.texts = corpora.stream.qa_pair
    if config.stage.texts_per_dialogue:
        assert isinstance(module, DialogueStage), module
        module.text_dialogues = open_text_dialogues(config)
    data = stage.data(config, corpora)
    if ENCODERS[config.encoder.kind].is_pretrained and not config.encoder.trainable:
        _add_features(data, model, config)
    elif isinstance(model, SpeechEncoder) and can_precompute(config, model):
        data.precompute = PrecomputeFrames(model)
    if config.stage.teacher is not None:
        _add_teacher(data, config, corpora)
    return module, data


def _add_features(data: StageData, model: nn.Module, config: Config) -> None:
    """Let the data workers compute the features of a pretrained encoder, or read them.

    On a GPU, where nothing is repeated, the training itself computes them.
    """
    is_repeated = config.data.train_size > 0 or config.data.train_dialogues > 0
    if not is_repeated and not trains_on_cpu(config.trainer):
        return
    train = cached_features_of(model, config, training=True)
    scored = cached_features_of(model, config, training=False)
    if train is not None and scored is not None:
        data.add_features = functools.partial(FeatureItems, cache=train, config=config)
        data.add_scored_features = functools.partial(FeatureItems, cache=scored, config=config)


def _add_teacher(data: StageData, config: Config, corpora: Corpora) -> None:
    """Let the data workers compute the features of the teacher for what is trained on."""
    teacher = build_teacher(config, str(config.stage.teacher))
    # a resumed run computes the same statistics from the same utterances
    teacher.fit(_norm_signals(corpora))
    data.add_features = functools.partial(TeacherItems, teacher=teacher, config=config)


def _starts_without_norm(config: Config, checkpoints: Mapping[str, StageCheckpoint]) -> bool:
    """Whether no checkpoint has the normalisation of the features."""
    init = config.stage.init
    if ENCODERS[config.encoder.kind].is_pretrained:
        # stage encoder, which the recipe names, is not trained for a pretrained one
        return init.get("encoder") not in checkpoints
    return "features" not in init


def _load_initial_weights(
    model: nn.Module, config: Config, checkpoints: Mapping[str, StageCheckpoint]
) -> None:
    """Load the parts that `stage.init` names, and pretrained models."""
    init = config.stage.init
    if config.encoder.trainable and isinstance(model, SpeechEncoder):
        _load_pretrained_encoder(model, checkpoints.get(init.get("features", "")))
    for source, checkpoint in checkpoints.items():
        parts = [part for part, part_source in init.items() if part_source == source]
        load_parts(model, checkpoint, parts, source)
    # the head of a ctc connector starts from that of stage encoder, unless a connector is loaded
    if (
        CONNECTORS[config.connector.kind].starts_from_ctc_head
        and "encoder" in init
        and "connector" not in init
    ):
        source = init["encoder"]
        load_ctc_head(model, checkpoints[source], source)
    # with lm.pretrained, source `lm` is the pretrained model and not a run of stage lm
    pretrained = config.lm.pretrained if init.get("lm", "lm") == "lm" else None
    if pretrained and isinstance(model, SpeechLM | TextModel):
        load_pretrained(model.lm, pretrained)


def _load_pretrained_encoder(model: SpeechEncoder, checkpoint: StageCheckpoint | None) -> None:
    """Load a pretrained encoder, unless the checkpoint has it.

    That of a run with a frozen encoder gets its weights, which `load_parts` then finds there.
    """
    if checkpoint is not None and checkpoint.config.encoder.trainable:
        return
    # imported here, because transformers takes seconds and most models start without it
    from duplexmamba.models.encoders.trainable import TrainableEncoder

    features = model.features
    assert isinstance(features, TrainableEncoder), features
    features.load_pretrained()
    if checkpoint is not None:
        for name, weight in features.model.state_dict(prefix="features.model.").items():
            checkpoint.weights.setdefault(name, weight)


def learn_marker_rows(model: nn.Module, config: Config, tokenizer: Tokenizer | None) -> None:
    """Let the markers of turn states learn, where a pretrained language model is frozen.

    It has never seen them. Rows that nothing has been learnt for start anew.
    """
    if config.lm.pretrained is None or "lm" in config.stage.trained:
        return
    if tokenizer is None or not isinstance(model, SpeechLM):
        return
    ids = sorted(tokenizer.turn_state_ids.values())
    model.lm.learn_rows(ids, tokenizer.added_ids)


def unsharded(module: StageModule) -> StageModule:
    """The stage with all its weights on every rank, for export and test after training.

    Every rank has to call it. A module that is not sharded is returned as it is.
    """
    if not isinstance(module, FSDPModule):
        return module
    config = module.config
    stage = STAGE_REGISTRY[config.stage.name]
    model = stage.model(config.model)
    if config.lora.enabled:
        # the names alone: the weights are loaded below, without a start of the adapters' own
        lora_config = dataclasses.replace(config.lora, start=None)
        lora.adapt(model, lora_config, config.stage.trained)
    learn_marker_rows(model, config, module.tokenizer)
    weights = {
        name: full_tensor(weight).cpu() for name, weight in module.model.state_dict().items()
    }
    model.load_state_dict(weights)
    whole_module = stage.module(config, model, module.tokenizer)
    whole_module.num_seen = module.num_seen
    whole_module.skipped = module.skipped
    whole_module.updates = module.updates
    return whole_module


def check_adapters(config: Config) -> None:
    """Check that adapters are only added to trained weights. Takes no memory for weights.

    Raises:
        ValueError: an adapter's part would start from random weights.
    """
    if not config.lora.enabled:
        return
    with torch.device("meta"):
        model = STAGE_REGISTRY[config.stage.name].model(config.model)
    targets = lora.targets(model, config.lora, config.stage.trained)
    if config.encoder.trainable and isinstance(model, SpeechEncoder):
        _check_encoder_adapters(model, targets)
    initialised = set(config.stage.init)
    if config.lm.pretrained:
        initialised.add("lm")
    if config.encoder.trainable:
        initialised.add("features")
    random_parts = {part_of(name) for name in targets} - initialised
    if random_parts:
        raise ValueError(
            f"lora.targets={config.lora.targets}: stage {config.stage.name} trains "
            f"{', '.join(sorted(random_parts))} "
            "from random weights, of which adapters would keep most as they are; "
            "set lora.enabled=false"
        )


def _check_encoder_adapters(model: SpeechEncoder, targets: list[str]) -> None:
    """Check that adapters of a pretrained encoder have an effect.

    Raises:
        ValueError: the library reads the weights of a layer without calling it.
    """
    # imported here, because transformers takes seconds and most models start without it
    from duplexmamba.models.encoders.trainable import TrainableEncoder

    features = model.features
    assert isinstance(features, TrainableEncoder), features
    bare = features.library.architecture.bare_layers
    for name in targets:
        if part_of(name) == "features" and name.endswith(bare):
            raise ValueError(
                f"lora.targets: an adapter on {name} would have no effect, since transformers "
                f"multiplies by the weights of {', '.join(bare)} without calling these layers; name "
                "others, such as features.*.intermediate_dense, or train the encoder without lora"
            )


def fit_feature_norm(model: SpeechEncoder, corpora: Corpora) -> None:
    """Compute the normalisation of the features from training utterances.

    Raises:
        ValueError: none of them can be used.
    """
    model.features.fit(_norm_signals(corpora))


def _norm_signals(corpora: Corpora) -> list[Tensor]:
    """Return the (n,) signals of the training utterances that features are normalised by.

    They are taken after the ramp of synthetic speech, so that all sources have their final shares.

    Raises:
        ValueError: none of them can be used.
    """
    first = corpora.stream.ramp
    items = [corpora.stream[i] for i in range(first, first + NUM_NORM_UTTERANCES)]
    signals = [torch.from_numpy(item.samples) for item in items if isinstance(item, Utterance)]
    if not signals:
        raise ValueError(
            f"none of the first {NUM_NORM_UTTERANCES} training utterances can be used: "
            f"{items[0]}; repair the corpus"
        )
    return signals


def find_tokenizer(
    config: Config, corpora: Corpora, checkpoints: Mapping[str, StageCheckpoint], folder: Path
) -> Tokenizer | None:
    """The tokenizer of the stage; None if it needs none.

    It comes from the checkpoint that the language model starts from. Otherwise it is loaded or
    trained as `tokenizer.source` says, and saved as tokenizer.json in the run's folder.

    Raises:
        ValueError: it has more tokens than the language model.
    """
    if not STAGE_REGISTRY[config.stage.name].has_tokenizer:
        return None
    lm_source = config.stage.init.get("lm")
    if lm_source is not None and lm_source in checkpoints:
        return checkpoints[lm_source].tokenizer
    file = folder / "tokenizer.json"
    if file.exists():
        # of this run, before it was interrupted; a chat template may have a date in it
        tokenizer = Tokenizer.from_json(file.read_text())
    elif config.tokenizer.source != "bpe":
        tokenizer = Tokenizer.load(config.tokenizer.source)
    else:
        tokenizer = Tokenizer.train(corpora.training_texts())
    file.write_text(tokenizer.to_json())
    check_vocabulary(tokenizer, config)
    return tokenizer


def check_vocabulary(tokenizer: Tokenizer, config: Config) -> None:
    """Check that there is an embedding for each id of a tokenizer, the turn states' included.

    Raises:
        ValueError: it has more ids than the language model has embeddings.
    """
    if tokenizer.vocab_size > config.lm.vocab_size:
        raise ValueError(
            f"lm.vocab_size={config.lm.vocab_size} is less than the tokenizer's "
            f"{tokenizer.vocab_size}, which include the turn states; set "
            f"lm.vocab_size={tokenizer.vocab_size} or more: a pretrained language model gets new "
            "embeddings for those that it lacks"
        )
