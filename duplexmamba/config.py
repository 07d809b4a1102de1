"""Configuration of the model and of its sessions: what each field means, and its unit."""

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
    context: Literal["full", "slice", "causal", "causal_lookahead"]
    """What a frame sees. full: the whole utterance, both ways (as published). slice: its slice, both ways, each slice
    from nothing (as published for streaming). causal: all before it, by a state. causal_lookahead: all before it, by a
    state, and the rest of its slice, by a scan that runs back from the slice's end. Of all before it, attention sees
    left_context_ms."""
    left_context_ms: float
    """Milliseconds that attention sees, in each block, before a frame (causal) or its slice (causal_lookahead)."""
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
class ModelConfig:
    """All that `SpeechLM` is built from."""

    features: FeaturesConfig
    frontend: FrontendConfig
    encoder: EncoderConfig
    connector: ConnectorConfig
    lm: LMConfig


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

    enabled: bool
    """Train with LoRA-drop: run a probe first, and give adapters to the linear layers that it selects."""
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
