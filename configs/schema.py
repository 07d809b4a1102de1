"""Configuration of an experiment: every section with the meaning and unit of each field.

The values are in `configs/base.yaml`, `configs/preset/` and `configs/stage/`; `configs.loading`
merges them. The sections that describe the model itself are in `duplexmamba.config`.
"""

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
    """Conversion of text to token ids."""

    source: str
    """`bpe`: a byte-level BPE trained on the run's own training text. Otherwise a folder or a hub
    name for AutoTokenizer."""


@dataclasses.dataclass(frozen=True)
class EffectsConfig:
    """Effects of voices, rooms, microphones and lines on training audio, each with a share of the
    utterances and of the dialogues, 0 to 1."""

    vocal_tract: float
    """Share with formants of a longer or shorter vocal tract."""
    room: float
    """Share in a synthetic room; data.augment.rir_path has recorded ones."""
    equaliser: float
    """Share with the frequency response of another microphone: a tilt and one to three peaks."""
    hum: float
    """Share with the hum of the mains, 10 to 40 dB below the speech."""
    clipping: float
    """Share with clipped peaks."""
    band_limit: float
    """Share with a narrow band: telephone, a recording at 8 kHz, or another upper limit."""
    codec: float
    """Share that is encoded and decoded with mu-law, GSM, Vorbis or MP3."""
    level: float
    """Share with a level of the speech of -55 to -10 dB in place of level_db."""
    offset: float
    """Share with a constant offset of 0.001 to 0.1 of full scale."""


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Random augmentation of training audio. A range [low, high] is sampled uniformly."""

    speeds: list[float]
    """Factors of speed and pitch perturbation; one is drawn for each utterance."""
    level_db: list[float]
    """Range of the root mean square level, in dB relative to full scale."""
    noise_share: float
    """Share of utterances to which noise is added, 0 to 1."""
    snr_db: list[float]
    """Range of the speech-to-noise ratio in dB where noise is added."""
    noise_path: str | None
    """Folder of sound files from which the noise is cut; null generates coloured noise."""
    rir_path: str | None
    """Folder of room impulse responses; null disables reverberation."""
    rir_share: float
    """Share of utterances convolved with one of those impulse responses, 0 to 1."""
    pad_s: list[float]
    """Range of the near-silence before and after each utterance, in seconds."""
    effects: EffectsConfig
    """Effects of voices, rooms, microphones and lines."""


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """One corpus. docs/data.md describes every supported format."""

    path: str
    """Folder, file, URL, or hub name (kind: huggingface) of the corpus; {000..041} expands to many
    shards."""
    kind: str
    """Format of the corpus; `auto` detects it from the files."""
    subset: str | None
    """Configuration of a Hugging Face data set that has several; null where there is one."""
    split: dict[str, str]
    """Map of train, valid and test to the corpus's own split names, several joined by `+`.

    Splits that are not named are not used. {} takes the corpus's usual names (train, dev, test and
    the like) and holds out of train what is missing of valid and test.
    """
    columns: dict[str, str]
    """Map of audio, text, answer, speaker, id, duration (s), offset (s) and split to the corpus's
    own column names."""
    where: dict[str, str]
    """Column and value that an entry must have to be used."""
    task: Literal["both", "transcribe", "answer"]
    """`both` uses answers where there are some, `transcribe` ignores them, `answer` drops entries
    without one."""
    weight: float | None
    """Sampling weight relative to the other sources; null is the number of utterances. Give it to
    all sources or none."""


@dataclasses.dataclass(frozen=True)
class UtteranceSharesConfig:
    """Shares of the synthetic training utterances that are no question or order of the grammar."""

    out_of_grammar: float
    """Share of questions and orders that the grammar does not contain, 0 to 1; the answer is that
    the model did not understand."""
    small_talk: float
    """Share of greetings, thanks, goodbyes and commands to stop, 0 to 1."""
    corrections: float
    """Share of corrections of an order, to be transcribed, 0 to 1."""
    isolated_words: float
    """Share of single words and short sequences of words, to be transcribed, 0 to 1."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Corpora and batches."""

    path: str | None
    """Path of recorded speech where one source is enough; null uses `sources`, or synthetic speech
    alone."""
    source: SourceConfig
    """Defaults for every entry of `sources`."""
    sources: dict[str, SourceConfig]
    """Recorded corpora by a name of your choice."""
    temperature: float
    """Sources are sampled in proportion to weight ^ (1 / temperature); 1 keeps the weights, larger
    values even them out."""
    synthetic_share: float
    """Share of training utterances that stay synthetic when there is recorded speech, 0 to 1."""
    synthetic_ramp: int
    """Utterances over which the synthetic share falls from 1 to `synthetic_share`; 0 disables the
    ramp."""
    in_domain_text_share: float
    """Share of the synthetic utterances whose text comes from the recorded corpus, 0 to 1.

    Texts with an answer are repeated literally; for the others, new sentences are generated from a
    word chain model of the transcripts.
    """
    utterance_shares: UtteranceSharesConfig
    """Sentences beside those of the grammar."""
    voices: dict[str, float]
    """Synthesisers of the synthetic speech and their shares, which need not sum to 1.

    An entry is the name of a synthesiser, or name:argument where it takes a voice file or a command.
    espeak keeps the share of base.yaml unless it is given one; 0 leaves it out. docs/data.md lists
    the synthesisers.
    """
    cache: str
    """Folder that keeps the speech of slow synthesisers and the features of pretrained encoders for
    all runs; may grow to gigabytes, and may be deleted at any time."""
    test_voices: dict[str, float]
    """Synthesisers, as in `voices`, in whose voices test sentences are scored too; {} is none.

    The score is test/wer_voices, over data.test_size sentences in all.
    """
    test_people: str | None
    """Path of a corpus whose test split is scored too, as test/wer_people; null is none.

    Its other settings are those of data.source. Utterances with words that no training text has are
    left out.
    """
    conversations: dict[str, float]
    """Manifests of recorded conversations, as `make data` writes them, and their weights; {} is none.

    Stages on dialogues train on them, and are scored on their valid and test splits.
    """
    composed_share: float
    """Share of the training dialogues that stay composed where there are conversations, 0 to 1."""
    excerpt_s: float
    """Longest excerpt of a conversation, in seconds; each is trained on and scored as a dialogue of
    its own."""
    test_unaddressed: str | None
    """Folder with recordings of talk that is not meant for the model, which live sessions hear after
    the test dialogues; null is none. The score is unaddressed/answers_per_hour."""
    test_effects: EffectsConfig
    """Shares of the test utterances and test dialogues that have an effect of another voice, room,
    microphone or line; as data.augment.effects for training."""
    min_s: float
    """Shorter utterances, in seconds, are skipped and counted."""
    max_s: float
    """Longer utterances, in seconds, are skipped and counted."""
    max_bad_share: float
    """Share of unusable files above which the run stops, 0 to 1."""
    batch_s: float
    """Seconds of audio in one batch, padding included."""
    batch_texts: int
    """Texts in one batch of the stages that train on text."""
    batch_dialogues: int
    """Dialogues in one training batch of the stages that train on dialogues."""
    train_size: int
    """Training utterances that are repeated, after the ramp; 0 never repeats synthetic ones."""
    train_dialogues: int
    """Training dialogues that are repeated; 0 never repeats composed ones."""
    valid_size: int
    """Utterances scored in each validation."""
    test_size: int
    """Utterances scored at the end."""
    valid_dialogues: int
    """Dialogues scored in each validation."""
    test_dialogues: int
    """Dialogues scored at the end."""
    num_workers: int
    """Data worker processes."""
    worker_timeout_s: float
    """Seconds without a batch after which the run stops and names the files its workers were
    reading; 0 waits forever."""
    augment: AugmentConfig
    """Augmentation of training audio."""


