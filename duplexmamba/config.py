"""The whole configuration: what each field means, its unit, and how files and `key=value` become one `Config`.

`configs/base.yaml` holds every value; the files named on the command line hold differences; `key=value` comes last:

    python train.py configs/preset/tiny.yaml configs/stage/asr.yaml optim.lr=1e-3

A file may carry a map `stages: {asr: {...}, ...}` of differences that hold for one stage alone; so may the command
line (`stages.lm.optim.lr=1e-3`), to reach a stage that the asked one stands on.
"""

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
STAGES = ("encoder", "lm", "asr", "instruct", "state", "streaming")
ON_DIALOGUES = ("state", "streaming")
"""Stages that train on dialogues."""
OWN_TO_A_STAGE = ("stage", "optim", "trainer", "run", "wandb")
"""Sections that `key=value` sets for the asked stage only; every other section holds for the stages beneath it too."""
NOT_PART_OF_THE_RESULT = (
    "run", "wandb", "data.num_workers", "trainer.checkpoint_every_s", "trainer.keep_freed_memory",
)  # fmt: skip
"""What may differ between two runs that are the same experiment."""


@dataclasses.dataclass(frozen=True)
class FeaturesConfig:
    """Log-mel frames."""

    sample_rate_hz: int
    num_mels: int
    window_samples: int
    """Samples seen by one frame; also the length of its Fourier transform."""
    hop_samples: int


@dataclasses.dataclass(frozen=True)
class FrontendConfig:
    """Two convolutions of stride 2 in time and mel: four log-mel frames become one encoder frame."""

    channels: list[int]


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """ConMamba."""

    d_model: int
    num_layers: int
    d_ffn: int
    conv_kernel: int
    """Encoder frames seen by the depthwise convolution."""
    d_state: int
    d_conv: int
    expand: int
    context: Literal["full", "slice", "carried", "carried_lookback"]
    """What a frame sees. full: the whole utterance, both ways (as published). slice: its slice, both ways, each slice
    from nothing (as published for streaming). carried: all before it, by a state. carried_lookback: all before it, by a
    state, and the rest of its slice, by a scan that runs back from the slice's end."""
    slice_ms: float
    """Milliseconds of a slice, where context has slices: a multiple of one speech embedding."""
    train_slice_ms: list[float]
    """carried_lookback in training: each batch draws the length of its slices from this range [low, high]."""
    dropout: float


@dataclasses.dataclass(frozen=True)
class ConnectorConfig:
    """Encoder frames to language-model embeddings."""

    stack: int
    """Encoder frames concatenated into one embedding."""
    d_hidden: int


@dataclasses.dataclass(frozen=True)
class LMConfig:
    """Mamba language model."""

    kind: Literal["mamba", "mamba2"]
    """Its mixers: Mamba-1 (as published) or Mamba-2, which is made for a larger d_state (64 to 256)."""
    d_model: int
    num_layers: int
    d_state: int
    d_conv: int
    expand: int
    head_dim: int
    """mamba2 only: channels that share one decay; expand * d_model is a multiple of head_dim * num_groups."""
    num_groups: int
    """mamba2 only: groups of heads, each with its own B and C."""
    vocab_size: int
    """Rows of the embedding; at least the tokenizer's size."""
    pretrained: str | None
    """Folder or hub name of a `MambaForCausalLM` or `Mamba2ForCausalLM` in the transformers layout; null: trained here
    by stage lm."""


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """Text to ids."""

    source: str
    """`bpe`: byte-level BPE made from the run's own training text; else a folder or hub name for AutoTokenizer."""


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Random changes to training audio. Ranges are [low, high], drawn uniformly."""

    speeds: list[float]
    """Factors of speed (and pitch) perturbation, one drawn per utterance."""
    level_db: list[float]
    """Loudness (root mean square) in dB relative to full scale."""
    noise_share: float
    """Share of utterances that get noise."""
    snr_db: list[float]
    """Speech-to-noise ratio where noise is added."""
    pad_s: list[float]
    """Seconds of near-silence put before and after each utterance."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Corpora and batches."""

    path: str | None
    """Your own speech: LibriSpeech-layout folder, JSONL manifest or lhotse manifest; null: synthetic speech alone."""
    synthetic_share: float
    """With a path: share of training utterances that are synthetic all the same."""
    synthetic_ramp: int
    """Utterances over which that share falls from 1 at the start of a stage, where it is not 0: hearing begins with the
    easier speech."""
    min_s: float
    max_s: float
    """Utterances shorter or longer than this (seconds) are skipped and counted."""
    max_bad_share: float
    """Share of files that may be skipped as unusable before the run stops."""
    batch_s: float
    """Seconds of audio in one batch, padding included."""
    batch_texts: int
    """Texts in one batch of stage lm."""
    batch_dialogues: int
    """Dialogues in one batch of the stages state and streaming."""
    valid_size: int
    test_size: int
    """Utterances scored in validation and at the end."""
    valid_dialogues: int
    test_dialogues: int
    """Dialogues scored so, in the stages that train on them."""
    num_workers: int
    """Processes that make or read audio."""
    augment: AugmentConfig


