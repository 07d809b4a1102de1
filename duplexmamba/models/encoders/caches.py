"""How the caches of streaming encoders of transformers are carried as a value.

The library changes its caches in place and keeps them in objects of its own. Here their tensors are
copied out after a call and into new objects before the next, so that a state can be kept, forked,
selected by row and saved.

Letters in shapes:
    n: audio samples
    T: frames of the encoder
    D: width of its frames
    W: steps that attention keeps, one less than the library's sliding window
    H, P: attention heads and their width
    C: channels of a convolution
    K: its steps of the past
"""

import abc
import copy
import dataclasses
import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from duplexmamba.models.encoders.library import LibraryEncoder
from duplexmamba.models.pretrained_architectures import MEL_HOP


@dataclasses.dataclass(frozen=True)
class EncoderCaches:
    """Caches of a streaming encoder after some frames; zero where nothing has been heard yet."""

    keys: tuple[Tensor, ...]
    """(B, W, H, P) of each layer, newest last."""
    values: tuple[Tensor, ...]
    """(B, W, H, P) of each layer."""
    convs: tuple[Tensor, ...]
    """(B, C, K) of each convolution, or (B, C, K, M) of one over time and mel bands."""


class Span(NamedTuple):
    """Samples from `start` up to `stop`, counted from the start of the stream."""

    start: int
    """Negative: the silence before the stream."""
    stop: int


class EncodedFrames(NamedTuple):
    """Frames (T, D), and the caches after them, of one row."""

    frames: Tensor
    caches: EncoderCaches


class StreamingEncoder(abc.ABC):
    """A streaming encoder of transformers: samples and caches in, frames and caches out.

    It runs single rows. A call takes whole slices, the first of a stream without caches.

    Args:
        encoder: opened encoder.
        slice_frames: frames of a slice.
    """

    def __init__(self, encoder: LibraryEncoder, slice_frames: int):
        self.encoder = encoder
        self.slice_frames = slice_frames
        self.settings: Any = encoder.model.config
        self.kept_steps = self.settings.sliding_window - 1
        self.steps_per_frame = 1

    @abc.abstractmethod
    def span(self, first: int, stop: int) -> Span:
        """Samples that frames `first` up to `stop` are computed from, besides the caches."""

    @abc.abstractmethod
    def input(self, samples: Tensor) -> Tensor:
        """What the library takes: features of the samples (n,) of a span, one row."""

    @abc.abstractmethod
    def call(self, features: Tensor, attention: DynamicCache, padding: Any) -> tuple[Tensor, Any]:
        """Call the library.

        Args:
            features: one row.
            attention: changed in place.
            padding: of the convolutions; None at the start of a stream.

        Returns:
            (1, T, D) frames, and the cache of the convolutions.
        """

    @abc.abstractmethod
    def conv_tensors(self, padding: Any) -> list[Tensor]:
        """Tensors of a cache of the convolutions."""

    @abc.abstractmethod
    def padding_cache(self, template: Any, convs: list[Tensor]) -> Any:
        """Make a cache of the convolutions.

        Args:
            template: another one, which stays as it is.
            convs: its tensors.
        """

    @torch.no_grad()
    def encode(self, samples: Tensor, caches: EncoderCaches | None, num_past: int) -> EncodedFrames:
        """Encode whole slices of one row.

        Args:
            samples: (n,) of the span of the new frames.
            caches: one row; None at the start of the stream.
            num_past: frames of the stream so far.
        """
        attention = DynamicCache(config=self.settings)
        padding = None
        if caches is not None:
            self._fill(attention, caches, num_past)
            # copies, because the library writes into them
            convs = [conv.clone() for conv in caches.convs]
            padding = self.padding_cache(self._template, convs)
        # the caches are sums of the whole past, and of one dtype
        with torch.autocast(samples.device.type, enabled=False):
            frames, padding = self.call(self.input(samples), attention, padding)
        layers: list[Any] = attention.layers
        # (1, H, T, P) of each layer
        keys = tuple(self._kept(layer.keys) for layer in layers)
        values = tuple(self._kept(layer.values) for layer in layers)
        convs = [conv.clone() for conv in self.conv_tensors(padding)]
        return EncodedFrames(frames[0], EncoderCaches(keys, values, tuple(convs)))

    @functools.cached_property
    def empty(self) -> EncoderCaches:
        """Caches of one row before the stream begins."""
        _, caches = self.encode(self._first_silence(), None, 0)
        return EncoderCaches(
            tuple(torch.zeros_like(keys) for keys in caches.keys),
            tuple(torch.zeros_like(values) for values in caches.values),
            tuple(torch.zeros_like(conv) for conv in caches.convs),
        )

    @functools.cached_property
    def _template(self) -> Any:
        """A cache of the convolutions as the library makes it."""
        attention = DynamicCache(config=self.settings)
        _, padding = self.call(self.input(self._first_silence()), attention, None)
        return padding

    def _first_silence(self) -> Tensor:
        """Silence (n,) as long as the span of a stream's first slice."""
        span = self.span(0, self.slice_frames)
        return torch.zeros(span.stop - span.start, device=self.encoder.model.device)

    def _fill(self, attention: DynamicCache, caches: EncoderCaches, num_past: int) -> None:
        """Give the library's cache the steps that one row has kept of `num_past` frames."""
        num_steps = num_past * self.steps_per_frame
        num_kept = min(num_steps, self.kept_steps)
        first = self.kept_steps - num_kept
        layers: list[Any] = attention.layers
        for layer, keys, values in zip(layers, caches.keys, caches.values, strict=True):
            # (1, W, H, P) -> (1, H, kept, P), the layout of transformers
            kept_keys = keys[:, first:].transpose(1, 2)
            kept_values = values[:, first:].transpose(1, 2)
            layer.lazy_initialization(kept_keys, kept_values)
            layer.keys = kept_keys
            layer.values = kept_values
            layer.cumulative_length = num_steps

    def _kept(self, steps: Tensor) -> Tensor:
        """(1, H, T, P) of the library -> (1, W, H, P), newest last."""
        newest = steps[:, :, -self.kept_steps :].transpose(1, 2)
        # zeros stand for steps before the stream
        missing = self.kept_steps - newest.shape[1]
        return torch.nn.functional.pad(newest, (0, 0, 0, 0, missing, 0))


