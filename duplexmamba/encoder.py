"""ConMamba: log-mel frames to encoder frames, one for every four.

Glossary: B rows, T frames, M mels, C channels, D model width.
Source: the published encoder as duplexmamba describes it (arXiv 2502.11123): half-step feed-forward, Mamba, convolution
module, half-step feed-forward, each with a residual; two convolutions of stride 2 in front.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duplexmamba.mamba import MambaMixer, MambaState
from duplexmamba.padded import Carry, Padded, carry, fold, join, unfold, waiting
from duplexmamba.schema import EncoderConfig, FrontendConfig
from duplexmamba.timing import Clock


class Frontend(nn.Module):
    """(B, T, M) -> (B, T / 4, D): two causal convolutions, each halving time and mel."""

    def __init__(self, config: FrontendConfig, num_mels: int, d_model: int):
        super().__init__()
        first, second = config.channels
        self.conv1 = nn.Conv2d(1, first, 3, stride=2, padding=(0, 1))
        self.conv2 = nn.Conv2d(first, second, 3, stride=2, padding=(0, 1))
        self.linear = nn.Linear(second * num_mels // 4, d_model)

    def forward(self, x: Padded, state: tuple[Carry, Carry] | None = None) -> tuple[Padded, tuple[Carry, Carry]]:
        """Frames left over from a group of four wait in the state."""
        past1, past2 = state or (None, None)
        x, past1 = self._halve(x.with_values(x.values[..., None]), self.conv1, past1)
        x, past2 = self._halve(x, self.conv2, past2)
        return x.with_values(self.linear(x.values.flatten(2))), (past1, past2)

    def _halve(self, x: Padded, conv: nn.Conv2d, past: Carry | None) -> tuple[Padded, Carry]:
        window, past = carry(x, past, history=1, hop=2)  # (B, 1 + 2 U, M, C): channels last, as the CPU likes it
        return window.with_values(F.silu(conv(window.values.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)), past


class FeedForward(nn.Sequential):
    """Normalise, widen, narrow."""

    def __init__(self, config: EncoderConfig):
        d, dropout = config.d_model, config.dropout
        widen, narrow = nn.Linear(d, config.d_ffn), nn.Linear(config.d_ffn, d)
        super().__init__(nn.LayerNorm(d), widen, nn.SiLU(), nn.Dropout(dropout), narrow, nn.Dropout(dropout))


class ConvModule(nn.Module):
    """Gated pointwise, depthwise and pointwise convolution; the depthwise one looks back only unless `symmetric`."""

    def __init__(self, config: EncoderConfig, symmetric: bool):
        super().__init__()
        d = config.d_model
        self.symmetric = symmetric
        self.norm = nn.LayerNorm(d)
        self.gated = nn.Linear(d, 2 * d)
        self.conv = nn.Conv1d(d, d, config.conv_kernel, groups=d)
        self.after = nn.Sequential(nn.LayerNorm(d), nn.SiLU(), nn.Linear(d, d), nn.Dropout(config.dropout))

    def forward(self, x: Padded, state: Carry | None) -> tuple[Tensor, Carry | None]:
        x = x.with_values(F.glu(self.gated(self.norm(x.values)), -1))
        history = self.conv.kernel_size[0] - 1
        if self.symmetric:
            inside = x.values * x.mask()[..., None]
            window = F.pad(inside, (0, 0, history // 2, history // 2))
        else:
            carried, state = carry(x, state, history)
            window = carried.values
        return self.after(self.conv(window.transpose(1, 2)).transpose(1, 2)), state


@dataclasses.dataclass(frozen=True)
class BlockState:
    """What one block remembers."""

    mamba: MambaState
    conv: Carry


class ConMambaBlock(nn.Module):
    """(B, T, D) -> (B, T, D)."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        c = config
        self.ffn1, self.ffn2 = FeedForward(c), FeedForward(c)
        self.norm_mixer = nn.LayerNorm(c.d_model)
        both_ways = c.context != "carried"
        self.mixer = MambaMixer(c.d_model, c.d_state, c.d_conv, c.expand, bidirectional=both_ways)
        self.dropout = nn.Dropout(c.dropout)
        self.conv = ConvModule(c, symmetric=c.context in ("full", "slice"))
        self.norm = nn.LayerNorm(c.d_model)

    def forward(
        self, x: Padded, state: BlockState | None = None, slice_frames: int | None = None
    ) -> tuple[Padded, BlockState | None]:
        """slice_frames: of the mixer's backward direction; None: it sees to the end."""
        h = x.values + self.ffn1(x.values) / 2
        normed = x.with_values(self.norm_mixer(h))
        mixed, mamba = self.mixer(normed, None if state is None else state.mamba, slice_frames)
        h = h + self.dropout(mixed.values)
        out, conv = self.conv(x.with_values(h), None if state is None else state.conv)
        h = h + out
        h = self.norm(h + self.ffn2(h) / 2)
        return x.with_values(h), None if conv is None else BlockState(mamba, conv)


