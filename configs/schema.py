"""The configuration's sections: what each field means, and its unit. Values are in configs/, see `config`."""

import dataclasses
from typing import Literal


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
    """ConMamba, and its baselines."""

    mixer: Literal["mamba", "attention", "transformer"]
    """mamba: ConMamba (as published). attention: self-attention in Mamba's place, which makes it a Conformer.
    transformer: blocks of self-attention and one feed-forward, no convolutions. Their inner widths are such that the
    encoder keeps its number of weights."""
    d_model: int
    num_layers: int
    d_ffn: int
    conv_kernel: int
    """Encoder frames seen by the depthwise convolution."""
    d_state: int
    d_conv: int
    expand: int
    num_heads: int
    """Of attention."""
    context: Literal["full", "slice", "carried", "causal_lookahead"]
    """What a frame sees. full: the whole utterance, both ways (as published). slice: its slice, both ways, each slice
    from nothing (as published for streaming). carried: all before it, by a state. causal_lookahead: all before it, by a
    state, and the rest of its slice, by a scan that runs back from the slice's end. Of all before it, attention sees
    left_context_ms."""
    left_context_ms: float
    """Milliseconds that attention sees, in each block, before a frame (carried) or its slice (causal_lookahead)."""
    slice_ms: float
    """Milliseconds of a slice, where context has slices: a multiple of one speech embedding."""
    train_slice_ms: list[float]
    """causal_lookahead in training: each batch draws the length of its slices from this range [low, high]."""
    dropout: float


@dataclasses.dataclass(frozen=True)
class ConnectorConfig:
    """Encoder frames to language-model embeddings."""

    kind: Literal["stack", "conv", "ctc", "merge"]
    """stack: the frames of a window side by side (as published). conv: a strided convolution over two windows. ctc: an
    embedding for each label of the encoder's CTC. merge: one for each run of similar frames. The latter two give 1 to
    `stack` embeddings a window, the former two one. All have as many weights."""
    stack: int
    """Encoder frames of one window."""
    d_hidden: int
    """Width of the hidden layer of kind stack; the others have one that makes their weights as many."""
    merge_threshold: float
    """merge: cosine of two adjacent frames above which they become one."""


@dataclasses.dataclass(frozen=True)
class LMConfig:
    """Language model: Mamba, or a Transformer in its place."""

    kind: Literal["mamba", "mamba2", "transformer"]
    """Mixers of Mamba-1 (as published) or Mamba-2, which is made for a larger d_state (64 to 256); or transformers' own
    Transformer."""
    d_model: int
    num_layers: int
    d_state: int
    d_conv: int
    expand: int
    """d_state, d_conv, expand: mamba and mamba2 only."""
    head_dim: int
    """mamba2 only: channels that share one decay; expand * d_model is a multiple of head_dim * num_groups."""
    num_groups: int
    """mamba2 only: groups of heads, each with its own B and C."""
    family: Literal["gpt_neox", "llama"]
    """transformer only, as all down to `tied`: that of Pythia, or that of SmolLM."""
    num_heads: int
    """d_model is a multiple of 8 * num_heads."""
    num_kv_heads: int | None
    """llama only: heads of keys and values, each of which serves as many of the num_heads; null: num_heads."""
    d_ffn: int
    rope_theta: float
    """Base of the rotary positions."""
    tied: bool
    """Logits are read with the embeddings, as a Mamba's are; false: with a matrix of their own (Pythia)."""
    vocab_size: int
    """Rows of the embedding; at least the tokenizer's size."""
    pretrained: str | None
    """Folder or hub name of a causal language model of this kind and family in the transformers layout; null: trained
    here by stage lm."""


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
class DuplexConfig:
    """When a session answers, listens on or drops what it heard; training follows the same rules."""

    kind: Literal["fork", "multiplex"]
    """fork: a branch listens beside the one that answers. multiplex: the baseline of one sequence, in which slices of
    what is heard and of what is said take turns; of the sections duplex and stage it leaves ignored_slices, min_slices,
    silence_db and probes unused."""
    slice_ms: float
    """Milliseconds between two decisions: a multiple of one speech embedding, and of encoder.slice_ms where the
    encoder's context has slices."""
    tokens_per_s: float
    """Pace of the answers."""
    max_tokens: int
    """Of an answer; a longer one is cut off."""
    response_threshold: float
    """Probability of `response` from which it is answered; below it the likelier of the other two states holds."""
    ignored_slices: int
    """Slices in a row that are to be ignored, until what was heard is dropped."""
    min_slices: int
    """Slices listened to before an answer."""
    max_wait_s: float
    """Silence after which a question that still seems incomplete is answered; multiplex: for which the end of a
    recording waits for an answer."""
    silence_db: float
    """Level relative to the loudest slice of the question below which a slice is silence to max_wait_s."""


@dataclasses.dataclass(frozen=True)
class SharesConfig:
    """How often each kind of event occurs in a dialogue: weights, of any sum."""

    question: float
    """A question or order after any earlier answer is over."""
    paused_question: float
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
class LoraConfig:
    """Adapters of low rank: a stage trains these alone in the parts that have some, and its other parts as ever. They
    take a larger optim.lr than whole weights do, and are merged into these when the stage hands over."""

    enabled: bool
    rank: int
    alpha: int
    """What an adapter adds is multiplied by alpha / rank."""
    dropout: float
    """Of what an adapter reads."""
    targets: list[str]
    """Linears of the trained parts that get one: ends of their dotted names, in which * is anything: in_proj,
    encoder.*.ffn1.1, lm.*. Those of a Mamba: in_proj, x_proj, dt_proj, out_proj; of a Mamba-2: in_proj, out_proj."""
    shared: list[str]
    """Ends of names again: of these linears, all of one kind (that differ in their layer alone) have one adapter in
    common. LoRA-drop chooses them; []: each has its own."""
    shared_trainable: bool
    """Whether those in common learn; false needs `start`, or they would add nothing for ever."""
    start: str | None
    """Folder of adapters (<run>/adapter) to go on with, upon the base they were trained upon; null: new ones."""
    sample: int
    """Training utterances (texts, dialogues) that the stage goes through over and over, of each sort its share; 0: all
    there are."""


@dataclasses.dataclass(frozen=True)
class LoraDropConfig:
    """Which linears keep an adapter of their own; see `lora_drop` for why the values are what they are."""

    steps: int
    """Updates of the probe."""
    sample: int
    """Training utterances (dialogues) that the probe trains and is measured on."""
    threshold: float
    """Share of the importance that those which are kept must reach together."""
    keep: int | None
    """Linears kept of each kind (in all, where ranking=overall); null: as many as the threshold asks for."""
    ranking: Literal["per_kind", "overall"]
    """What is compared with what: the layers of one kind of linear, or all linears."""
    choice: Literal["important", "random", "least_important", "all", "none", "equal", "full"]
    """Which are kept. Those behind the first are controls. random, least_important: as many as `important` keeps. all:
    plain LoRA. none: all share. equal: plain LoRA of the rank that has as many parameters as `important`. full: whole
    weights are trained, without adapters."""
    rest: Literal["shared", "frozen", "dropped"]
    """The others share one adapter for each kind; or one that does not learn, what the probe has left on the most
    important of them; or have none."""
    start: Literal["new", "probe"]
    """What is kept begins as new, or as the probe has left it."""


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
