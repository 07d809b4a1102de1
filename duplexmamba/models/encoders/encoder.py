"""The speech encoder: a stack of blocks, in four contexts from offline to strictly causal.

Letters in shapes:
    B: rows of the batch
    T: encoder frames
    D: model width

With the mixer Mamba and the context `full` or `slice` it is the published ConMamba encoder (arXiv
2502.11123).
"""

import dataclasses

import torch
from torch import nn

from duplexmamba.config import EncoderConfig
from duplexmamba.models.blocks import BlockState
from duplexmamba.models.mixers import build_block
from duplexmamba.models.timing import FrameTiming
from duplexmamba.streaming.buffer import StreamBuffer, pending_steps, stream_windows
from duplexmamba.streaming.padded import Padded, join, rows_to_slices, slices_to_rows

BlockStates = tuple[BlockState, ...]
"""States of all blocks, first block first."""


@dataclasses.dataclass(frozen=True)
class EncoderState:
    """Streaming state of the encoder."""

    pending: StreamBuffer | None
    """(B, slice_frames - 1, D): frames of a slice that is not full yet; None in context causal."""
    blocks: BlockStates | None
    """States of the blocks; None in context slice, where slices are independent."""


class Encoder(nn.Module):
    """(B, T, D) -> (B, T, D), in the four contexts of `EncoderConfig`.

    In a context with slices, frames are returned when their slice is full. The context `full`
    takes whole utterances only.

    Args:
        timing: durations of the model's frames, which convert milliseconds of the configuration.

    Raises:
        ValueError: the slice length is no multiple of one speech embedding.
    """

    def __init__(self, config: EncoderConfig, timing: FrameTiming):
        super().__init__()
        self.context = config.context
        self.slice_frames = timing.encoder_frames("encoder.slice_ms", config.slice_ms)
        self.train_slice_frames = [
            timing.encoder_frames("encoder.train_slice_ms", ms) for ms in config.train_slice_ms
        ]
        self.embedding_frames = timing.encoder_frames("one embedding", timing.token_ms)
        past_frames = timing.whole_frames(config.left_context_ms)
        self.blocks = nn.ModuleList()
        for _ in range(config.num_layers):
            self.blocks.append(build_block(config, past_frames))
        self.norm = nn.LayerNorm(config.d_model)

    def forward(
        self, x: Padded, state: EncoderState | None = None, final: bool = False
    ) -> tuple[Padded, EncoderState | None]:
        """Encode frames.

        Args:
            x: (B, T, D).
            state: what the previous chunk of the stream returned; None at its start.
            final: the stream ends here; frames of a slice that is not full are encoded as a
                shorter slice.

        Returns:
            (B, T', D) frames, and the state for the next chunk. T' differs from T where frames of
            the last slice are pending. The state is None in context full.

        Raises:
            ValueError: the context is `full` and there is a state.
        """
        if self.context == "full":
            return self._encode_utterances(x, state)
        if self.context == "causal":
            block_states = None if state is None else state.blocks
            x, block_states = self._run_blocks(x, block_states)
            return x, EncoderState(None, block_states)
        return self._encode_slices(x, state, final)

    def _encode_utterances(self, x: Padded, state: EncoderState | None) -> tuple[Padded, None]:
        if state is not None:
            raise ValueError(
                "encoder.context=full encodes whole utterances and has no streaming state; "
                "set encoder.context=causal"
            )
        x, _ = self._run_blocks(x)
        return x, None

    def _encode_slices(
        self, x: Padded, state: EncoderState | None, final: bool
    ) -> tuple[Padded, EncoderState]:
        past = None
        block_states = None
        if state is not None:
            past = state.pending
            block_states = state.blocks
        slice_frames = self._choose_slice_frames(state)
        x, pending = whole_slices(x, past, slice_frames, final)
        if self.context == "causal_lookahead":
            x, block_states = self._run_blocks(x, block_states, slice_frames)
            return x, EncoderState(pending, block_states)
        # context slice: every slice is a row of its own and starts from empty states
        sliced = slices_to_rows(x.at_least_one_step(), slice_frames)
        encoded, _ = self._run_blocks(sliced)
        return x.with_values(rows_to_slices(encoded.values, x)), EncoderState(pending, None)

    def _run_blocks(
        self,
        x: Padded,
        states: BlockStates | None = None,
        slice_frames: int | None = None,
    ) -> tuple[Padded, BlockStates]:
        x = x.at_least_one_step()
        new_states = []
        for i, block in enumerate(self.blocks):
            state = None if states is None else states[i]
            x, new_state = block(x, state, slice_frames)
            new_states.append(new_state)
        return x.with_values(self.norm(x.values)), tuple(new_states)

    def _choose_slice_frames(self, state: EncoderState | None) -> int:
        if state is not None and state.pending is not None:
            # the slice length of a stream never changes, and its buffer has one frame less
            return state.pending.tail.shape[1] + 1
        if self.context == "slice" or not self.training:
            return self.slice_frames
        # training with look-ahead: one slice length per batch, in whole speech embeddings
        shortest, longest = self.train_slice_frames
        low = shortest // self.embedding_frames
        high = longest // self.embedding_frames
        return int(torch.randint(low, high + 1, ())) * self.embedding_frames


def whole_slices(
    x: Padded, past: StreamBuffer | None, slice_frames: int, final: bool
) -> tuple[Padded, StreamBuffer]:
    """Split a stream into the frames of full slices and those that are pending.

    Args:
        x: (B, T, D) new frames.
        past: pending frames of earlier chunks; None at the start of the stream.
        slice_frames: frames of one slice.
        final: the stream ends here; all frames are returned and none is pending.

    Returns:
        (B, T', D) frames, and the buffer of pending frames, (B, slice_frames - 1, D).
    """
    if not final:
        window, past = stream_windows(x, past, history=0, hop=slice_frames)
        return Padded(window.values, window.row_lengths() * slice_frames), past
    if past is not None:
        x = join([pending_steps(past), x])
    batch, _, width = x.values.shape
    empty_tail = x.values.new_zeros(batch, slice_frames - 1, width)
    none_pending = torch.zeros_like(x.row_lengths())
    return x, StreamBuffer(empty_tail, none_pending)