@dataclasses.dataclass(frozen=True)
class EncoderState:
    """What the encoder remembers: frames of a slice that is not full yet, and its blocks' states."""

    waiting: Carry | None
    """None where context has no slices."""
    blocks: tuple[BlockState, ...] | None
    """None where slices know nothing of each other."""


class ConMambaEncoder(nn.Module):
    """Encoder frames in, encoder frames out, in the four contexts of `EncoderConfig`.

    With slices a frame comes out when its slice is full. `full` takes whole utterances only.
    """

    def __init__(self, config: EncoderConfig, clock: Clock):
        super().__init__()
        self.context = config.context
        self.slice_frames = clock.encoder_frames("encoder.slice_ms", config.slice_ms)
        self.train_slice_frames = [clock.encoder_frames("encoder.train_slice_ms", ms) for ms in config.train_slice_ms]
        self.slice_unit = clock.encoder_frames("one embedding", clock.token_ms)
        self.blocks = nn.ModuleList(ConMambaBlock(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.d_model)

    def forward(
        self, x: Padded, state: EncoderState | None = None, final: bool = False
    ) -> tuple[Padded, EncoderState | None]:
        """(B, T, D) -> (B, T, D).

        Args:
            final: the stream ends here: frames that wait for their slice to fill come out as a shorter slice.

        Raises:
            ValueError: a `full` encoder is given a state.
        """
        if self.context == "full":
            if state is not None:
                raise ValueError("encoder.context=full sees whole utterances and carries no state; use context=carried")
            return self._blocks(x)[0], None
        if self.context == "carried":
            x, blocks = self._blocks(x, None if state is None else state.blocks)
            return x, EncoderState(None, blocks)
        size = self._slice_frames(state)
        x, waiting = whole_slices(x, None if state is None else state.waiting, size, final)
        if self.context == "carried_lookback":
            x, blocks = self._blocks(x, None if state is None else state.blocks, size)
            return x, EncoderState(waiting, blocks)
        sliced, _ = self._blocks(fold(x.not_empty(), size))
        return x.with_values(unfold(sliced.values, x)), EncoderState(waiting, None)

    def _blocks(
        self, x: Padded, states: tuple[BlockState, ...] | None = None, slice_frames: int | None = None
    ) -> tuple[Padded, tuple[BlockState, ...]]:
        x, after = x.not_empty(), []
        for i, block in enumerate(self.blocks):
            x, new = block(x, None if states is None else states[i], slice_frames)
            after.append(new)
        return x.with_values(self.norm(x.values)), tuple(after)

    def _slice_frames(self, state: EncoderState | None) -> int:
        if state is not None and state.waiting is not None:
            return state.waiting.tail.shape[1] + 1  # a stream keeps the slices it began with
        if not self.training or self.context == "slice":
            return self.slice_frames
        low, high = (frames // self.slice_unit for frames in self.train_slice_frames)
        return int(torch.randint(low, high + 1, ())) * self.slice_unit


def whole_slices(x: Padded, past: Carry | None, size: int, final: bool) -> tuple[Padded, Carry]:
    """(B, T, D) -> the frames of all slices that are full, and those that wait; `final`: all frames, none waits."""
    if final:
        x = x if past is None else join([waiting(past), x])
        return x, Carry(x.values.new_zeros(x.values.shape[0], size - 1, x.values.shape[2]), x.row_lengths() * 0)
    window, past = carry(x, past, history=0, hop=size)
    return Padded(window.values, window.row_lengths() * size), past