class _LayersByName(StreamingEncoder):
    """Encoders whose convolutions keep their past in a dict of layers."""

    def conv_tensors(self, padding: Any) -> list[Tensor]:
        """Tensors of a cache of the convolutions, in the order in which they are called."""
        return [layer.cache for layer in padding.layers.values()]

    def padding_cache(self, template: Any, convs: list[Tensor]) -> Any:
        """A cache of the convolutions with other tensors than `template` has."""
        cache = type(template)()
        for (name, layer), conv in zip(template.layers.items(), convs, strict=True):
            # a copy of the layer's settings, with a tensor of its own
            filled = copy.copy(layer)
            filled.cache = conv
            cache.layers[name] = filled
        return cache


class NemotronEncoder(_LayersByName):
    """FastConformer with attention in chunks of a slice: a frame sees to the end of its slice.

    Frame t stands at log-mel frame 8 t, whose window is centred there: within a slice the last
    frame has heard less than 0.1 s less than the slice.
    """

    def span(self, first: int, stop: int) -> Span:
        """Samples that the windows of the new log-mel frames reach over."""
        factor = self.settings.subsampling_factor
        # the first frame needs one log-mel frame, each other one those since the frame before it
        first_mel = factor * (first - 1) + 1 if first else 0
        last_mel = factor * (stop - 1)
        half_window = self.encoder.extractor.n_fft // 2
        return Span(first_mel * MEL_HOP - half_window, last_mel * MEL_HOP + half_window)

    def input(self, samples: Tensor) -> Tensor:
        """Log-mel frames (1, T, M), none of which is padded at an end."""
        features = self.encoder.extract(samples.cpu().numpy(), center=False)
        return features["input_features"]

    def call(self, features: Tensor, attention: DynamicCache, padding: Any) -> tuple[Tensor, Any]:
        """A frame sees up to the end of its slice: the library's chunk is a slice."""
        output = self.encoder.model(
            features,
            past_key_values=attention,
            padding_cache=padding,
            use_cache=True,
            num_lookahead_tokens=self.slice_frames - 1,
        )
        return output.last_hidden_state, output.padding_cache


