"""Configuration of the model and of its sessions: meaning and unit of every field.

The dataclasses have no defaults; `configs/base.yaml` holds the values.
"""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class FeaturesConfig:
    """Log-mel frames."""

    sample_rate_hz: int
    """Sample rate of the audio in hertz; other rates are resampled."""
    num_mels: int
    """Mel bands of a frame, a multiple of 4."""
    window_samples: int
    """Samples in the window of one frame; also the length of its Fourier transform."""
    hop_samples: int
    """Samples between two frames."""
    level: Literal["none", "causal", "channel"]
    """Treatment of level and offset of the microphone.

    none: both stay as they are. causal: the offset is removed, and speech is brought to one level
    by a gain that depends on the past alone; see `duplexmamba.models.level`. channel, for
    encoder.kind=pretrained alone: the level of each frame, relative to the loudest speech so far, is
    one more channel; see `duplexmamba.models.relative_level`. Such an encoder returns the same
    frames for loud and soft speech, so that without it nothing tells the user from somebody further
    away.
    """


@dataclasses.dataclass(frozen=True)
class FrontendConfig:
    """Two convolutions of stride 2 in time and mel: four log-mel frames give one encoder frame."""

    channels: list[int]
    """Output channels of the two convolutions."""
    masked_share: float
    """Share of frames, and of mel bands, that are masked in training (SpecAugment), 0 to 1.

    For encoder.kind=pretrained its frames and channels.
    """
    noise_std: float
    """Standard deviation of Gaussian noise on the features in training, which are normalised."""


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Speech encoder: ConMamba and its baselines, or a pretrained one."""

    kind: str
    """Kind of speech encoder, one of duplexmamba.models.encoders.

    conmamba: log-mel frames, a convolutional front end and blocks with the mixer of encoder.mixer,
    trained here. pretrained: an encoder of others, encoder.pretrained.
    """
    pretrained: str | None
    """Kind pretrained: name of the encoder, such as moonshine-tiny-en, or folder or hub name of a
    speech encoder in transformers' layout; null for kind conmamba."""
    trainable: bool
    """Kind pretrained: whether its weights are part of the model, where stages train them whose
    stage.trained names features.

    false: they are frozen, stay where encoder.pretrained names them, and features are computed once.
    true: they are in the checkpoints of all stages, and features are computed anew in each update.
    Folders and hub names with context full or window can be trained.
    """
    mixer: str
    """Sequence mixer of a block, one of duplexmamba.models.mixers.

    Kinds have as many parameters as mamba, except those that are registered with
    matches_size=False.
    """
    d_model: int
    """Width of encoder frames."""
    num_layers: int
    """Number of blocks; 0, for kind pretrained, hands its frames to the connector as they are."""
    d_ffn: int
    """Hidden width of the feed-forward layers."""
    conv_kernel: int
    """Encoder frames that the depthwise convolution sees; odd."""
    d_state: int
    """State size per channel of the Mamba mixer."""
    d_conv: int
    """Width of the Mamba mixer's short convolution, in frames."""
    expand: int
    """Inner width of the Mamba mixer as a multiple of d_model."""
    num_heads: int
    """Heads of self-attention."""
    context: Literal["full", "slice", "causal", "causal_lookahead", "window", "cache"]
    """How far a frame sees into the past and the future.

    full: the whole utterance, in both directions, as published. slice: its slice, in both
    directions, each slice from an empty state, as published for streaming. causal: the past, by a
    state. causal_lookahead: the past, by a state, and the rest of its slice, by a scan that runs
    backwards from the end of the slice. Attention sees left_context_ms of the past. The others are
    of kind pretrained alone. window: each slice is encoded anew together with left_context_ms of the
    past, and its frames are returned lookahead_ms later. cache: the past, by the encoder's own
    caches, and, where it was trained so, the rest of its slice.
    """
    left_context_ms: float
    """Milliseconds that attention sees, in each block, before a frame or its slice; in context
    window, that the encoder sees before a slice."""
    lookahead_ms: float
    """Context window: milliseconds of sound after a frame that the encoder sees, and by which the
    frame is late; a multiple of one speech embedding."""
    slice_ms: float
    """Milliseconds of a slice where `context` has slices: a multiple of one speech embedding."""
    train_slice_ms: list[float]
    """Range of the slice length, in milliseconds, drawn for each batch where
    context=causal_lookahead."""
    dropout: float
    """Dropout probability."""