@dataclasses.dataclass(frozen=True)
class DuplexConfig:
    """When a session answers, listens on or drops what it heard; training follows the same rules."""

    slice_ms: float
    """Milliseconds between two decisions: a multiple of one speech embedding, and of encoder.slice_ms where the
    encoder's context has slices."""
    tokens_per_s: float
    """Pace of the answers."""
    max_tokens: int
    """Of an answer; a longer one is cut off."""
    response_above: float
    """Probability of `response` from which it is answered; below it the likelier of the other two states holds."""
    ignored_slices: int
    """Slices in a row that are to be ignored, until what was heard is dropped."""
    min_slices: int
    """Slices listened to before an answer."""
    max_wait_s: float
    """Silence after which a question that still seems incomplete is answered."""
    silence_db: float
    """Level relative to the loudest slice of the question below which a slice is silence to max_wait_s."""


@dataclasses.dataclass(frozen=True)
class SharesConfig:
    """How often each kind of event occurs in a dialogue: weights, of any sum."""

    question: float
    """A question or order after any earlier answer is over."""
    cut_question: float
    """The same, broken off in mid-phrase, and continued after a pause."""
    interruption: float
    """A question that begins during an answer and takes its place."""
    aside: float
    """Something said at the same loudness to somebody else."""
    background: float
    """Somebody else, further away."""
    noise: float
    """White, pink, humming, or the babble of many voices."""
    backchannel: float
    """A listener's word during an answer: mhm, okay, right."""
    silence: float
    """A long time without any event."""