class VoxtralEncoder(_LayersByName):
    """Causal Transformer on log-mel frames.

    The window of its newest log-mel frame reaches some samples past the frame that it belongs to. The
    library therefore hears the stream with as many samples of silence before it.
    """

    def span(self, first: int, stop: int) -> Span:
        """Samples that the windows of the new log-mel frames reach over."""
        half_window = self.encoder.extractor.n_fft // 2
        lead = half_window - MEL_HOP
        # a convolution of stride 2 ends each frame with two log-mel frames
        first_mel = 2 * first
        last_mel = 2 * stop - 1
        return Span(
            first_mel * MEL_HOP - half_window - lead, last_mel * MEL_HOP + half_window - lead
        )

    def input(self, samples: Tensor) -> Tensor:
        """Log-mel frames (1, M, T), none of which is padded at an end."""
        # the library drops the last frame
        longer = torch.nn.functional.pad(samples, (0, MEL_HOP))
        features = self.encoder.extract(longer.cpu().numpy(), center=False)
        return features["input_features"]

    def call(self, features: Tensor, attention: DynamicCache, padding: Any) -> tuple[Tensor, Any]:
        """A frame sees the past alone."""
        output = self.encoder.model(
            features,
            past_key_values=attention,
            padding_cache=padding,
            use_cache=True,
            use_padding_cache=True,
        )
        return output.last_hidden_state, output.padding_cache


class MimiEncoder(StreamingEncoder):
    """Causal convolutions and a causal Transformer on samples, before quantisation."""

    def __init__(self, encoder: LibraryEncoder, slice_frames: int):
        super().__init__(encoder, slice_frames)
        # the Transformer runs before the last convolution, which has a stride
        self.steps_per_frame = self.settings.latent_stride

    def span(self, first: int, stop: int) -> Span:
        """Samples of the frames themselves."""
        frame_samples = self.encoder.frame_samples
        return Span(first * frame_samples, stop * frame_samples)

    def input(self, samples: Tensor) -> Tensor:
        """The samples themselves, (1, 1, n)."""
        return samples[None, None]  # one row, one channel

    def call(self, features: Tensor, attention: DynamicCache, padding: Any) -> tuple[Tensor, Any]:
        """A frame sees the past alone."""
        output = self.encoder.model(
            features, past_key_values=attention, padding_cache=padding, use_streaming=True
        )
        # (1, D, T) -> (1, T, D)
        return output.latents.mT, output.padding_cache

    def conv_tensors(self, padding: Any) -> list[Tensor]:
        """Tensors of a cache of the convolutions, in the order of the layers."""
        return list(padding.padding_cache)

    def padding_cache(self, template: Any, convs: list[Tensor]) -> Any:
        """A cache of the convolutions with other tensors than `template` has."""
        cache = copy.copy(template)
        cache.padding_cache = convs
        return cache


STREAMING_ENCODERS: dict[str, type[StreamingEncoder]] = {
    "nemotron_asr_streaming": NemotronEncoder,
    "nemotron_asr_streaming_encoder": NemotronEncoder,
    "voxtral_realtime": VoxtralEncoder,
    "voxtral_realtime_encoder": VoxtralEncoder,
    "mimi": MimiEncoder,
}
"""Encoders of context cache by model_type."""


def build_streaming(encoder: LibraryEncoder, slice_frames: int) -> StreamingEncoder:
    """Return an encoder that streams by its caches."""
    return STREAMING_ENCODERS[encoder.architecture.model_type](encoder, slice_frames)