@dataclasses.dataclass(frozen=True)
class SharesConfig:
    """Sampling weights of the kinds of events in a composed dialogue; they need not sum to 1."""

    question: float
    """Weight of a question or order that begins after the previous response has ended."""
    paused_question: float
    """Weight of a question that is interrupted by a pause in mid-phrase and then continued."""
    interruption: float
    """Weight of a question that begins during a response and replaces it."""
    talking_to_other: float
    """Weight of speech at the user's level that is addressed to somebody else."""
    background_speech: float
    """Weight of speech by somebody further away."""
    noise: float
    """Weight of noise: white, pink, humming, or babble."""
    backchannel: float
    """Weight of a back-channel during a response: mhm, okay, right."""
    silence: float
    """Weight of a long silence."""
    out_of_grammar: float
    """Weight of a question or order that the grammar does not contain; the answer is that the model
    did not understand.

    0 where recorded questions are about anything, which a model should answer.
    """
    small_talk: float
    """Weight of a greeting, thanks, a goodbye or a command to stop, outside a response."""
    stop: float
    """Weight of a command to stop during a response, which an acknowledgement replaces."""
    correction: float
    """Weight of a correction of the order before it, which is then an order of the grammar."""


@dataclasses.dataclass(frozen=True)
class DialogueConfig:
    """Composition of the dialogues for turn-taking stages. A range [low, high] is sampled
    uniformly."""

    timing: Literal["composed", "natural"]
    """Times of composed dialogues: `composed` draws gaps and pauses from the ranges below; `natural`
    draws gaps, overlaps, pauses and back-channels as published of recorded conversations."""
    events: list[int]
    """Range of the number of events in a dialogue."""
    shares: SharesConfig
    """Sampling weights of the kinds of events."""
    overlap_share: float
    """Share of speech to others, background speech and noise after a question that overlaps its
    response, 0 to 1."""
    min_interrupted_answer_s: float
    """Minimal length, in seconds, of a response that another event overlaps."""
    words_per_s: float
    """Speaking rate of the model, in words per second, that determines how long a response lasts.
    """
    gap_s: list[float]
    """Range of the gap, in seconds, from the slice that decides on an event, or the end of the
    response, to the next event."""
    pause_s: list[float]
    """Range of the silence, in seconds, within a paused question; must exceed endpoint_silence_ms.
    """
    silence_s: list[float]
    """Range of the length of a silence event, in seconds."""
    noise_s: list[float]
    """Range of the length of a noise event, in seconds."""
    min_speech_ms: float
    """Milliseconds of speech that a slice must contain to be the first one labelled incomplete."""
    endpoint_silence_ms: float
    """Milliseconds of silence after the last sound of a question before it counts as complete."""
    level_db: list[float]
    """Range of the root mean square level of the user's speech, in dB relative to full scale; one
    value per dialogue."""
    background_speech_db: list[float]
    """Range of the level of background speech relative to the user's, in dB.

    level_db must span less than the gap between the two, or a quiet user would sound like loud
    background speech.
    """
    noise_snr_db: list[float]
    """Range of the level of the user's speech over noise events, in dB."""
    room_snr_db: list[float]
    """Range of the level of the user's speech over the continuous room noise, in dB."""
    echo_db: list[float] | None
    """Range of the level at which the microphone records the model's own answers, spoken aloud,
    relative to the user's speech, in dB; null: it does not."""


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """One stage: the parts it trains, its data, and the weights it starts from."""

    name: str
    """Name of the stage, one of lightning_modules.stages."""
    data: Literal["speech", "text", "dialogues"]
    """Training data: single utterances, their texts alone, or dialogues cut into slices."""
    trained: list[str]
    """Parts of the model that are trained (frontend, encoder, connector, lm); all others are
    frozen."""
    init: dict[str, str]
    """Map of a part to the stage, or the folder of a finished run, that its weights come from.

    A part that is not named starts from random weights, or from lm.pretrained.
    """
    speech_like_text: float
    """Stage lm, and texts_per_utterance: share of texts whose words are spaced by silence tokens as
    speech embeddings are, 0 to 1."""
    texts_per_utterance: int
    """Stages on speech and dialogues: texts trained with each utterance as in stage lm.

    There are far more texts than utterances, so the language model keeps what it knows of them
    (rehearsal) instead of memorising repeated utterances.
    """
    answer_share: float
    """Share of the items with an answer for which the answer is the target; the others are
    transcribed, 0 to 1."""
    texts_per_dialogue: int
    """Stages on dialogues: dialogues of words with times trained with each dialogue.

    Their words stand in place of speech, as in stage lm. Making one takes a few milliseconds, so
    each is new.
    """
    utterances_per_dialogue: int
    """Stages on dialogues: single utterances trained with each dialogue, so that transcription and
    answering are kept."""
    probes: int
    """Stages on dialogues: randomly chosen slices of each question that are labelled in training.

    Slices around each end or pause of a sound are always labelled.
    """
    response_weight: float
    """Stages on dialogues: weight of the turn state `response` in the loss, that of the others is 1;
    in recorded conversations it is rare."""
    ctc_weight: float
    """Stage asr: weight of a CTC loss between speech embeddings and those of the spoken words.

    Transcripts then maximise the sum of both log likelihoods. 0 disables both, as published.
    """
    teacher: str | None
    """Stage encoder: pretrained encoder, such as moonshine-tiny-en, whose features the encoder
    learns beside CTC; null is none.

    Validation, test and later stages do not need it.
    """
    distillation_weight: float
    """Weight of the loss between the encoder's frames and the features of `teacher`; that of the
    CTC is 1."""


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW and its learning rate schedule."""

    lr: float
    """Peak learning rate."""
    encoder_lr: float | None
    """Peak learning rate of the pretrained encoder where stage.trained names features; null is lr."""
    betas: list[float]
    """AdamW's decay rates of the first and second moment."""
    eps: float
    """AdamW's term in the denominator."""
    weight_decay: float
    """Decoupled weight decay of matrices; vectors and biases have none."""
    warmup_steps: int
    """Updates of linear warm-up."""
    schedule: Literal["inverse_sqrt", "cosine"]
    """Decay after the warm-up: inverse square root, or a cosine to zero at max_steps."""
    clip: float
    """Largest norm of the gradient; larger ones are scaled down."""
    label_smoothing: float
    """Label smoothing of the token cross entropy, 0 to 1."""


