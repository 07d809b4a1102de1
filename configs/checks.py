"""What a configuration cannot be, said before anything is trained: the field, its value, and what to do."""

import dataclasses
import difflib
import itertools
from pathlib import Path

from configs.schema import Config, DataConfig, DialogueConfig, TrainerConfig
from duplexmamba.config import DuplexConfig, EncoderConfig, LMConfig, LoraConfig, LoraDropConfig  # fmt: skip
from duplexmamba.models.timing import check_slices

STAGES = ("encoder", "lm", "asr", "instruct", "state", "streaming")
SPLITS = ("train", "valid", "test")
COLUMNS = ("audio", "text", "answer", "speaker", "id", "duration", "offset", "split")
"""What a source's columns may be named for."""
ON_DIALOGUES = ("state", "streaming")
"""Stages that train on dialogues."""


def check_names(given, known, what: str, where: str) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{where}: unknown {what} {name!r}.{hint} Known: {', '.join(known)}.")


def check(config: Config) -> None:
    """Raises ValueError: mistakes that only two fields together show, and ranges that a type does not hold."""
    _check_front_end(config)
    _check_encoder(config.encoder)
    if not -1 <= config.connector.merge_threshold <= 1:
        raise ValueError(
            f"connector.merge_threshold={config.connector.merge_threshold}: a cosine; need -1 <= merge_threshold <= 1"
        )
    _check_lm(config.lm)
    _check_data(config.data)
    _check_sources(config.data)
    _check_trainer(config.trainer)
    _check_lora(config.lora)
    _check_lora_drop(config.lora_drop)
    _check_duplex(config.duplex)
    _check_dialogue(config.dialogue, config.duplex)
    _check_stage(config)


def _check_front_end(config: Config) -> None:
    features = config.features
    if features.window_samples < features.hop_samples:
        raise ValueError(
            f"features.window_samples={features.window_samples} is shorter than "
            f"features.hop_samples={features.hop_samples}: samples would be lost; make the window at least one hop"
        )
    if len(config.frontend.channels) != 2 or features.num_mels % 4:
        raise ValueError(
            f"frontend.channels={config.frontend.channels} and features.num_mels={features.num_mels}: "
            "the front end halves the mels twice; give two channel counts and a multiple of 4 mels"
        )


def _check_encoder(encoder: EncoderConfig) -> None:
    if encoder.conv_kernel % 2 == 0:
        raise ValueError(
            f"encoder.conv_kernel={encoder.conv_kernel}: must be odd to have a centre frame"
        )
    if encoder.num_heads < 1:
        raise ValueError(f"encoder.num_heads={encoder.num_heads}: must be at least 1")
    if encoder.left_context_ms < 0:
        raise ValueError(f"encoder.left_context_ms={encoder.left_context_ms:g}: cannot be negative")
    _check_range("encoder.train_slice_ms", encoder.train_slice_ms)


def _check_range(name: str, pair: list[float]) -> None:
    if len(pair) != 2 or pair[0] > pair[1]:
        raise ValueError(f"{name}={pair}: give [low, high]")


def _check_lm(lm: LMConfig) -> None:
    if lm.kind == "mamba2" and lm.expand * lm.d_model % (lm.head_dim * lm.num_groups):
        raise ValueError(
            f"lm.expand={lm.expand} * lm.d_model={lm.d_model} channels do not make heads of lm.head_dim={lm.head_dim} "
            f"in lm.num_groups={lm.num_groups} equal groups: make them a multiple of {lm.head_dim * lm.num_groups}"
        )
    if lm.kind == "transformer" and not _divide(
        lm.d_model, 8 * lm.num_heads, 8 * (lm.num_kv_heads or lm.num_heads)
    ):
        raise ValueError(
            f"lm.d_model={lm.d_model}, lm.num_heads={lm.num_heads}, lm.num_kv_heads={lm.num_kv_heads}: d_model must be "
            "a multiple of 8 * num_heads, and num_heads one of num_kv_heads"
        )


SHARES = ("synthetic_share", "in_domain_text_share", "max_bad_share")