@dataclasses.dataclass(frozen=True)
class ConnectorConfig:
    """Connector from encoder frames to embeddings of the language model."""

    kind: str
    """How the frames of a window become embeddings, one of duplexmamba.models.connectors.

    Kinds have as many parameters as stack, except those that are registered with
    matches_size=False. stack and conv give one embedding for a window, ctc and merge 1 to `stack`.
    """
    stack: int
    """Encoder frames of one window."""
    d_hidden: int
    """Hidden width of kind stack; the other kinds derive theirs from the number of parameters."""
    merge_threshold: float
    """Kind merge: cosine similarity of two adjacent frames above which they are merged."""


@dataclasses.dataclass(frozen=True)
class LMConfig:
    """Language model: Mamba, a Transformer or a hybrid in its place, or a pretrained one of any
    architecture."""

    kind: str
    """Kind of language model, one of duplexmamba.models.language_models."""
    d_model: int
    """Width of embeddings and hidden states."""
    num_layers: int
    """Number of layers."""
    d_state: int
    """mamba, mamba2 and hybrid: state size per channel."""
    d_conv: int
    """mamba, mamba2 and hybrid: width of the short convolution, in steps."""
    expand: int
    """mamba, mamba2 and hybrid: inner width as a multiple of d_model."""
    head_dim: int
    """mamba2 and hybrid: channels that share one decay; expand * d_model is a multiple of head_dim *
    num_groups."""
    num_groups: int
    """mamba2 and hybrid: groups of heads, each with its own B and C."""
    pattern: str
    """hybrid: a letter for each layer, repeated until num_layers.

    M is Mamba-2, * attention, - an MLP: the notation of Nemotron-H.
    """
    attention_window: int | None
    """hybrid: steps before its own that a step of an attention layer sees; null is all, by a state
    that grows."""
    hybrid_family: Literal["granitemoehybrid", "nemotron_h", "bamba"]
    """hybrid: architecture.

    granitemoehybrid has gated MLPs, bamba rotary positions as well, nemotron_h MLPs of a squared
    ReLU.
    """
    family: Literal["gpt_neox", "llama"]
    """transformer: architecture, that of Pythia or that of SmolLM."""
    num_heads: int
    """transformer, hybrid: attention heads; d_model is a multiple of 8 * num_heads (hybrid: 4)."""
    num_kv_heads: int | None
    """llama, hybrid: heads of keys and values; null is num_heads."""
    d_ffn: int
    """transformer, hybrid: hidden width of the feed-forward layers."""
    rope_theta: float
    """transformer, bamba: base of the rotary positions."""
    tied: bool
    """transformer, hybrid: compute logits with the embedding matrix, as Mamba does; false is a matrix of
    its own."""
    vocab_size: int
    """Number of embeddings, at least the size of the tokenizer."""
    pretrained: str | None
    """Folder or hub name of a causal language model of this kind in transformers' layout.

    null trains the language model in stage lm. kind pretrained takes its architecture from there,
    so that d_model is its width, and vocab_size at least its number of embeddings.
    """


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """All sections that `SpeechLM` is built from."""

    features: FeaturesConfig
    frontend: FrontendConfig
    encoder: EncoderConfig
    connector: ConnectorConfig
    lm: LMConfig