@dataclasses.dataclass(frozen=True)
class TrainerConfig:
    """Length of training, hardware, and what is saved."""

    max_steps: int
    """Optimiser updates."""
    accumulate: int
    """Batches per update."""
    accelerator: str
    """Lightning's accelerator: auto, cpu, gpu."""
    devices: int
    """Processes on this machine, each with its own GPU where there are some."""
    cpu_processes: int
    """Processes that share each batch of a CPU training, limited by the cores.

    The result is the same except for rounding. Ignored under torchrun and Slurm.
    """
    num_nodes: int
    """Machines, started by torchrun or Slurm; see docs/scale.md."""
    strategy: Literal["ddp", "fsdp"]
    """Parallel strategy: ddp keeps the whole model in each process, fsdp a shard of it."""
    activation_checkpointing: bool
    """Recompute the blocks of encoder and language model in the backward pass: less memory, a third
    more time."""
    precision: Literal["auto", "32-true", "bf16-mixed"]
    """Numeric precision; auto is bf16-mixed where the GPU supports it, else 32-true."""
    matmul_precision: Literal["auto", "highest", "high", "medium", "bf16"]
    """Argument of torch.set_float32_matmul_precision, or bf16.

    bf16 rounds the factors of linear layers to bfloat16 while a CPU trains; scores are computed
    without it. auto is bf16 on CPUs with instructions for it (AVX512_BF16, AMX), and apart from
    that medium where a measurement at start shows that it is as exact as float32, else highest.
    """
    threads: int
    """Torch threads per process on a CPU; 0 is torch's own choice."""
    keep_freed_memory: bool
    """Keep freed memory in the process (glibc on Linux): faster with long sequences, more resident
    memory."""
    valid_every_steps: int
    """Updates between validations."""
    checkpoint_every_s: float
    """Seconds between the checkpoints from which a killed run resumes."""
    average_last: int
    """Weight snapshots averaged into the final checkpoint."""
    average_every_steps: int
    """Updates between those snapshots."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Where a run is stored."""

    dir: str
    """Folder of all runs."""
    id: str | None
    """Name of the run's folder; null is stage, preset and configuration fingerprint, so the same
    command finds its run."""
    sweep: str | None
    """Name of the sweep that the run is a trial of; null for none."""


@dataclasses.dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases."""

    mode: Literal["auto", "online", "offline", "disabled"]
    """Where metrics are sent; auto is online with an API key, else offline."""
    project: str
    """Name of the W&B project."""


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment."""

    preset: str
    """Name of the model size, part of the run's folder name."""
    seed: int
    """Seed of initialisation, data and dropout."""
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
        """The sections that `duplexmamba.SpeechLM` is built from."""
        return ModelConfig(self.features, self.frontend, self.encoder, self.connector, self.lm)