def _check_data(data: DataConfig) -> None:
    if not 0 <= data.min_s < data.max_s:
        raise ValueError(
            f"data.min_s={data.min_s} and data.max_s={data.max_s}: need 0 <= min_s < max_s"
        )
    if data.batch_s < data.max_s:
        raise ValueError(
            f"data.batch_s={data.batch_s} is less than data.max_s={data.max_s}: the longest utterance would fit no "
            "batch; raise batch_s or lower max_s"
        )
    shares = {f"data.{name}": getattr(data, name) for name in SHARES}
    for name, share in {**shares, "data.augment.rir_share": data.augment.rir_share}.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name}={share}: a share lies between 0 and 1")
    for name in ("level_db", "snr_db", "pad_s"):
        _check_range(f"data.augment.{name}", getattr(data.augment, name))


def _check_trainer(trainer: TrainerConfig) -> None:
    counts = (
        "max_steps",
        "accumulate",
        "devices",
        "cpu_processes",
        "num_nodes",
        "valid_every_steps",
    )
    for name in (*counts, "average_last", "average_every_steps"):
        if getattr(trainer, name) < 1:
            raise ValueError(f"trainer.{name}={getattr(trainer, name)}: must be at least 1")


def _check_stage(config: Config) -> None:
    stage, source = config.stage, config.tokenizer.source
    if stage.ctc_weight > 0 and source != "bpe":
        raise ValueError(
            f"stage.ctc_weight={stage.ctc_weight} and tokenizer.source={source}: the CTC needs a single id for "
            "silence, which only tokenizer.source=bpe has; set stage.ctc_weight=0"
        )
    if stage.name in ON_DIALOGUES:
        check_slices(config.model, config.duplex)
        _check_training_slices(config)
    check_names(stage.trained, ("frontend", "encoder", "connector", "lm"), "part", "stage.trained")
    check_names(
        stage.init, ("features", "frontend", "encoder", "connector", "lm"), "part", "stage.init"
    )
    check_names(
        [s for s in stage.init.values() if not Path(s).is_dir()],
        STAGES,
        "stage or run",
        "stage.init",
    )


def _divide(*sizes: int) -> bool:
    """Whether each is a multiple of the next."""
    return min(sizes) > 0 and not any(large % small for large, small in itertools.pairwise(sizes))


def _check_sources(data: DataConfig) -> None:
    if data.temperature <= 0:
        raise ValueError(
            f"data.temperature={data.temperature}: must be more than 0; 1 keeps the weights as they are"
        )
    if data.worker_timeout_s < 0:
        raise ValueError(
            f"data.worker_timeout_s={data.worker_timeout_s}: cannot be negative; 0 waits for ever"
        )
    for name, source in data.sources.items():
        where = f"data.sources.{name}"
        if not source.path:
            raise ValueError(
                f"{where}.path: no value given; name a folder, a file, or a data set of the hub"
            )
        if source.weight is not None and source.weight <= 0:
            raise ValueError(
                f"{where}.weight={source.weight}: must be more than 0; leave out what is not to be used"
            )
        check_names(source.split, SPLITS, "split", f"{where}.split")
        check_names(source.columns, COLUMNS, "column", f"{where}.columns")
    weighted = [name for name, source in data.sources.items() if source.weight is not None]
    if weighted and len(weighted) < len(data.sources) + bool(data.path):
        raise ValueError(
            f"data.sources: only {', '.join(weighted)} has a weight; give one to every source, or to none"
        )


def _check_training_slices(config: Config) -> None:
    encoder = config.encoder
    if encoder.context == "causal_lookahead" and set(encoder.train_slice_ms) != {encoder.slice_ms}:
        raise ValueError(
            f"encoder.train_slice_ms={encoder.train_slice_ms} and encoder.slice_ms={encoder.slice_ms:g}: in dialogues "
            f"longer slices would tell what comes; set stages.{config.stage.name}.encoder.train_slice_ms="
            f"[{encoder.slice_ms:g},{encoder.slice_ms:g}]"
        )


