"""The caches of transformers as values: copied into a call, copied out of it, never shared.

transformers keeps what a model remembers in a `Cache`, an object with one layer object for each
layer of the model, which a call changes in place. Here a cache is made for one call from a
`CacheState`, and read into a new `CacheState` after it. The old state stays as it is, so that a
fork is a reference, as it is for every other state.

Letters in shapes:
    B: rows of the batch
    T: steps in the cache
    H: heads of keys and values
    P: channels of a head
    C: channels of a convolution
    K: width of a convolution
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedConfig
from transformers.cache_utils import (
    DummyLayer,
    DynamicLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionLayer,
)

from duplexmamba.models.language_models.transformer_lm import KeyValues, LayerCache
from duplexmamba.models.mixers.mamba import at_least_float32


@dataclasses.dataclass(frozen=True)
class LayerState:
    """State of one layer; a layer without attention or without recurrence has none of that."""

    key_values: KeyValues | None
    """(B, T, H, P) keys and values; those past the length of a row are padding."""
    convs: tuple[Tensor, ...] | None
    """(B, C, K) each: the newest inputs of the layer's convolutions, zero before the start."""
    recurrents: tuple[Tensor, ...] | None
    """(B, ...) each: the recurrent states, zero at the start; empty for a layer without any."""


@dataclasses.dataclass(frozen=True)
class CacheState:
    """State of a whole model. All zero means the start of a sequence."""

    layers: tuple[LayerState, ...]
    lengths: Tensor
    """(B,) int64: steps of each row, and so the position of its next step."""


