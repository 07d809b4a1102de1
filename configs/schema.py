"""The configuration's sections: what each field means, and its unit. Values are in configs/, see `config`."""

import dataclasses
from typing import Literal

from duplexmamba.config import (
    ConnectorConfig,
    DuplexConfig,
    EncoderConfig,
    FeaturesConfig,
    FrontendConfig,
    LMConfig,
    LoraConfig,
    LoraDropConfig,
    ModelConfig,
)


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
    noise_path: str | None
    """Folder of sound files that the noise is cut from; null: made, of many colours."""
    rir_path: str | None
    """Folder of room impulse responses; null: none."""
    rir_share: float
    """Share of utterances that are heard in one of those rooms."""
    pad_s: list[float]
    """Seconds of near-silence put before and after each utterance."""


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """One corpus. docs/data.md has a line for each of the known ones."""

    path: str
    """Folder, file, URL, or name on the Hugging Face hub (kind: huggingface). {000..041} stands for many shards."""
    kind: Literal[
        "auto",
        "librispeech",
        "mls",
        "tedlium",
        "gigaspeech",
        "commonvoice",
        "instructs2s",
        "duplexmamba",
        "folder",
        "manifest",
        "lhotse",
        "shar",
        "webdataset",
        "huggingface",
    ]
    """auto: by what lies at the path."""
    subset: str | None
    """Configuration of a Hugging Face data set that has several."""
    split: dict[str, str]
    """train, valid, test -> what the corpus calls it, several joined by +; what is not named is not used. {}: what the
    corpus calls train, dev, test and the like, and what it lacks of valid and test held out of train."""
    columns: dict[str, str]
    """audio, text, answer, speaker, id, duration (s), offset (s), split -> the corpus's name for it, where that is no
    usual one."""
    where: dict[str, str]
    """Column -> the value that rows must have."""
    task: Literal["both", "transcribe", "answer"]
    """both: with an answer where there is one. transcribe: answers are not used. answer: what has none is left out."""
    weight: float | None
    """Its share among the sources, relative to the others; null: its number of utterances. All have one, or none."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Corpora and batches."""

    path: str | None
    """Your own speech, where one source is enough; null: `sources`, or synthetic speech alone."""
    source: SourceConfig
    """What a source is unless its line says otherwise."""
    sources: dict[str, SourceConfig]
    """Your own speech, one line a corpus, by a name of your choice."""
    temperature: float
    """Shares of the sources go with weight ^ (1 / temperature): 1 keeps the weights, more brings them together."""
    synthetic_share: float
    """With recorded speech: share of training utterances that are synthetic all the same."""
    synthetic_ramp: int
    """Utterances over which that share falls from 1 at the start of a stage, where it is not 0: hearing begins with the
    easier speech."""
    in_domain_text_share: float
    """With recorded speech: share of the synthetic utterances that say what the recorded ones say, or, of those without
    an answer, sentences in their manner, instead of the default corpus's."""
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
    """Dialogues in one training batch of the stages state and streaming."""
    valid_size: int
    test_size: int
    """Utterances scored in validation and at the end."""
    valid_dialogues: int
    test_dialogues: int
    """Dialogues scored so, in the stages that train on them."""
    num_workers: int
    """Processes that make or read audio."""
    worker_timeout_s: float
    """Seconds without a batch after which the run stops and names what its workers were reading; 0: never."""
    augment: AugmentConfig


@dataclasses.dataclass(frozen=True)
class SharesConfig:
    """How often each kind of event occurs in a dialogue: weights, of any sum."""

    question: float
    """A question or order after any earlier answer is over."""
    paused_question: float
    """The same, broken off in mid-phrase, and continued after a pause."""
    interruption: float
    """A question that begins during an answer and takes its place."""
    talking_to_other: float
    """Something said at the same loudness to somebody else."""
    background_speech: float
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
    overlap_share: float
    """Share of the asides, background voices and noises next after a question that fall into its answer."""
    min_interrupted_answer_s: float
    """Seconds that an answer lasts at least where something falls into it."""
    words_per_s: float
    """Pace of the model's answers, as far as it decides on what falls into them."""
    gap_s: list[float]
    """Seconds from the slice that decides on an event, or from the end of the answer, to the next event."""
    pause_s: list[float]
    """Seconds of silence within a cut question; more than endpoint_silence_ms, or it would seem complete."""
    silence_s: list[float]
    noise_s: list[float]
    """Seconds of the events silence and noise."""
    min_speech_ms: float
    """Speech that a slice holds at least when it is the first labelled incomplete."""
    endpoint_silence_ms: float
    """Silence after the last sound of a question, before it counts as complete."""
    level_db: list[float]
    """Loudness (root mean square) of the user's speech in dB relative to full scale, one for a dialogue."""
    background_speech_db: list[float]
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
    """Stages state and streaming: slices of each question or aside that are judged in training, beside those in which
    a sound ends or breaks off."""
    ctc_weight: float
    """Stage asr: weight of a CTC loss that pulls speech embeddings towards those of the words said. Its transcripts are
    then those likeliest to CTC and language model together. 0: neither, as published."""


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
    """Processes of one machine, each with a GPU of its own where there are some; their gradients are averaged."""
    cpu_processes: int
    """Processes that share out each batch of a training on a CPU, as far as there are cores for them; where torchrun or
    Slurm has started it, none but those of `devices`. What is learnt is the same but for rounding, and for the mean of
    their losses."""
    num_nodes: int
    """Machines; started by torchrun or Slurm, see docs/scale.md."""
    strategy: Literal["ddp", "fsdp"]
    """Of several processes. ddp: each holds the whole model; fsdp: its share, see docs/scale.md."""
    activation_checkpointing: bool
    """Compute the blocks of encoder and language model again for their gradients: less memory, a third more time."""
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
    sweep: str | None
    """Name of the sweep of which the run is a point; null: of none."""


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
    lora: LoraConfig
    lora_drop: LoraDropConfig
    optim: OptimConfig
    trainer: TrainerConfig
    run: RunConfig
    wandb: WandbConfig

    @property
    def model(self) -> ModelConfig:
        """The sections that the model is built from."""
        return ModelConfig(self.features, self.frontend, self.encoder, self.connector, self.lm)
