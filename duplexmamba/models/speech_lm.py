"""SpeechLM: audio samples and text tokens to logits, every part with its streaming state.

Letters in shapes:
    B: rows of the batch
    n: audio samples
    T: encoder frames
    D: width of encoder frames
    S: speech embeddings
    L: text tokens
    E: width of the language model
    V: size of the vocabulary
"""

import dataclasses
from typing import TYPE_CHECKING, NamedTuple, Union

import torch
from torch import Tensor, nn

from duplexmamba.config import ModelConfig
from duplexmamba.models.connectors import build_connector
from duplexmamba.models.encoders import EncoderState, WindowState, build_encoder_parts
from duplexmamba.models.encoders.joining_frontend import JoiningState
from duplexmamba.models.features import FeaturesState
from duplexmamba.models.frontend import FrontendState
from duplexmamba.models.language_models import LMState, build_lm
from duplexmamba.streaming.buffer import StreamBuffer
from duplexmamba.streaming.padded import Padded, Positions, join, take
from duplexmamba.text.decoding import greedy

if TYPE_CHECKING:
    # it needs transformers, which takes seconds
    from duplexmamba.models.encoders.cache_aware import CacheAwareState

PretrainedState = Union[WindowState, "CacheAwareState"]
"""Streaming state of a pretrained encoder."""

PARTS = ("features", "frontend", "encoder", "connector", "lm")
"""Parts of the model: the first words of its parameters' names."""


@dataclasses.dataclass(frozen=True)
class SpeechEncoderState:
    """Streaming state from samples to encoder frames."""

    features: FeaturesState | PretrainedState | None
    """None for whole utterances of a pretrained encoder, encoder.context=full."""
    frontend: FrontendState | JoiningState
    encoder: EncoderState | None
    """None where encoder.context=full."""


@dataclasses.dataclass(frozen=True)
class SpeechState:
    """Streaming state from samples to speech embeddings."""

    encoder: SpeechEncoderState
    connector: StreamBuffer
    """(B, at least stack - 1, D): encoder frames that the next windows still need."""


class EncodedSpeech(NamedTuple):
    """Encoder frames, and the state for the next chunk of the stream."""

    frames: Padded
    """(B, T, D)"""
    state: SpeechEncoderState


class EmbeddedSpeech(NamedTuple):
    """Speech embeddings, and the state for the next chunk of the stream."""

    embeddings: Padded
    """(B, S, E)"""
    state: SpeechState


class HiddenStates(NamedTuple):
    """Output of the language model, and its state."""

    hidden: Padded
    """(B, L, E) at the ids after the speech."""
    state: LMState


class FirstLogits(NamedTuple):
    """Logits of the first token of a response, and the state of the language model there."""

    logits: Tensor
    """(B, V)"""
    state: LMState