@dataclasses.dataclass(frozen=True)
class DialogueConfig:
    """Dialogues made for the turn-taking stages. Ranges are [low, high], drawn uniformly."""

    events: list[int]
    """How many events a dialogue has."""
    shares: SharesConfig
    over_answer_share: float
    """Share of the asides, background voices and noises next after a question that fall into its answer."""
    interrupted_s: float
    """Seconds that an answer lasts at least where something falls into it."""
    words_per_s: float
    """Pace of the model's answers, as far as it decides on what falls into them."""
    gap_s: list[float]
    """Seconds from the slice that decides on an event, or from the end of the answer, to the next event."""
    pause_s: list[float]
    """Seconds of silence within a cut question; more than settle_ms, or it would seem complete."""
    silence_s: list[float]
    noise_s: list[float]
    """Seconds of the events silence and noise."""
    min_speech_ms: float
    """Speech that a slice holds at least when it is the first labelled incomplete."""
    settle_ms: float
    """Silence after the last sound of a question, before it counts as complete."""
    level_db: list[float]
    """Loudness (root mean square) of the user's speech in dB relative to full scale, one for a dialogue."""
    background_db: list[float]
    """Loudness of background voices relative to the user's; level_db spans less than they are apart, or a quiet user
    and a loud background would be alike."""
    noise_snr_db: list[float]
    """The user's loudness over that of the event noise."""
    room_snr_db: list[float]
    """The user's loudness over that of the room's own noise, which never stops."""


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """What one stage trains, and where the rest comes from."""

    name: Literal["encoder", "lm", "asr", "instruct", "state", "streaming"]
    trained: list[str]
    """Parts of the model that learn: frontend, encoder, connector, lm; the others are frozen."""
    init: dict[str, str]
    """Part -> the stage whose hand-over it starts from, or the folder of a finished run; a part not named starts at
    random (or from lm.pretrained)."""
    speech_like_text: float
    """Stage lm: share of texts whose words arrive at the pace of speech, gaps included."""
    answer_share: float
    """Share of the items that have an answer on which it is asked for; the others are to be transcribed."""
    utterances: int
    """Stages state and streaming: single utterances beside each dialogue, to be transcribed or answered as in instruct,
    lest that be forgotten."""
    probes: int
    """Stages state and streaming: slices of each question, aside or other sound that are judged in training; those that
    settle it first."""
    ctc_weight: float
    """Stage asr: weight of a CTC loss that pulls speech embeddings towards those of the words said; 0: as published."""


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedule."""

    lr: float
    """Peak learning rate."""
    betas: list[float]
    eps: float
    weight_decay: float
    warmup_steps: int
    schedule: Literal["inverse_sqrt", "cosine"]
    clip: float
    """Largest norm of the gradient."""
    label_smoothing: float


@dataclasses.dataclass(frozen=True)
class TrainerConfig:
    """How long, on what, and what is kept."""

    max_steps: int
    """Optimiser updates."""
    accumulate: int
    """Batches per update."""
    accelerator: str
    devices: int
    precision: Literal["auto", "32-true", "bf16-mixed"]
    """auto: bf16 where the GPU has it, else float32."""
    matmul_precision: Literal["auto", "highest", "high", "medium"]
    """Of float32 products, as torch.set_float32_matmul_precision has it. auto: medium, which is twice as fast on many
    CPUs, where it is as exact as float32 there (measured at start), else highest."""
    threads: int
    """Torch threads per process on CPU; 0: torch's own choice."""
    keep_freed_memory: bool
    """Let the C library keep what is freed for the next step instead of handing it back to the system: faster with
    long sequences, for a larger process. Linux with glibc only; elsewhere without effect."""
    valid_every_steps: int
    checkpoint_every_s: float
    """Seconds between the checkpoints from which a killed run goes on."""
    average_last: int
    """Checkpoints averaged at hand-over."""
    average_every_steps: int
    """Updates between those."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Where a run lies and what makes it repeatable."""

    dir: str
    """Folder that holds all runs."""
    id: str | None
    """Name of the run's folder; null: stage, preset and a fingerprint of the configuration, so that the same command
    finds the same run."""


@dataclasses.dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases."""

    mode: Literal["auto", "online", "offline", "disabled"]
    """auto: online with an API key, else offline."""
    project: str


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment."""

    preset: str
    seed: int
    features: FeaturesConfig
    frontend: FrontendConfig
    encoder: EncoderConfig
    connector: ConnectorConfig
    lm: LMConfig
    tokenizer: TokenizerConfig
    data: DataConfig
    duplex: DuplexConfig
    dialogue: DialogueConfig
    stage: StageConfig
    optim: OptimConfig
    trainer: TrainerConfig
    run: RunConfig
    wandb: WandbConfig


def load_config(args: list[str], stage: str | None = None) -> Config:
    """YAML paths and `key=value` words -> Config.

    Args:
        args: paths (merged in order) and dot-list words (merged last).
        stage: build the configuration of this stage instead of the one named in `args`: its stage file replaces
            theirs, and of the dot-list only what holds for every stage, or `stages.<stage>.` for it, is kept.

    Raises:
        ValueError: a file, key or value that does not fit, with what would.
    """
    files, words = [a for a in args if "=" not in a], [a for a in args if "=" in a]
    if stage is not None:
        files = [f for f in files if Path(f).parent.name != "stage"] + [str(stage_file(stage))]
        words = [w for w in words if w.split(".")[0] not in OWN_TO_A_STAGE or w.startswith("run.dir=")]
    layers = [_load_file(f) for f in [str(CONFIGS / "base.yaml"), *files]]
    overrides = OmegaConf.from_dotlist(words)
    per_stage = OmegaConf.merge(*[layer.pop("stages", {}) for layer in layers], overrides.pop("stages", {}))
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), *layers)
        _check_names(per_stage, STAGES, "stage", "stages")
        merged = OmegaConf.merge(merged, per_stage.get(merged.stage.name, {}), overrides)
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ValueError(_explain(error)) from None
    assert isinstance(config, Config)
    _check(config)
    return config


