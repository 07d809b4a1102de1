"""A frozen pretrained encoder that streams by its own caches, exactly.

A stream is encoded in slices of `encoder.slice_ms`. Frame t of the output is frame t of the library,
computed when the slice that it belongs to is full; the caches carry the past. Any cut of the audio
gives the frames of one pass, and offline stages use the same frames.

Letters in shapes:
    B: rows of the batch
    n: audio samples
    T: frames of the encoder
    D: width of its frames
"""

import dataclasses
import functools

import numpy as np
import torch
from torch import Tensor

from duplexmamba.config import ModelConfig
from duplexmamba.models.encoders.caches import EncoderCaches, StreamingEncoder, build_streaming
from duplexmamba.models.encoders.library import open_library_encoder
from duplexmamba.models.encoders.pretrained import PretrainedEncoder
from duplexmamba.models.pretrained_encoders import num_joined
from duplexmamba.models.timing import FrameTiming
from duplexmamba.streaming.padded import Padded
from duplexmamba.streaming.state import join, map_state


@dataclasses.dataclass(frozen=True)
class CacheAwareState:
    """Streaming state of a pretrained encoder in context cache; all zero at the start of a stream."""

    tail: Tensor
    """(B, kept) the last samples of the stream, newest last."""
    num_samples: Tensor
    """(B,) int64, samples of the stream so far."""
    caches: EncoderCaches


class CacheAwareEncoder(PretrainedEncoder):
    """Samples (B, n) -> frames (B, T, D), normalised with mean and deviation of each channel.

    Rows run one by one, since the library's caches have one number of past frames for all rows. The
    weights are frozen and no part of the module's state dict, which holds the normalisation alone.

    Args:
        config: `encoder.pretrained` names the encoder, `encoder.slice_ms` its slices.

    Raises:
        ValueError: the slice is no whole number of speech embeddings, or one that the encoder was
            not trained with.
    """

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        encoder = config.encoder
        timing = FrameTiming.of(config)
        self.slice_frames = num_joined(encoder) * timing.encoder_frames(
            "encoder.slice_ms", encoder.slice_ms
        )
        self._check_lookahead(encoder.slice_ms)

    def _check_lookahead(self, slice_ms: float) -> None:
        known = self.info.lookaheads
        if known is not None and self.slice_frames - 1 not in known:
            choices = [(frames + 1) * self.info.frame_ms for frames in sorted(known)]
            nearest = min(choices, key=lambda choice: abs(choice - slice_ms))
            listed = ", ".join(f"{choice:g}" for choice in choices)
            raise ValueError(
                f"encoder.slice_ms={slice_ms:g}: {self.info.name} was trained with slices of "
                f"{listed} ms; set encoder.slice_ms={nearest:g}, and duplex.slice_ms to a multiple"
            )

    def forward(  # type: ignore[override]
        self, samples: Padded, state: CacheAwareState | None = None, final: bool = False
    ) -> tuple[Padded, CacheAwareState]:
        """Encode audio.

        Args:
            samples: (B, n) in [-1, 1].
            state: what the previous chunk of the stream returned; None at its start.
            final: the stream ends here; the frames of a slice that is not full are returned as
                well, with silence after them.

        Returns:
            (B, T, D) frames, and the state for the next chunk.
        """
        values = samples.values.detach().float()
        if state is None:
            state = self._initial_state(values)
        rows = []
        states = []
        for row, length in enumerate(samples.row_lengths().tolist()):
            row_state = _row(state, row)
            frames, row_state = self._encode_row(values[row, :length], row_state, final)
            rows.append(frames)
            states.append(row_state)
        return self._batch(rows, samples.values.device), join(states)

    def encode_utterance(self, samples: np.ndarray) -> np.ndarray:
        """Encode a whole utterance as one stream: (n,) -> (n // frame_samples, D) float32."""
        values = torch.from_numpy(samples).to(self.mean.device, torch.float32)
        frames, _ = self._encode_row(values, self._initial_state(values[None]), final=True)
        return frames.cpu().numpy()

    def settings(self, slice_frames: int) -> str:
        """Everything besides the samples that the frames of `encode_signal` depend on."""
        return f"{super().settings(slice_frames)} {self.slice_frames}"

    def _encode_row(
        self, samples: Tensor, state: CacheAwareState, final: bool
    ) -> tuple[Tensor, CacheAwareState]:
        """Encode the slices of one row that end in a chunk (n,), and one that is not full."""
        encoder = self._streaming()
        recent = torch.cat([state.tail[0], samples])
        start = int(state.num_samples[0])
        end = start + len(samples)
        first = self._frames_in_slices(start)
        stop = self._frames_in_slices(end)
        num_frames = stop - first
        if final:
            num_frames = end // self.info.frame_samples - first
            # whole slices, the last of which ends in silence
            stop = first - (-num_frames // self.slice_frames) * self.slice_frames
        # (T, D); none where no slice is full
        caches = state.caches
        frames = samples.new_zeros(0, self.info.width)
        if stop > first:
            span = encoder.span(first, stop)
            # the first sample of `recent` is number end - len(recent) of the stream
            heard = _cut(recent, span.start - (end - len(recent)), span.stop - span.start)
            frames, caches = encoder.encode(heard, caches if first else None, first)
        tail = recent[len(samples) :]
        num_samples = torch.full_like(state.num_samples, end)
        return frames[:num_frames], CacheAwareState(tail[None], num_samples, caches)

    def _frames_in_slices(self, num_samples: int) -> int:
        """Frames of the slices that are full after so many samples of a stream."""
        num_slices = num_samples // (self.slice_frames * self.info.frame_samples)
        return num_slices * self.slice_frames

    def _initial_state(self, samples: Tensor) -> CacheAwareState:  # type: ignore[override]
        """The state before a stream begins, for as many rows as (B, n) samples have."""
        encoder = self._streaming()
        batch_size = len(samples)
        # a slice that is not full, and what the first log-mel frames of the next one reach back
        one_slice = self.slice_frames * self.info.frame_samples
        reach = one_slice - encoder.span(self.slice_frames, 2 * self.slice_frames).start

        def repeat(leaf: Tensor) -> Tensor:
            return leaf.expand(batch_size, *leaf.shape[1:])

        return CacheAwareState(
            samples.new_zeros(batch_size, one_slice + reach),
            torch.zeros(batch_size, dtype=torch.int64, device=samples.device),
            map_state(repeat, encoder.empty),
        )

    def _streaming(self) -> StreamingEncoder:
        return open_streaming(self.info.name, str(self.mean.device), self.slice_frames)


@functools.lru_cache(maxsize=4)
def open_streaming(source: str, device: str, slice_frames: int) -> StreamingEncoder:
    """Open an encoder of context cache, once in a process and those that are forked from it.

    Args:
        source: folder, or name of a model on the hub.
        device: that it runs on.
        slice_frames: frames of a slice.

    Raises:
        ValueError: there is no such encoder, or its weights do not fit its config.json.
    """
    return build_streaming(open_library_encoder(source, device), slice_frames)


def _row(state: CacheAwareState, row: int) -> CacheAwareState:
    def take(leaf: Tensor) -> Tensor:
        return leaf[row : row + 1]

    return map_state(take, state)


def _cut(signal: Tensor, start: int, length: int) -> Tensor:
    """(m,) -> (length,) from `start`, with silence before and after the signal."""
    before = max(-start, 0)
    inside = signal[max(start, 0) : start + length]
    return torch.nn.functional.pad(inside, (before, length - before - len(inside)))
