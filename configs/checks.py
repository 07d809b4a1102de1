"""Checks of a whole configuration, made before anything is trained.

Each error names the field, its value and the remedy.
"""

import dataclasses
import math
import operator
from collections.abc import Collection
from pathlib import Path
from typing import Any

from configs.recipes import STAGES, check_names
from configs.schema import (
    Config,
    DataConfig,
    DialogueConfig,
    RunConfig,
    StageConfig,
    TrainerConfig,
)
from duplexmamba.config import (
    ConnectorConfig,
    DuplexConfig,
    EncoderConfig,
    FeaturesConfig,
    LMConfig,
    LoraConfig,
    LoraDropConfig,
)
from duplexmamba.duplex import DUPLEX_KINDS
from duplexmamba.duplex.policy import ON_ONSET
from duplexmamba.models.connectors import CONNECTORS
from duplexmamba.models.encoders import ENCODERS, check_encoder_kind, check_sample_rate
from duplexmamba.models.language_models import LANGUAGE_MODELS
from duplexmamba.models.mixers import MIXERS
from duplexmamba.models.pretrained_encoders import PRETRAINED_ENCODERS
from duplexmamba.models.timing import check_slices

SPLITS = ("train", "valid", "test")
"""Parts of a corpus, by their names here."""
COLUMNS = ("audio", "text", "answer", "speaker", "id", "duration", "offset", "split")
"""Keys of `data.sources.<name>.columns`."""
PARTS = ("features", "frontend", "encoder", "connector", "lm")
"""Parts of the model that a stage can start from another one."""
SHARES = ("synthetic_share", "in_domain_text_share", "composed_share", "max_bad_share")
"""Fields of the section `data` that lie between 0 and 1."""

LOWEST = {
    "features.sample_rate_hz": 1,
    "features.num_mels": 1,
    "features.hop_samples": 1,
    "encoder.d_model": 1,
    "encoder.d_ffn": 1,
    "connector.stack": 1,
    "connector.d_hidden": 1,
    "data.num_workers": 0,
    "optim.lr": 0,
    "optim.warmup_steps": 0,
    "optim.weight_decay": 0,
    "seed": 0,
}
"""Setting -> its lowest value, where nothing else checks it."""
RESERVED_RUN_IDS = (".", "..", "latest", "data")
"""Names in the folder of all runs that mean something else."""
MIN_NATURAL_PAUSE_MS = 200.0
"""Shortest pause of `dialogue.timing: natural`."""
MIN_EXCERPT_S = 5.0
"""Shortest `data.excerpt_s`."""


def check(config: Config) -> None:
    """Check what a type does not express: ranges, names, and fields that must fit each other.

    Raises:
        ValueError: the first mistake, with field, value and remedy.
    """
    _check_numbers("", dataclasses.asdict(config))
    for name, lowest in LOWEST.items():
        value = operator.attrgetter(name)(config)
        if value < lowest:
            raise ValueError(f"{name}={value}: must be at least {lowest}")
    _check_share("encoder.dropout", config.encoder.dropout)
    _check_run(config.run)
    _check_frontend(config)
    _check_encoder(config.encoder, config.features)
    _check_connector(config.connector)
    _check_lm(config.lm)
    _check_data(config.data)
    _check_conversations(config.data)
    _check_sources(config.data)
    _check_trainer(config.trainer)
    _check_lora(config.lora)
    _check_lora_drop(config.lora_drop)
    _check_duplex(config.duplex)
    _check_dialogue(config.dialogue, config.duplex)
    _check_stage(config)
    _check_teacher(config)


