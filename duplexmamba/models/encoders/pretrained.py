"""A pretrained speech encoder as features, for whole utterances or for a stream in windows.

The encoder itself sees its whole input in both directions and has no streaming state. In context
`window`, a stream is therefore encoded in windows: at the end of each slice, the slice and some of
the past before it are encoded anew, and of the result those frames are kept that have seen
`lookahead_ms` of sound after them. Frame t of the output is the frame that ended `lookahead_ms`
before time t, so every slice of a stream gives equally many frames; those before the stream began
are zero.

Letters in shapes:
    B: rows of the batch
    n: audio samples
    T: frames of the encoder
    D: width of its frames
"""

import dataclasses
import functools
import os

import numpy as np
import torch
from torch import Tensor, nn

from duplexmamba.config import ModelConfig
from duplexmamba.models.encoders.backends import Encode, open_backend
from duplexmamba.models.features import Features
from duplexmamba.models.pretrained_encoders import find_encoder, num_joined
from duplexmamba.models.relative_level import SCALE_DB, START_DB
from duplexmamba.models.timing import FrameTiming
from duplexmamba.streaming.padded import Padded

MIN_STD = 1e-3
"""Smallest standard deviation that a channel is divided by."""
MIN_LEVEL_DB = -80.0
"""Level of digital silence; full scale is 0."""


@dataclasses.dataclass(frozen=True)
class WindowState:
    """Streaming state of a pretrained encoder in context window."""

    tail: Tensor
    """(B, past + slice) the last samples of the stream, newest last; zero before its start."""
    num_samples: Tensor
    """(B,) int64, samples of the stream so far."""