class _Replaceable(Tensor):
    """A copy of a past state that the library may write its new state over.

    It does so by `copy_` or in a kernel of its own. By `copy_` nothing is written: the new state
    takes the place of the old one, which the gradient of the step still needs.
    """

    owner: "_Copies"
    state_index: int

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace `copy_` into a state; everything else runs as on a plain tensor."""
        with torch._C.DisableTorchFunctionSubclass():
            if func is Tensor.copy_ and isinstance(args[0], cls):
                target, source = args
                target.owner.current[target.state_index] = source.to(target.dtype)
                return target
            return func(*args, **(kwargs or {}))


class _Copies(dict[int, Tensor | None]):
    """The states of a layer by index, of which every reader gets a copy.

    The past stays as it is, also for a layer that is computed again for its gradient.
    """

    def __init__(self, past: Sequence[Tensor], number: int):
        super().__init__(dict.fromkeys(range(number)))
        self.update(enumerate(past))
        self.current: dict[int, Tensor] = {}
        """The states after the call."""

    def __getitem__(self, index: int) -> Tensor | None:
        past = super().__getitem__(index)
        if past is None:
            return None
        copied = past.clone().as_subclass(_Replaceable)
        copied.owner = self
        copied.state_index = index
        self.current[index] = copied
        return copied

    def values_after(self) -> tuple[Tensor, ...]:
        """Return the states after the call, in order, and let go of them."""
        states = []
        for index in sorted(self.current):
            states.append(self.current[index].as_subclass(Tensor))
        # a copy that was written over refers to this object
        self.current.clear()
        return tuple(states)


class RecurrentLayer(LinearAttentionLayer):
    """Cache of a layer with a convolution, a recurrent state, or both."""

    def __init__(self, number_of_states: int, past: LayerState | None):
        LinearAttentionLayer.__init__(self, number_of_states=number_of_states)
        convs: tuple[Tensor, ...] = ()
        recurrents: tuple[Tensor, ...] = ()
        if past is not None:
            assert past.convs is not None
            assert past.recurrents is not None
            convs = past.convs
            recurrents = past.recurrents
        self.convs = _Copies(convs, number_of_states)
        self.recurrents = _Copies(recurrents, number_of_states)
        # the names that the library reads
        self.conv_states = self.convs
        self.recurrent_states = self.recurrents
        has_past = past is not None
        self.has_previous_state = dict.fromkeys(range(number_of_states), has_past)

    def update_conv_state(
        self,
        conv_states: Tensor,
        state_idx: int = 0,
        conv_kernel_size: int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """(B, C, L) new inputs -> (B, C, K + L) inputs with those that the convolution needs."""
        assert conv_kernel_size is not None
        past = self.convs[state_idx]
        if past is None:
            batch_size, channels, _ = conv_states.shape
            past = conv_states.new_zeros(batch_size, channels, conv_kernel_size)
        joined = torch.cat([past, conv_states], -1)
        self.convs.current[state_idx] = joined[..., -conv_kernel_size:]
        return joined

    def update_recurrent_state(
        self, recurrent_states: Tensor, state_idx: int = 0, **kwargs: Any
    ) -> Tensor:
        """Take the new recurrent state, (B, ...)."""
        # under bfloat16 autocast, single steps would otherwise round the sum of the whole past
        state = at_least_float32(recurrent_states)
        self.recurrents.current[state_idx] = state
        return state


class HybridLayer(RecurrentLayer, LayerCache):  # type: ignore[misc, override]
    """Cache of a layer with attention and a recurrence side by side."""

    def __init__(self, number_of_states: int, past: LayerState | None, positions: Tensor):
        LayerCache.__init__(self, _past_key_values(past), positions)
        RecurrentLayer.__init__(self, number_of_states, past)

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """Set up the keys and values; the recurrent states need nothing."""
        DynamicLayer.lazy_initialization(self, *args, **kwargs)


class CacheLayout:
    """Which kind of cache each layer of a model has."""

    def __init__(self, settings: PreTrainedConfig):
        """Read the layout from the library.

        Args:
            settings: configuration of the model.

        Raises:
            ValueError: a layer has a cache that is not carried, such as a sliding window.
        """
        self._templates = DynamicCache(config=settings).layers
        for template in self._templates:
            if type(template) not in CARRIED_LAYERS:
                raise ValueError(
                    f"its cache {type(template).__name__} drops steps, or is read in other ways "
                    "than keys, values and recurrent states"
                )

    @property
    def has_recurrence(self) -> bool:
        """Whether any layer has a recurrent state or a convolution."""
        return any(isinstance(layer, LinearAttentionLayer) for layer in self._templates)

    @property
    def has_attention(self) -> bool:
        """Whether any layer has keys and values."""
        return any(isinstance(layer, DynamicLayer) for layer in self._templates)

    def cache(self, state: CacheState | None, positions: Tensor) -> Cache:
        """Make the cache for one call.

        Args:
            state: before the call; None at the start of all rows.
            positions: (B, L) int64, of the new steps.
        """
        layers = []
        for index, template in enumerate(self._templates):
            past = None if state is None else state.layers[index]
            layers.append(_layer_cache(template, past, positions))
        return Cache(layers=layers)


def _layer_cache(template: Any, past: LayerState | None, positions: Tensor) -> Any:
    if isinstance(template, DummyLayer):
        return DummyLayer()
    if isinstance(template, LinearAttentionAndFullAttentionLayer):
        return HybridLayer(template.number_of_states, past, positions)
    if isinstance(template, LinearAttentionLayer):
        return RecurrentLayer(template.number_of_states, past)
    return LayerCache(_past_key_values(past), positions)


CARRIED_LAYERS = (
    DynamicLayer,
    LinearAttentionLayer,
    LinearAttentionAndFullAttentionLayer,
    DummyLayer,
)
"""Layers of the library's cache that become a `LayerState`."""


def _past_key_values(past: LayerState | None) -> KeyValues | None:
    if past is None:
        return None
    assert past.key_values is not None
    keys, values = past.key_values
    # (B, T, H, P) -> (B, H, T, P), the layout of transformers
    return keys.transpose(1, 2), values.transpose(1, 2)


def state_after(cache: Cache, lengths: Tensor) -> CacheState:
    """Read the state out of a cache after a call.

    Args:
        cache: of `CacheLayout.cache`, which a model has filled.
        lengths: (B,) int64, steps of each row that count.
    """
    longest = int(lengths.max())
    layers = tuple(_layer_state(layer, longest) for layer in cache.layers)
    return CacheState(layers, lengths)


def _layer_state(layer: Any, num_steps: int) -> LayerState:
    key_values = None
    convs = None
    recurrents = None
    if isinstance(layer, LayerCache):
        key_values = layer.key_values(num_steps)
    if isinstance(layer, RecurrentLayer):
        convs = layer.convs.values_after()
        recurrents = layer.recurrents.values_after()
    return LayerState(key_values, convs, recurrents)


def without_steps(state: CacheState, num_steps: int) -> CacheState:
    """Keep the first `num_steps` steps of all keys and values."""
    layers = []
    for layer in state.layers:
        if layer.key_values is not None:
            keys, values = layer.key_values
            kept = (keys[:, :num_steps], values[:, :num_steps])
            layer = dataclasses.replace(layer, key_values=kept)
        layers.append(layer)
    return CacheState(tuple(layers), state.lengths)