class SpeechEncoder(nn.Module):
    """Audio samples to encoder frames: features, front end, encoder.

    For kind conmamba the features are log-mel frames, for kind pretrained those of the pretrained
    encoder.

    Args:
        config: all sections of a model; no other settings are needed.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        parts = build_encoder_parts(config)
        self.features = parts.features
        self.frontend = parts.frontend
        self.encoder = parts.encoder

    def encode(
        self, samples: Padded, state: SpeechEncoderState | None = None, final: bool = False
    ) -> EncodedSpeech:
        """Encode audio.

        Args:
            samples: (B, n) in [-1, 1].
            state: what the previous chunk of the stream returned; None at its start.
            final: the audio ends here; nothing waits for a slice to fill.

        Returns:
            (B, T, D) frames, and the state.
        """
        features_state = None if state is None else state.features
        x, features_state = self.features(samples, features_state, final)
        return self._encode_features(x, features_state, state, final)

    def encode_features(self, features: Padded) -> Padded:
        """Encode precomputed features (B, F, M) of whole utterances or dialogues to (B, T, D)."""
        frames, _ = self._encode_features(features, None, None, final=True)
        return frames

    def _encode_features(
        self,
        features: Padded,
        features_state: FeaturesState | PretrainedState | None,
        state: SpeechEncoderState | None,
        final: bool,
    ) -> EncodedSpeech:
        frontend_state = None
        encoder_state = None
        if state is not None:
            frontend_state = state.frontend
            encoder_state = state.encoder
        x, frontend_state = self.frontend(features, frontend_state)
        x, encoder_state = self.encoder(x, encoder_state, final)
        return EncodedSpeech(x, SpeechEncoderState(features_state, frontend_state, encoder_state))


class SpeechLM(SpeechEncoder):
    """A language model over text and speech: speech encoder, connector, language model.

    Args:
        config: all sections of a model; no other settings are needed.
    """

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        d_encoder = config.encoder.d_model
        self.connector = build_connector(config.connector, d_encoder, config.lm.d_model)
        self.lm = build_lm(config.lm)

    def embed_speech(
        self, samples: Padded, state: SpeechState | None = None, final: bool = False
    ) -> EmbeddedSpeech:
        """Compute speech embeddings, which the language model takes like those of text.

        Args:
            samples: (B, n) in [-1, 1].
            state: what the previous chunk of the stream returned; None at its start.
            final: the audio ends here, as in `encode`.

        Returns:
            (B, S, E) embeddings, and the state.
        """
        encoder_state = None
        connector_state = None
        if state is not None:
            encoder_state = state.encoder
            connector_state = state.connector
        frames, encoder_state = self.encode(samples, encoder_state, final)
        embeddings, connector_state = self.connector(frames, connector_state)
        return EmbeddedSpeech(embeddings, SpeechState(encoder_state, connector_state))

    def forward(
        self,
        before: Padded,
        speech: Padded,
        after: Padded,
        state: LMState | None = None,
        return_states_at: Positions | None = None,
    ) -> HiddenStates:
        """Run the language model over text, speech, text.

        Args:
            before: (B, L) int64 ids before the speech.
            speech: (B, S, E) embeddings from `embed_speech`.
            after: (B, L) int64 ids after the speech.
            state: state of the language model before all of them; None at the start.
            return_states_at: return the states at these positions within the joined rows instead of
                those after each row's last id, one row for each position.

        Returns:
            (B, L, E) hidden states at the ids of `after`, and the state of the language model.
        """
        parts = [
            before.with_values(self.lm.embed(before.values)),
            speech,
            after.with_values(self.lm.embed(after.values)),
        ]
        hidden, state = self.lm(join(parts), state, return_states_at)
        start = hidden.row_lengths() - after.row_lengths()
        hidden_after = take(hidden.values, start, after.values.shape[1])
        return HiddenStates(after.with_values(hidden_after), state)

    @torch.no_grad()
    def generate(
        self, before: Padded, samples: Padded, after: Padded, end: int, max_tokens: int
    ) -> list[list[int]]:
        """Decode a response greedily.

        Args:
            before: (B, L) int64 ids before the speech.
            samples: (B, n) in [-1, 1]; whole utterances.
            after: (B, L) int64 ids after the speech.
            end: id that ends a response; not part of the result.
            max_tokens: longest response in tokens.

        Returns:
            The token ids of each row's response.
        """
        speech, _ = self.embed_speech(samples, final=True)
        logits, state = self.prefill(before, speech, after)
        return greedy(self.lm, logits, state, end, max_tokens)

    def prefill(self, before: Padded, speech: Padded, after: Padded) -> FirstLogits:
        """Process a prompt, up to the first token of the response.

        Args:
            before: (B, L) int64 ids before the speech.
            speech: (B, S, E) embeddings from `embed_speech`.
            after: (B, L) int64 ids after the speech.

        Returns:
            (B, V) logits of each row's first response token, and the state of the language model.
        """
        hidden, state = self(before, speech, after)
        last = take(hidden.values, after.row_lengths() - 1, 1)  # (B, 1, E)
        return FirstLogits(self.lm.logits(last[:, 0]), state)


def part_of(name: str) -> str:
    """Return the part that a parameter belongs to: the first word of its dotted name."""
    return name.split(".", 1)[0]


def is_adapter(name: str) -> bool:
    """Whether the parameter of this dotted name is a factor of a low-rank adapter (see `lora`)."""
    return ".lora_" in name


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Return the number of parameters of each part."""
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = part_of(name)
        counts[part] = counts.get(part, 0) + parameter.numel()
    return counts