@dataclasses.dataclass(frozen=True)
class DuplexConfig:
    """When a session responds, continues to listen, or drops what it has processed.

    Training follows the same rules.
    """

    kind: str
    """Kind of session, one of duplexmamba.duplex.

    multiplex does not use ignored_slices, min_slices, silence_db, on_onset and stage.probes.
    """
    slice_ms: float
    """Milliseconds between two decisions.

    A multiple of one speech embedding, and of encoder.slice_ms where the encoder's context has
    slices.
    """
    tokens_per_s: float
    """Tokens of a response that are emitted per second."""
    max_tokens: int
    """Longest response in tokens; a longer one is truncated."""
    response_threshold: float
    """Probability of `response` from which the model responds; below it the likelier other state
    holds."""
    ignored_slices: int
    """Consecutive slices to be ignored after which the listening branch is dropped."""
    min_slices: int
    """Slices that a branch must have processed before it may respond."""
    max_wait_s: float
    """Seconds of silence after which a question that still seems incomplete is answered.

    multiplex: for which the end of a recording waits for a response.
    """
    silence_db: float
    """Level, relative to the loudest slice of the question, below which a slice counts as silence.

    A slice near the noise floor of the last seconds counts as silence at any level.
    """
    on_onset: str
    """What a response does when the user starts to speak: continue until the model decides to
    respond to it, or pause.

    A paused response goes on word for word when the model decides to ignore what it hears. The
    training of the responses follows.
    """


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (LoRA) on linear layers.

    A stage trains the adapters alone in the parts that have some, and its other parts as usual.
    They need a larger optim.lr than full fine-tuning, and are merged at the end of the stage.
    """

    enabled: bool
    """Train adapters."""
    rank: int
    """Rank of an adapter."""
    alpha: int
    """The output of an adapter is scaled by alpha / rank."""
    dropout: float
    """Dropout probability of an adapter's input."""
    targets: list[str]
    """Linear layers that get an adapter, by the ends of their dotted names; * stands for anything.

    Examples: in_proj, encoder.*.ffn1.1, lm.*. A Mamba has in_proj, x_proj, dt_proj and out_proj, a
    Mamba-2 in_proj and out_proj.
    """
    shared: list[str]
    """Linear layers, named as in targets, that share one adapter for each kind of layer.

    Layers of one kind differ in their depth alone. LoRA-drop selects them; [] gives each its own.
    """
    shared_trainable: bool
    """Train the shared adapters; false needs `start`, or they would add nothing."""
    start: str | None
    """Folder of adapters (<run>/adapter) to continue with; null starts new ones."""
    sample: int
    """Training items that the stage repeats, with every sort in its share; 0 is all there are."""


@dataclasses.dataclass(frozen=True)
class LoraDropConfig:
    """LoRA-drop: which linear layers keep an adapter of their own.

    `duplexmamba.models.lora_drop` explains the choice of values.
    """

    enabled: bool
    """Probe the importance of adapters before training, and share the unimportant ones."""
    steps: int
    """Updates of the probe."""
    sample: int
    """Training items that the probe is trained and measured on."""
    threshold: float
    """Share of the total importance that the layers which keep an adapter must reach together."""
    keep: int | None
    """Layers of each kind that keep an adapter (in all, where ranking=overall); null uses the
    threshold."""
    ranking: Literal["per_kind", "overall"]
    """Layers that are compared: those of one kind, or all linear layers."""
    choice: Literal["important", "random", "least_important", "all", "none", "equal", "full"]
    """Which layers keep an adapter; all but `important` are controls.

    random, least_important: as many as `important` keeps. all: plain LoRA. none: all share. equal:
    plain LoRA with the rank that has as many parameters as `important`. full: full fine-tuning,
    without adapters.
    """
    rest: Literal["shared", "frozen", "dropped"]
    """Treatment of the other layers: one shared adapter for each kind, the same but frozen, or none.

    frozen keeps what the probe has learnt for the most important layer among them.
    """
    start: Literal["new", "probe"]
    """Whether the adapters that are kept start new or from the probe."""
