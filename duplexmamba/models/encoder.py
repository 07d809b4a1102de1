"""Log-mel frames to encoder frames, one for every four: two convolutions of stride 2, then `blocks`, published with
Mamba as ConMamba (arXiv 2502.11123).

Glossary: B rows, T frames, M mels, C channels, D model width.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

from duplexmamba.config import EncoderConfig, FrontendConfig
from duplexmamba.models.blocks import BlockState, build_block
from duplexmamba.models.timing import FrameTiming
from duplexmamba.streaming.padded import (
    Padded,
    StreamBuffer,
    join,
    pending_steps,
    rows_to_slices,
    slices_to_rows,
    stream_windows,
)


class Frontend(nn.Module):
    """(B, T, M) -> (B, T / 4, D): two causal convolutions, each halving time and mel."""

    def __init__(self, config: FrontendConfig, num_mels: int, d_model: int):
        super().__init__()
        first, second = config.channels
        self.conv1 = nn.Conv2d(1, first, 3, stride=2, padding=(0, 1))
        self.conv2 = nn.Conv2d(first, second, 3, stride=2, padding=(0, 1))
        self.linear = nn.Linear(second * num_mels // 4, d_model)

    def forward(
        self, x: Padded, state: tuple[StreamBuffer, StreamBuffer] | None = None
    ) -> tuple[Padded, tuple[StreamBuffer, StreamBuffer]]:
        """Frames left over from a group of four wait in the state."""
        past1, past2 = state or (None, None)
        x, past1 = self._halve(x.with_values(x.values[..., None]), self.conv1, past1)
        x, past2 = self._halve(x, self.conv2, past2)
        return x.with_values(self.linear(x.values.flatten(2))), (past1, past2)

    def _halve(
        self, x: Padded, conv: nn.Conv2d, past: StreamBuffer | None
    ) -> tuple[Padded, StreamBuffer]:
        window, past = stream_windows(
            x, past, history=1, hop=2
        )  # (B, 1 + 2 U, M, C): channels last, as the CPU likes it
        return window.with_values(
            F.silu(conv(window.values.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        ), past


@dataclasses.dataclass(frozen=True)
class EncoderState:
    """What the encoder remembers: frames of a slice that is not full yet, and its blocks' states."""

    pending: StreamBuffer | None
    """None where context has no slices."""
    blocks: tuple[BlockState, ...] | None
    """None where slices know nothing of each other."""


class Encoder(nn.Module):
    """Encoder frames in, encoder frames out, in the four contexts of `EncoderConfig`.

    With slices a frame comes out when its slice is full. `full` takes whole utterances only.
    """

    def __init__(self, config: EncoderConfig, clock: FrameTiming):
        super().__init__()
        self.context = config.context
        self.slice_frames = clock.encoder_frames("encoder.slice_ms", config.slice_ms)
        self.train_slice_frames = [
            clock.encoder_frames("encoder.train_slice_ms", ms) for ms in config.train_slice_ms
        ]
        self.slice_unit = clock.encoder_frames("one embedding", clock.token_ms)
        past_frames = clock.whole_frames(config.left_context_ms)
        self.blocks = nn.ModuleList(
            build_block(config, past_frames) for _ in range(config.num_layers)
        )
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
                raise ValueError(
                    "encoder.context=full sees whole utterances and carries no state; use context=causal"
                )
            return self._blocks(x)[0], None
        if self.context == "causal":
            x, blocks = self._blocks(x, None if state is None else state.blocks)
            return x, EncoderState(None, blocks)
        size = self._slice_frames(state)
        x, pending = whole_slices(x, None if state is None else state.pending, size, final)
        if self.context == "causal_lookahead":
            x, blocks = self._blocks(x, None if state is None else state.blocks, size)
            return x, EncoderState(pending, blocks)
        sliced, _ = self._blocks(slices_to_rows(x.at_least_one_step(), size))
        return x.with_values(rows_to_slices(sliced.values, x)), EncoderState(pending, None)

    def _blocks(
        self,
        x: Padded,
        states: tuple[BlockState, ...] | None = None,
        slice_frames: int | None = None,
    ) -> tuple[Padded, tuple[BlockState, ...]]:
        x, after = x.at_least_one_step(), []
        for i, block in enumerate(self.blocks):
            x, new = block(x, None if states is None else states[i], slice_frames)
            after.append(new)
        return x.with_values(self.norm(x.values)), tuple(after)

    def _slice_frames(self, state: EncoderState | None) -> int:
        if state is not None and state.pending is not None:
            return state.pending.tail.shape[1] + 1  # a stream keeps the slices it began with
        if not self.training or self.context == "slice":
            return self.slice_frames
        low, high = (frames // self.slice_unit for frames in self.train_slice_frames)
        return int(torch.randint(low, high + 1, ())) * self.slice_unit


def whole_slices(
    x: Padded, past: StreamBuffer | None, size: int, final: bool
) -> tuple[Padded, StreamBuffer]:
    """(B, T, D) -> the frames of all slices that are full, and those that wait; `final`: all frames, none waits."""
    if final:
        x = x if past is None else join([pending_steps(past), x])
        return x, StreamBuffer(
            x.values.new_zeros(x.values.shape[0], size - 1, x.values.shape[2]), x.row_lengths() * 0
        )
    window, past = stream_windows(x, past, history=0, hop=size)
    return Padded(window.values, window.row_lengths() * size), past