def stage_file(stage: str) -> Path:
    """The file of a stage. Raises ValueError naming the nearest stage."""
    _check_names([stage], STAGES, "stage", "STAGE")
    return CONFIGS / "stage" / f"{stage}.yaml"


def to_dict(config: Config) -> dict[str, Any]:
    """Plain nested dict, safe in a weights-only checkpoint."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any]) -> Config:
    """The inverse of `to_dict`; what an earlier version did not know has the value of base.yaml."""
    known = _load_file(str(CONFIGS / "base.yaml"))
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), known, values))
    assert isinstance(config, Config)
    return config


def override(config: Config, words: list[str]) -> Config:
    """The configuration with `key=value` words applied. Raises ValueError as `load_config` does."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), to_dict(config), OmegaConf.from_dotlist(words))
        changed = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ValueError(_explain(error)) from None
    assert isinstance(changed, Config)
    _check(changed)
    return changed


def save_config(config: Config, path: Path) -> None:
    """Write the resolved configuration as YAML."""
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(to_dict(config))))


def fingerprint(config: Config, beneath: Sequence[str] = ()) -> str:
    """Eight hex digits that are equal for the same experiment, wherever and however fast it runs.

    Args:
        beneath: names of the runs it starts from: trained otherwise, they make it another experiment.
    """
    values = to_dict(config)
    for name in NOT_PART_OF_THE_RESULT:
        section, _, key = name.rpartition(".")
        (values[section] if section else values).pop(key)
    if config.stage.name not in ON_DIALOGUES:
        del values["duplex"], values["dialogue"]
    return hashlib.sha256(json.dumps([values, *beneath], sort_keys=True).encode()).hexdigest()[:8]


def _load_file(path: str) -> DictConfig:
    if not Path(path).is_file():
        near = difflib.get_close_matches(path, map(str, Path(path).parent.glob("*.yaml")), n=1)
        raise ValueError(f"no configuration file {path!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
    try:
        loaded = OmegaConf.load(path)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, DictConfig):
        raise ValueError(f"{path}: a configuration file holds `key: value` pairs, this one holds a list")
    return loaded


def _check_names(given, known, what: str, where: str) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{where}: unknown {what} {name!r}.{hint} Known: {', '.join(known)}.")


