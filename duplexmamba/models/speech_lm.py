"""SpeechLM: samples and tokens to logits, every part with its state.

Glossary: B rows, n samples, S speech embeddings, L tokens, E language-model width, V vocabulary.
"""

import dataclasses

import torch
from torch import Tensor, nn

from duplexmamba.config import ModelConfig
from duplexmamba.models.connectors import build_connector
from duplexmamba.models.encoder import Encoder, EncoderState, Frontend
from duplexmamba.models.features import LogMel
from duplexmamba.models.lm import LMState, build_lm
from duplexmamba.models.timing import FrameTiming
from duplexmamba.streaming.padded import Padded, Positions, StreamBuffer, join, take
from duplexmamba.text.decoding import greedy

PARTS = ("features", "frontend", "encoder", "connector", "lm")


@dataclasses.dataclass(frozen=True)
class SpeechEncoderState:
    """What the way from samples to encoder frames remembers."""

    features: StreamBuffer
    frontend: tuple[StreamBuffer, StreamBuffer]
    encoder: EncoderState | None


@dataclasses.dataclass(frozen=True)
class SpeechState:
    """What the way from samples to speech embeddings remembers."""

    encoder: SpeechEncoderState
    connector: StreamBuffer


class SpeechEncoder(nn.Module):
    """Samples to encoder frames."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.features = LogMel(config.features)
        self.frontend = Frontend(config.frontend, config.features.num_mels, config.encoder.d_model)
        self.encoder = Encoder(config.encoder, FrameTiming.of(config))

    def encode(
        self, samples: Padded, state: SpeechEncoderState | None = None, final: bool = False
    ) -> tuple[Padded, SpeechEncoderState]:
        """(B, n) -> (B, T, D). final: the audio ends here, and the encoder waits for no slice to fill."""
        x, features = self.features(samples, None if state is None else state.features)
        x, frontend = self.frontend(x, None if state is None else state.frontend)
        x, encoder = self.encoder(x, None if state is None else state.encoder, final)
        return x, SpeechEncoderState(features, frontend, encoder)


class SpeechLM(SpeechEncoder):
    """A language model that hears."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.connector = build_connector(
            config.connector, config.encoder.d_model, config.lm.d_model
        )
        self.lm = build_lm(config.lm)

    def embed_speech(
        self, samples: Padded, state: SpeechState | None = None, final: bool = False
    ) -> tuple[Padded, SpeechState]:
        """(B, n) -> (B, S, E) speech embeddings; `final` as in `hear`."""
        x, encoder = self.encode(samples, None if state is None else state.encoder, final)
        x, connector = self.connector(x, None if state is None else state.connector)
        return x, SpeechState(encoder, connector)

    def forward(
        self,
        before: Padded,
        speech: Padded,
        after: Padded,
        state: LMState | None = None,
        return_states_at: Positions | None = None,
    ) -> tuple[Padded, LMState]:
        """Run the language model over text, speech, text.

        Args:
            before, after: (B, L) ids.
            speech: (B, S, E) embeddings, as `listen` makes them.
            state: what came before all that.
            behind: places among a row's text, speech and text.

        Returns:
            Hidden states (B, L_after, E) at the ids of `after`, and the state behind each row's last id, or, a row for
            each, those behind the given places.
        """
        parts = [
            before.with_values(self.lm.embed(before.values)),
            speech,
            after.with_values(self.lm.embed(after.values)),
        ]
        hidden, state = self.lm(join(parts), state, return_states_at)
        start = hidden.row_lengths() - after.row_lengths()
        return after.with_values(take(hidden.values, start, after.values.shape[1])), state

    @torch.no_grad()
    def generate(
        self, before: Padded, samples: Padded, after: Padded, end: int, max_tokens: int
    ) -> list[list[int]]:
        """Greedy answer ids of each row to what it has read and heard."""
        speech, _ = self.embed_speech(samples, final=True)
        logits, state = self.prefill(before, speech, after)
        return greedy(self.lm, logits, state, end, max_tokens)

    def prefill(self, before: Padded, speech: Padded, after: Padded) -> tuple[Tensor, LMState]:
        """(B, V) logits of each row's first response token, and the state they are of; arguments as in `read`."""
        hidden, state = self(before, speech, after)
        return self.lm.logits(take(hidden.values, after.row_lengths() - 1, 1)[:, 0]), state


def part_of(name: str) -> str:
    """The part a parameter belongs to: the first word of its dotted name."""
    return name.split(".", 1)[0]


def is_adapter(name: str) -> bool:
    """Whether a parameter, by its dotted name, is a factor of an adapter (see `lora`)."""
    return ".lora_" in name


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Parameters of each part."""
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        counts[part_of(name)] = counts.get(part_of(name), 0) + parameter.numel()
    return counts