def _check_numbers(name: str, value: Any) -> None:
    """Raise ValueError for a number that is NaN or infinite: comparisons with it check nothing."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_numbers(f"{name}.{key}".lstrip("."), inner)
    elif isinstance(value, list):
        for inner in value:
            _check_numbers(name, inner)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name}={value}: must be a finite number")


def _check_run(run: RunConfig) -> None:
    """Raise ValueError where run.id is no name of a folder directly below run.dir."""
    id = run.id
    if id is None:
        return
    if id in RESERVED_RUN_IDS or Path(id).is_absolute() or ".." in Path(id).parts:
        raise ValueError(
            f"run.id={id!r}: must be the name of a folder in run.dir, and none of "
            f"{', '.join(RESERVED_RUN_IDS)}; run.dir names the folder of all runs"
        )


def _check_choice(field: str, value: str, known: Collection[str]) -> None:
    check_names([value], known, "value", field)


def _check_range(name: str, pair: list[float]) -> None:
    if len(pair) != 2 or pair[0] > pair[1]:
        raise ValueError(f"{name}={pair}: give [low, high]")


def _check_share(name: str, share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"{name}={share}: a share lies between 0 and 1")


def _check_frontend(config: Config) -> None:
    features = config.features
    if features.window_samples < features.hop_samples:
        raise ValueError(
            f"features.window_samples={features.window_samples} is shorter than "
            f"features.hop_samples={features.hop_samples}: samples would be lost; make the window "
            "at least one hop"
        )
    _check_share("frontend.masked_share", config.frontend.masked_share)
    if config.frontend.noise_std < 0:
        raise ValueError(
            f"frontend.noise_std={config.frontend.noise_std:g}: a deviation cannot be negative"
        )
    # Two convolutions of stride 2 halve the mel bands twice.
    if len(config.frontend.channels) != 2 or features.num_mels % 4:
        raise ValueError(
            f"frontend.channels={config.frontend.channels} and "
            f"features.num_mels={features.num_mels}: the front end halves the mels twice; give two "
            "channel counts and a multiple of 4 mels"
        )


def _check_encoder(encoder: EncoderConfig, features: FeaturesConfig) -> None:
    _check_choice("encoder.kind", encoder.kind, ENCODERS)
    check_encoder_kind(encoder, features)
    _check_choice("encoder.mixer", encoder.mixer, MIXERS)
    if encoder.conv_kernel % 2 == 0:
        raise ValueError(
            f"encoder.conv_kernel={encoder.conv_kernel}: must be odd to have a centre frame"
        )
    lowest = 0 if ENCODERS[encoder.kind].is_pretrained else 1
    if encoder.num_layers < lowest:
        raise ValueError(f"encoder.num_layers={encoder.num_layers}: must be at least {lowest}")
    if encoder.num_heads < 1:
        raise ValueError(f"encoder.num_heads={encoder.num_heads}: must be at least 1")
    if encoder.left_context_ms < 0:
        raise ValueError(f"encoder.left_context_ms={encoder.left_context_ms:g}: cannot be negative")
    _check_range("encoder.train_slice_ms", encoder.train_slice_ms)


def _check_connector(connector: ConnectorConfig) -> None:
    _check_choice("connector.kind", connector.kind, CONNECTORS)
    if not -1 <= connector.merge_threshold <= 1:
        raise ValueError(
            f"connector.merge_threshold={connector.merge_threshold}: a cosine; "
            "need -1 <= merge_threshold <= 1"
        )


def _check_lm(lm: LMConfig) -> None:
    _check_choice("lm.kind", lm.kind, LANGUAGE_MODELS)
    LANGUAGE_MODELS[lm.kind].check(lm)


def _check_data(data: DataConfig) -> None:
    if not 0 <= data.min_s < data.max_s:
        raise ValueError(
            f"data.min_s={data.min_s} and data.max_s={data.max_s}: need 0 <= min_s < max_s"
        )
    if data.batch_s < data.max_s:
        raise ValueError(
            f"data.batch_s={data.batch_s} is less than data.max_s={data.max_s}: the longest "
            "utterance would fit no batch; raise batch_s or lower max_s"
        )
    for name in SHARES:
        _check_share(f"data.{name}", getattr(data, name))
    _check_share("data.augment.rir_share", data.augment.rir_share)
    utterance_shares = dataclasses.asdict(data.utterance_shares)
    for name, share in utterance_shares.items():
        _check_share(f"data.utterance_shares.{name}", share)
    if sum(utterance_shares.values()) > 1:
        raise ValueError(
            f"data.utterance_shares={utterance_shares}: together they may not exceed 1; the rest "
            "is of the grammar"
        )
    for field, effects in (
        ("augment.effects", data.augment.effects),
        ("test_effects", data.test_effects),
    ):
        for name, share in dataclasses.asdict(effects).items():
            _check_share(f"data.{field}.{name}", share)
    for name in ("level_db", "snr_db", "pad_s"):
        _check_range(f"data.augment.{name}", getattr(data.augment, name))


def _check_conversations(data: DataConfig) -> None:
    if data.excerpt_s < MIN_EXCERPT_S:
        raise ValueError(
            f"data.excerpt_s={data.excerpt_s:g}: an excerpt must hold a turn and the silence around "
            f"it; give at least {MIN_EXCERPT_S:g}"
        )
    for path, weight in data.conversations.items():
        if weight <= 0:
            raise ValueError(
                f"data.conversations: the weight {weight:g} of {path} must be more than 0; leave "
                "out what is not to be used"
            )
    if data.composed_share and not data.conversations:
        raise ValueError(
            f"data.composed_share={data.composed_share:g} and no data.conversations: all dialogues "
            "are composed; name manifests, or set composed_share=0"
        )


def _check_sources(data: DataConfig) -> None:
    if data.temperature <= 0:
        raise ValueError(
            f"data.temperature={data.temperature}: must be more than 0; 1 keeps the weights as "
            "they are"
        )
    if data.worker_timeout_s < 0:
        raise ValueError(
            f"data.worker_timeout_s={data.worker_timeout_s}: cannot be negative; 0 waits for ever"
        )
    for name, source in data.sources.items():
        field = f"data.sources.{name}"
        if not source.path:
            raise ValueError(
                f"{field}.path: no value given; name a folder, a file, or a data set of the hub"
            )
        if source.weight is not None and source.weight <= 0:
            raise ValueError(
                f"{field}.weight={source.weight}: must be more than 0; leave out what is not to "
                "be used"
            )
        check_names(source.split, SPLITS, "split", f"{field}.split")
        check_names(source.columns, COLUMNS, "column", f"{field}.columns")

    # A source without a weight counts by its size, which is not comparable with a weight.
    weighted = [name for name, source in data.sources.items() if source.weight is not None]
    num_sources = len(data.sources) + bool(data.path)
    if weighted and len(weighted) < num_sources:
        raise ValueError(
            f"data.sources: only {', '.join(weighted)} has a weight; give one to every source, or "
            "to none"
        )


def _check_trainer(trainer: TrainerConfig) -> None:
    names = (
        "max_steps",
        "accumulate",
        "devices",
        "cpu_processes",
        "num_nodes",
        "valid_every_steps",
        "average_last",
        "average_every_steps",
    )
    for name in names:
        if getattr(trainer, name) < 1:
            raise ValueError(f"trainer.{name}={getattr(trainer, name)}: must be at least 1")


def _check_stage(config: Config) -> None:
    stage = config.stage
    check_names([stage.name], STAGES, "stage", "stage.name")
    if stage.ctc_weight > 0 and config.tokenizer.source != "bpe":
        raise ValueError(
            f"stage.ctc_weight={stage.ctc_weight} and tokenizer.source={config.tokenizer.source}: "
            "the CTC needs a single id for silence, which only tokenizer.source=bpe has; set "
            "stage.ctc_weight=0"
        )
    # Only sessions need whole slices; utterances are encoded with any context.
    if stage.data == "dialogues":
        check_slices(config.model, config.duplex)
        _check_training_slices(config.encoder, stage)
    _check_trained(config)
    check_names(stage.init, PARTS, "part", "stage.init")
    # A part can start from the folder of a finished run instead of a stage.
    stages = [source for source in stage.init.values() if not Path(source).is_dir()]
    check_names(stages, STAGES, "stage or run", "stage.init")
    _check_rehearsal(stage)
    if stage.response_weight <= 0:
        raise ValueError(
            f"stage.response_weight={stage.response_weight:g}: must be more than 0; 1 weighs all "
            "turn states alike"
        )


def _check_trained(config: Config) -> None:
    """Part features, the pretrained encoder, can be trained where its weights are in the model."""
    trained = config.stage.trained
    check_names(trained, PARTS, "part", "stage.trained")
    encoder = config.encoder
    if "features" in trained and not encoder.trainable:
        raise ValueError(
            f"stage.trained={trained} and encoder.trainable=false: features has no weights in the "
            "model; set encoder.kind=pretrained and encoder.trainable=true, or leave features out"
        )
    rate = config.optim.encoder_lr
    if rate is not None and rate <= 0:
        raise ValueError(f"optim.encoder_lr={rate:g}: must be more than 0; null is optim.lr")
    if rate is not None and not encoder.trainable:
        raise ValueError(
            f"optim.encoder_lr={rate:g} and encoder.trainable=false: the encoder is frozen; set "
            "encoder.trainable=true, or optim.encoder_lr=null"
        )


def _check_rehearsal(stage: StageConfig) -> None:
    """Texts are trained beside speech, and only where the language model is."""
    for field in ("texts_per_utterance", "texts_per_dialogue"):
        count = getattr(stage, field)
        if count < 0:
            raise ValueError(f"stage.{field}={count}: cannot be negative; 0 for none")
        if not count:
            continue
        if stage.data == "text" or stage.name == "encoder":
            raise ValueError(
                f"stage.{field}={count} and stage.name={stage.name}: only a stage on speech with a "
                f"language model trains texts beside it; set stage.{field}=0"
            )
        if "lm" not in stage.trained:
            raise ValueError(
                f"stage.{field}={count} and stage.trained={stage.trained}: texts train the language "
                f"model, which is frozen; add lm, or set stage.{field}=0"
            )
    if stage.texts_per_dialogue and stage.data != "dialogues":
        raise ValueError(
            f"stage.texts_per_dialogue={stage.texts_per_dialogue} and stage.data={stage.data}: "
            "there are no dialogues; set it for stages state and streaming"
        )


def _check_teacher(config: Config) -> None:
    """Only the encoder of stage encoder is distilled, and one that is trained here."""
    teacher = config.stage.teacher
    if teacher is None:
        return
    _check_choice("stage.teacher", teacher, PRETRAINED_ENCODERS)
    if config.stage.name != "encoder":
        raise ValueError(
            f"stage.teacher={teacher} and stage.name={config.stage.name}: stage encoder alone has "
            f"a teacher; set stages.encoder.stage.teacher={teacher}"
        )
    if ENCODERS[config.encoder.kind].is_pretrained:
        raise ValueError(
            f"stage.teacher={teacher} and encoder.kind={config.encoder.kind}: its features are "
            "those of a pretrained encoder already; set encoder.kind=conmamba, or "
            "stage.teacher=null"
        )
    check_sample_rate(PRETRAINED_ENCODERS[teacher], config.features.sample_rate_hz)
    if config.stage.distillation_weight <= 0:
        raise ValueError(
            f"stage.distillation_weight={config.stage.distillation_weight}: must be more than 0; "
            "set stage.teacher=null to train without a teacher"
        )


def _check_training_slices(encoder: EncoderConfig, stage: StageConfig) -> None:
    """In training on dialogues, slices longer than in sessions would show the future."""
    slices_ms = set(encoder.train_slice_ms)
    if encoder.context == "causal_lookahead" and slices_ms != {encoder.slice_ms}:
        slice_ms = f"{encoder.slice_ms:g}"
        raise ValueError(
            f"encoder.train_slice_ms={encoder.train_slice_ms} and encoder.slice_ms={slice_ms}: in "
            "dialogues longer slices would show what comes next; set "
            f"stages.{stage.name}.encoder.train_slice_ms=[{slice_ms},{slice_ms}]"
        )


def _check_lora(lora: LoraConfig) -> None:
    for name in ("rank", "alpha"):
        if getattr(lora, name) < 1:
            raise ValueError(f"lora.{name}={getattr(lora, name)}: must be at least 1")
    if not 0 <= lora.dropout < 1:
        raise ValueError(f"lora.dropout={lora.dropout}: need 0 <= dropout < 1")
    if not lora.shared_trainable and not lora.start:
        raise ValueError(
            "lora.shared_trainable=false: new adapters that are not trained add nothing; name "
            "some to go on with in lora.start"
        )
    if not lora.targets:
        raise ValueError(
            "lora.targets=[]: name the linear layers that get an adapter, such as "
            "lora.targets=[in_proj]"
        )


def _check_lora_drop(drop: LoraDropConfig) -> None:
    if not 0 < drop.threshold <= 1:
        raise ValueError(
            f"lora_drop.threshold={drop.threshold}: a share of all importance; "
            "need 0 < threshold <= 1"
        )
    if drop.keep is not None and drop.keep < 0:
        raise ValueError(
            f"lora_drop.keep={drop.keep}: cannot be negative; null goes by lora_drop.threshold"
        )
    for name in ("steps", "sample"):
        if getattr(drop, name) < 1:
            raise ValueError(f"lora_drop.{name}={getattr(drop, name)}: must be at least 1")
    if drop.rest == "frozen" and drop.start == "new":
        raise ValueError(
            "lora_drop.rest=frozen, lora_drop.start=new: new adapters that are not trained add "
            "nothing; set start=probe"
        )


def _check_duplex(duplex: DuplexConfig) -> None:
    _check_choice("duplex.kind", duplex.kind, DUPLEX_KINDS)
    _check_choice("duplex.on_onset", duplex.on_onset, ON_ONSET)
    for name in ("tokens_per_s", "max_tokens", "ignored_slices", "min_slices", "max_wait_s"):
        if getattr(duplex, name) <= 0:
            raise ValueError(f"duplex.{name}={getattr(duplex, name)}: must be more than 0")
    if not 0 < duplex.response_threshold < 1:
        raise ValueError(
            f"duplex.response_threshold={duplex.response_threshold}: need a probability between "
            "0 and 1"
        )
    if duplex.silence_db >= 0:
        raise ValueError(
            f"duplex.silence_db={duplex.silence_db}: silence is quieter than speech; must be "
            "below 0"
        )


def _check_dialogue(dialogue: DialogueConfig, duplex: DuplexConfig) -> None:
    _check_dialogue_ranges(dialogue)
    shares = dataclasses.asdict(dialogue.shares)
    if min(shares.values()) < 0 or sum(shares.values()) <= 0:
        raise ValueError(
            f"dialogue.shares={shares}: none may be negative, and one must be more than 0"
        )
    _check_share("dialogue.overlap_share", dialogue.overlap_share)
    for name in ("min_interrupted_answer_s", "words_per_s", "endpoint_silence_ms"):
        if getattr(dialogue, name) <= 0:
            raise ValueError(f"dialogue.{name}={getattr(dialogue, name)}: must be more than 0")
    if not 0 < dialogue.min_speech_ms <= duplex.slice_ms:
        raise ValueError(
            f"dialogue.min_speech_ms={dialogue.min_speech_ms} and "
            f"duplex.slice_ms={duplex.slice_ms}: a slice must be able to hold that much speech; "
            "need 0 < min_speech_ms <= slice_ms"
        )
    # Labels call a question complete after that silence, also one that only pauses.
    if dialogue.timing == "natural" and dialogue.endpoint_silence_ms >= MIN_NATURAL_PAUSE_MS:
        raise ValueError(
            f"dialogue.timing=natural and dialogue.endpoint_silence_ms="
            f"{dialogue.endpoint_silence_ms:g}: natural pauses last {MIN_NATURAL_PAUSE_MS:g} ms and "
            "more, and must be longer than the silence that completes a question; lower "
            "endpoint_silence_ms"
        )
    if 1000 * dialogue.pause_s[0] <= dialogue.endpoint_silence_ms:
        raise ValueError(
            f"dialogue.pause_s={dialogue.pause_s} and "
            f"dialogue.endpoint_silence_ms={dialogue.endpoint_silence_ms}: a pause must be longer "
            "than the silence that completes a question; raise pause_s or lower endpoint_silence_ms"
        )
    level_span_db = dialogue.level_db[1] - dialogue.level_db[0]
    if level_span_db >= -dialogue.background_speech_db[1]:
        raise ValueError(
            f"dialogue.level_db={dialogue.level_db} and "
            f"dialogue.background_speech_db={dialogue.background_speech_db}: a loud background "
            "would be as loud as a quiet user; narrow level_db or lower background_speech_db"
        )


def _check_dialogue_ranges(dialogue: DialogueConfig) -> None:
    # All lists of the section are ranges; levels in dB may be negative, everything else may not.
    for field in dataclasses.fields(dialogue):
        if "list" not in str(field.type):
            continue
        pair = getattr(dialogue, field.name)
        if pair is None:
            continue
        _check_range(f"dialogue.{field.name}", pair)
        if pair[0] < 0 and not field.name.endswith("_db"):
            raise ValueError(f"dialogue.{field.name}={pair}: cannot be negative")
    if dialogue.events[0] < 1:
        raise ValueError(f"dialogue.events={dialogue.events}: a dialogue has at least one")