def _explain(error: OmegaConfBaseException) -> str:
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: no value given; set it with {error.full_key}=VALUE or in a YAML file"
    if (
        isinstance(error, ConfigKeyError)
        and error.object_type is not None
        and dataclasses.is_dataclass(error.object_type)
    ):
        known = [f.name for f in dataclasses.fields(error.object_type)]
        near = difflib.get_close_matches(str(error.key), known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"unknown key {error.full_key!r}.{hint} Known here: {', '.join(known)}."
    return f"{error.full_key}: {str(error).splitlines()[0]}"


def _check(config: Config) -> None:
    """Mistakes that only two fields together show, and ranges that a type does not hold."""
    features, data = config.features, config.data
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
    if config.encoder.conv_kernel % 2 == 0:
        raise ValueError(f"encoder.conv_kernel={config.encoder.conv_kernel}: must be odd to have a centre frame")
    if not 0 <= data.min_s < data.max_s:
        raise ValueError(f"data.min_s={data.min_s} and data.max_s={data.max_s}: need 0 <= min_s < max_s")
    if data.batch_s < data.max_s:
        raise ValueError(
            f"data.batch_s={data.batch_s} is less than data.max_s={data.max_s}: the longest utterance would fit no "
            "batch; raise batch_s or lower max_s"
        )
    if config.stage.ctc_weight > 0 and config.tokenizer.source != "bpe":
        raise ValueError(
            f"stage.ctc_weight={config.stage.ctc_weight} and tokenizer.source={config.tokenizer.source}: the CTC needs "
            "a single id for silence, which only tokenizer.source=bpe has; set stage.ctc_weight=0"
        )
    lm = config.lm
    if lm.kind == "mamba2" and lm.expand * lm.d_model % (lm.head_dim * lm.num_groups):
        raise ValueError(
            f"lm.expand={lm.expand} * lm.d_model={lm.d_model} channels do not make heads of lm.head_dim={lm.head_dim} "
            f"in lm.num_groups={lm.num_groups} equal groups: make them a multiple of {lm.head_dim * lm.num_groups}"
        )
    for name in ("synthetic_share", "max_bad_share"):
        if not 0 <= getattr(data, name) <= 1:
            raise ValueError(f"data.{name}={getattr(data, name)}: a share lies between 0 and 1")
    ranges = {f"data.augment.{name}": getattr(data.augment, name) for name in ("level_db", "snr_db", "pad_s")}
    for name, pair in {**ranges, "encoder.train_slice_ms": config.encoder.train_slice_ms}.items():
        if len(pair) != 2 or pair[0] > pair[1]:
            raise ValueError(f"{name}={pair}: give [low, high]")
    for name in ("max_steps", "accumulate", "devices", "valid_every_steps", "average_last", "average_every_steps"):
        if getattr(config.trainer, name) < 1:
            raise ValueError(f"trainer.{name}={getattr(config.trainer, name)}: must be at least 1")
    _check_duplex(config.duplex)
    _check_dialogue(config.dialogue, config.duplex)
    _check_names(config.stage.trained, ("frontend", "encoder", "connector", "lm"), "part", "stage.trained")
    _check_names(config.stage.init, ("features", "frontend", "encoder", "connector", "lm"), "part", "stage.init")
    _check_names([s for s in config.stage.init.values() if not Path(s).is_dir()], STAGES, "stage or run", "stage.init")


def _check_duplex(duplex: DuplexConfig) -> None:
    for name in ("tokens_per_s", "max_tokens", "ignored_slices", "min_slices", "max_wait_s"):
        if getattr(duplex, name) <= 0:
            raise ValueError(f"duplex.{name}={getattr(duplex, name)}: must be more than 0")
    if not 0 < duplex.response_above < 1:
        raise ValueError(f"duplex.response_above={duplex.response_above}: need a probability between 0 and 1")
    if duplex.silence_db >= 0:
        raise ValueError(f"duplex.silence_db={duplex.silence_db}: silence is quieter than speech; must be below 0")


def _check_dialogue(dialogue: DialogueConfig, duplex: DuplexConfig) -> None:
    ranges = {f.name: getattr(dialogue, f.name) for f in dataclasses.fields(dialogue) if "list" in str(f.type)}
    for name, pair in ranges.items():
        if len(pair) != 2 or pair[0] > pair[1]:
            raise ValueError(f"dialogue.{name}={pair}: give [low, high]")
        if pair[0] < 0 and not name.endswith("_db"):
            raise ValueError(f"dialogue.{name}={pair}: cannot be negative")
    if dialogue.events[0] < 1:
        raise ValueError(f"dialogue.events={dialogue.events}: a dialogue has at least one")
    shares = dataclasses.asdict(dialogue.shares)
    if min(shares.values()) < 0 or sum(shares.values()) <= 0:
        raise ValueError(f"dialogue.shares={shares}: none may be negative, and one must be more than 0")
    if not 0 <= dialogue.over_answer_share <= 1:
        raise ValueError(f"dialogue.over_answer_share={dialogue.over_answer_share}: a share lies between 0 and 1")
    for name in ("interrupted_s", "words_per_s", "settle_ms"):
        if getattr(dialogue, name) <= 0:
            raise ValueError(f"dialogue.{name}={getattr(dialogue, name)}: must be more than 0")
    if not 0 < dialogue.min_speech_ms <= duplex.slice_ms:
        raise ValueError(
            f"dialogue.min_speech_ms={dialogue.min_speech_ms} and duplex.slice_ms={duplex.slice_ms}: "
            "a slice must be able to hold that much speech; need 0 < min_speech_ms <= slice_ms"
        )
    if 1000 * dialogue.pause_s[0] <= dialogue.settle_ms:
        raise ValueError(
            f"dialogue.pause_s={dialogue.pause_s} and dialogue.settle_ms={dialogue.settle_ms}: a pause must be longer "
            "than the silence that completes a question; raise pause_s or lower settle_ms"
        )
    if dialogue.level_db[1] - dialogue.level_db[0] >= -dialogue.background_db[1]:
        raise ValueError(
            f"dialogue.level_db={dialogue.level_db} and dialogue.background_db={dialogue.background_db}: a loud "
            "background would be as loud as a quiet user; narrow level_db or lower background_db"
        )