class PretrainedEncoder(Features):
    """Samples (B, n) -> frames (B, T, D), normalised with mean and deviation of each channel.

    Rows are encoded one by one: the ONNX form quantises its activations by the whole input, so that
    the frames of a row would depend on the other rows of a batch. The weights are frozen and no
    part of the module's state dict, which holds the normalisation alone.

    Args:
        config: `encoder.pretrained` names the encoder; its context, slice, left context and
            look-ahead are whole frames.

    Raises:
        ValueError: in context window, slices, left context or look-ahead do not fit the encoder's
            frames.
    """

    width: int
    """D: channels of the encoder and, with features.level=channel, the level of each frame."""
    mean: Tensor
    """(D,)"""
    std: Tensor
    """(D,)"""

    def __init__(self, config: ModelConfig):
        super().__init__()
        encoder = config.encoder
        self.config = encoder
        self.context = encoder.context
        self.info = find_encoder(encoder.pretrained)
        # whole utterances, context full, have no windows
        self.slice_frames = 0
        self.lookahead_frames = 0
        self.past_frames = 0
        if self.context == "window":
            self._set_window(config)
        self.has_level = config.features.level == "channel"
        self.width = self.info.width + int(self.has_level)
        self.register_buffer("mean", torch.zeros(self.width))
        self.register_buffer("std", torch.ones(self.width))
        self._set_level_scale()

    def _set_window(self, config: ModelConfig) -> None:
        encoder = config.encoder
        timing = FrameTiming.of(config)
        # in frames of the pretrained encoder, which may be shorter than those after the front end
        joined = num_joined(encoder)
        self.slice_frames = joined * timing.encoder_frames("encoder.slice_ms", encoder.slice_ms)
        self.lookahead_frames = joined * timing.encoder_frames(
            "encoder.lookahead_ms", encoder.lookahead_ms
        )
        self.past_frames = joined * timing.whole_frames(encoder.left_context_ms)
        self._check_window(encoder.lookahead_ms, encoder.left_context_ms)

    def _check_window(self, lookahead_ms: float, left_context_ms: float) -> None:
        if self.lookahead_frames < self.info.edge_frames:
            raise ValueError(
                f"encoder.lookahead_ms={lookahead_ms:g}: {self.info.name} needs at least "
                f"{self.info.edge_frames * self.info.frame_ms:g} ms after a frame; raise it"
            )
        if self.past_frames < self.lookahead_frames:
            raise ValueError(
                f"encoder.left_context_ms={left_context_ms:g} is shorter than "
                f"encoder.lookahead_ms={lookahead_ms:g}: the frames that a slice returns began in "
                "its past; raise left_context_ms"
            )
        window_frames = self.past_frames + self.slice_frames + self.lookahead_frames
        self.check_length(window_frames * self.info.frame_samples)

    def forward(
        self, samples: Padded, state: WindowState | None = None, final: bool = False
    ) -> tuple[Padded, WindowState | None]:
        """Encode audio.

        Args:
            samples: (B, n) in [-1, 1].
            state: what the previous chunk of the stream returned; None at its start.
            final: the stream ends here; the frames that wait for more sound are returned as well,
                with silence after them.

        Returns:
            (B, T, D) frames, and the state for the next chunk. The state is None in context full.

        Raises:
            ValueError: the context is `full` and there is a state.
        """
        if self.context != "window":
            if state is not None:
                raise ValueError(
                    "encoder.context=full encodes whole utterances and has no streaming state; "
                    "set encoder.context=window"
                )
            rows = [self._encode_whole(signal) for signal in _signals(samples)]
            return self._batch(rows, samples.values.device), None
        if state is None:
            state = self._initial_state(samples.values)
        rows = []
        tails = []
        totals = []
        signals = _signals(samples)
        for signal, tail, total in zip(signals, state.tail, state.num_samples, strict=True):
            # the last samples of the stream; those before its start are zero and never encoded
            recent = np.concatenate([tail.cpu().numpy(), signal])
            start = int(total)
            end = start + len(signal)
            rows.append(self._encode_windows(recent, start, end, final))
            tails.append(torch.from_numpy(recent[len(signal) :].copy()))
            totals.append(end)
        device = samples.values.device
        new_state = WindowState(
            torch.stack(tails).to(device), torch.tensor(totals, dtype=torch.int64, device=device)
        )
        return self._batch(rows, device), new_state

    @torch.no_grad()
    def encode_utterance(self, samples: np.ndarray) -> np.ndarray:
        """Encode a whole utterance at once.

        Args:
            samples: (n,) float32.

        Returns:
            (n // frame_samples, D) float32, before normalisation.
        """
        return self._encode_whole(samples).cpu().numpy()

    def _encode_whole(self, samples: np.ndarray) -> Tensor:
        num_frames = len(samples) // self.info.frame_samples
        return self._encode(samples, self.info.edge_frames, 0, num_frames)

    @torch.no_grad()
    def encode_signal(self, samples: np.ndarray, slice_frames: int) -> np.ndarray:
        """Encode a whole utterance or dialogue as `forward` does with `final`.

        Args:
            samples: (n,) float32.
            slice_frames: frames of a slice, where the context has slices.

        Returns:
            (n // frame_samples + look-ahead frames, D) float32, before normalisation.
        """
        if self.context != "window":
            return self.encode_utterance(samples)
        frames = self._encode_windows(samples, 0, len(samples), True, slice_frames)
        return frames.cpu().numpy()

    def levels_db(self, samples: np.ndarray) -> np.ndarray:
        """Levels (F,) that belong to the frames of a whole utterance or stream of (n,) samples."""
        levels = frame_levels_db(samples, self.info.frame_samples)
        # in windows the first frames are those from before the stream, all zero
        return np.pad(levels, (self.lookahead_frames, 0))

    def settings(self, slice_frames: int) -> str:
        """Everything besides the samples that the frames of `encode_signal` depend on."""
        name = f"{self.info.name} {self.info.revision}".strip()
        if self.context != "window":
            return f"{name} {self.context}"
        return f"{name} window {self.past_frames} {slice_frames} {self.lookahead_frames}"

    @torch.no_grad()
    def fit(self, samples: list[Tensor]) -> None:
        """Set mean and deviation of every channel from (n,) signals of the training data, except
        those of the level, which are constants."""
        frames = [self.encode_utterance(signal.numpy()) for signal in samples]
        all_frames = torch.from_numpy(np.concatenate(frames))
        self.mean.copy_(all_frames.mean(0))
        self.std.copy_(all_frames.std(0).clamp_min(MIN_STD))
        self._set_level_scale()

    def _set_level_scale(self) -> None:
        """Normalise levels by constants, from which `RelativeLevel` goes on."""
        if self.has_level:
            self.mean[-1] = START_DB
            self.std[-1] = SCALE_DB

    def normalise(self, frames: np.ndarray | Tensor) -> Tensor:
        """Normalise (T, D) frames; all-zero ones, from before a stream began, stay zero."""
        values = torch.as_tensor(frames).to(self.mean.device, self.mean.dtype)
        began = values.any(-1, keepdim=True)
        return (values - self.mean) / self.std * began

    def _encode_windows(
        self,
        recent: np.ndarray,
        start: int,
        end: int,
        final: bool,
        slice_frames: int | None = None,
    ) -> Tensor:
        """Encode the slices of a stream that end in a chunk.

        Args:
            recent: (m,) samples up to the end of the chunk.
            start: samples of the stream before the chunk.
            end: samples of the stream up to its end.
            final: return the frames that wait for more sound as well.
            slice_frames: frames of a slice; None: those of encoder.slice_ms.
        """
        frame = self.info.frame_samples
        hop = (slice_frames or self.slice_frames) * frame
        past = self.past_frames * frame
        offset = end - len(recent)  # position in the stream of recent[0]
        frames = [self._zeros(0)]
        boundary = start // hop * hop
        while boundary + hop <= end:
            first_sample = max(0, boundary - past)
            boundary += hop
            window = recent[first_sample - offset : boundary - offset]
            first = (boundary - hop) // frame - self.lookahead_frames
            stop = boundary // frame - self.lookahead_frames
            frames.append(self._frames_of(window, first_sample // frame, first, stop, 0))
        if final:
            first_sample = max(0, boundary - past)
            window = recent[first_sample - offset : end - offset]
            first = boundary // frame - self.lookahead_frames
            stop = end // frame
            silence = self.lookahead_frames
            frames.append(self._frames_of(window, first_sample // frame, first, stop, silence))
        return torch.cat(frames)

    def _frames_of(
        self, window: np.ndarray, window_frame: int, first: int, stop: int, silence_frames: int
    ) -> Tensor:
        """Frames `first` to `stop` of a stream, from a window that begins with `window_frame`.

        Frames before the stream, with negative numbers, are zero.
        """
        before_stream = min(max(-first, 0), stop - first)
        zeros = self._zeros(before_stream)
        begin = max(first, 0) - window_frame
        if stop <= 0:
            return zeros
        frames = self._encode(window, silence_frames, begin, stop - window_frame)
        return torch.cat([zeros, frames])

    def _zeros(self, num_frames: int) -> Tensor:
        return torch.zeros(num_frames, self.width, device=self.mean.device)

    def _encode(self, samples: np.ndarray, silence_frames: int, begin: int, stop: int) -> Tensor:
        """Frames `begin` to `stop` of (n,) samples and the silence after them."""
        num_silent = silence_frames * self.info.frame_samples
        num_missing = max(self.info.min_samples - len(samples), 0)
        padded = np.pad(samples, (0, max(num_silent, num_missing)))
        if stop <= begin:
            return self._zeros(0)
        self.check_length(len(padded))
        frames = self.encode_window(padded)[begin:stop]
        if not self.has_level:
            return frames
        levels = frame_levels_db(padded, self.info.frame_samples)[begin:stop]
        return torch.column_stack([frames, torch.from_numpy(levels).to(frames)])

    def encode_window(self, samples: np.ndarray) -> Tensor:
        """Run the encoder itself over (n,) float32 samples: (T, width of the encoder) float32."""
        frames = self._backend()(samples)
        return torch.from_numpy(frames).to(self.mean.device)

    def check_length(self, num_samples: int) -> None:
        """Check that the encoder can hear so many samples at once.

        Raises:
            ValueError: it cannot; names the longest input, and the remedy.
        """
        longest = self.info.max_samples
        if longest is not None and num_samples > longest:
            seconds = longest / self.info.sample_rate_hz
            raise ValueError(
                f"encoder.pretrained={self.info.name} hears at most {seconds:g} s at once, and not "
                f"{num_samples / self.info.sample_rate_hz:.1f} s: lower encoder.left_context_ms where "
                "encoder.context=window, else data.max_s"
            )

    def _backend(self) -> Encode:
        # one for each process: a session of onnxruntime does not survive a fork
        return backend_of_process(self.info.name, os.getpid(), str(self.mean.device))

    def _initial_state(self, samples: Tensor) -> WindowState:
        kept = (self.past_frames + self.slice_frames) * self.info.frame_samples
        batch_size = len(samples)
        return WindowState(
            samples.new_zeros(batch_size, kept),
            torch.zeros(batch_size, dtype=torch.int64, device=samples.device),
        )

    def _batch(self, rows: list[Tensor], device: torch.device) -> Padded:
        """Normalise rows (T, D) of frames and batch them."""
        normalised = [self.normalise(row).to(device) for row in rows]
        return pad_frames(normalised)


def frame_levels_db(samples: np.ndarray, frame_samples: int) -> np.ndarray:
    """Level (n // frame_samples,) float32 of each frame of (n,) samples in dB of full scale."""
    num_frames = len(samples) // frame_samples
    frames = samples[: num_frames * frame_samples].reshape(num_frames, frame_samples)
    root_mean_squares = np.sqrt(np.square(frames, dtype=np.float64).mean(1))
    smallest = 10 ** (MIN_LEVEL_DB / 20)
    return (20 * np.log10(np.maximum(root_mean_squares, smallest))).astype(np.float32)


def pad_frames(rows: list[Tensor]) -> Padded:
    """Batch rows (T, D) as (B, T, D)."""
    lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
    values = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return Padded(values, lengths)


@functools.lru_cache(maxsize=4)
def backend_of_process(name: str, process: int, device: str = "cpu") -> Encode:
    """Open an encoder once in each process.

    Args:
        name: value of `encoder.pretrained`.
        process: number of the process.
        device: that it runs on.

    Raises:
        ValueError: the encoder is not installed; the message says how to install it.
    """
    return open_backend(find_encoder(name), device)


def _signals(samples: Padded) -> list[np.ndarray]:
    """Rows (n,) of a batch without their padding, in the memory of the CPU."""
    values = samples.values.detach().to("cpu", torch.float32).numpy()
    lengths = samples.row_lengths().tolist()
    return [row[:length] for row, length in zip(values, lengths, strict=True)]