def _check_lora(lora: LoraConfig) -> None:
    for name in ("rank", "alpha"):
        if getattr(lora, name) < 1:
            raise ValueError(f"lora.{name}={getattr(lora, name)}: must be at least 1")
    if not 0 <= lora.dropout < 1:
        raise ValueError(f"lora.dropout={lora.dropout}: need 0 <= dropout < 1")
    if not lora.shared_trainable and not lora.start:
        raise ValueError(
            "lora.shared_trainable=false: new adapters that do not learn add nothing; name some to go on with in lora.start"
        )
    if not lora.targets:
        raise ValueError(
            "lora.targets=[]: name the linears that get an adapter, such as lora.targets=[in_proj]"
        )


def _check_lora_drop(drop: LoraDropConfig) -> None:
    if not 0 < drop.threshold <= 1:
        raise ValueError(
            f"lora_drop.threshold={drop.threshold}: a share of all importance; need 0 < threshold <= 1"
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
            "lora_drop.rest=frozen, lora_drop.start=new: new adapters that do not learn add nothing; set start=probe"
        )


def _check_duplex(duplex: DuplexConfig) -> None:
    for name in ("tokens_per_s", "max_tokens", "ignored_slices", "min_slices", "max_wait_s"):
        if getattr(duplex, name) <= 0:
            raise ValueError(f"duplex.{name}={getattr(duplex, name)}: must be more than 0")
    if not 0 < duplex.response_threshold < 1:
        raise ValueError(
            f"duplex.response_threshold={duplex.response_threshold}: need a probability between 0 and 1"
        )
    if duplex.silence_db >= 0:
        raise ValueError(
            f"duplex.silence_db={duplex.silence_db}: silence is quieter than speech; must be below 0"
        )


def _check_dialogue(dialogue: DialogueConfig, duplex: DuplexConfig) -> None:
    ranges = {
        f.name: getattr(dialogue, f.name)
        for f in dataclasses.fields(dialogue)
        if "list" in str(f.type)
    }
    for name, pair in ranges.items():
        _check_range(f"dialogue.{name}", pair)
        if pair[0] < 0 and not name.endswith("_db"):
            raise ValueError(f"dialogue.{name}={pair}: cannot be negative")
    if dialogue.events[0] < 1:
        raise ValueError(f"dialogue.events={dialogue.events}: a dialogue has at least one")
    shares = dataclasses.asdict(dialogue.shares)
    if min(shares.values()) < 0 or sum(shares.values()) <= 0:
        raise ValueError(
            f"dialogue.shares={shares}: none may be negative, and one must be more than 0"
        )
    if not 0 <= dialogue.overlap_share <= 1:
        raise ValueError(
            f"dialogue.overlap_share={dialogue.overlap_share}: a share lies between 0 and 1"
        )
    for name in ("min_interrupted_answer_s", "words_per_s", "endpoint_silence_ms"):
        if getattr(dialogue, name) <= 0:
            raise ValueError(f"dialogue.{name}={getattr(dialogue, name)}: must be more than 0")
    if not 0 < dialogue.min_speech_ms <= duplex.slice_ms:
        raise ValueError(
            f"dialogue.min_speech_ms={dialogue.min_speech_ms} and duplex.slice_ms={duplex.slice_ms}: "
            "a slice must be able to hold that much speech; need 0 < min_speech_ms <= slice_ms"
        )
    if 1000 * dialogue.pause_s[0] <= dialogue.endpoint_silence_ms:
        raise ValueError(
            f"dialogue.pause_s={dialogue.pause_s} and dialogue.endpoint_silence_ms={dialogue.endpoint_silence_ms}: a pause must be longer "
            "than the silence that completes a question; raise pause_s or lower endpoint_silence_ms"
        )
    if dialogue.level_db[1] - dialogue.level_db[0] >= -dialogue.background_speech_db[1]:
        raise ValueError(
            f"dialogue.level_db={dialogue.level_db} and dialogue.background_speech_db={dialogue.background_speech_db}: a loud "
            "background would be as loud as a quiet user; narrow level_db or lower background_speech_db"
        )
