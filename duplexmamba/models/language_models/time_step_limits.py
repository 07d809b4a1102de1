"""Mends the single step of Mamba-2 layers of transformers, which leaves out the time step limits.

The library clamps the time step where it runs several steps at once, but not where it runs one, so
that a model with limits (Nemotron-H and Zamba2: at least time_step_min) gives other results token
by token than in one piece. Here the projection that the time step is computed from is clamped
instead, in both, for as long as the layer runs; softplus is monotonic, so this is the same.
"""

import functools
import math
from typing import Any

import torch
from torch import Tensor, nn

NO_LIMITS = (0.0, math.inf)
"""Limits that change nothing, in units of the time step."""


def clamp_time_steps(model: nn.Module, source: str) -> None:
    """Let all Mamba-2 layers of a model respect their limits in single steps as well, in place.

    Args:
        model: of transformers.
        source: folder or hub name, for messages.

    Raises:
        ValueError: the layers have limits, and scale their projection.
    """
    for mixer in model.modules():
        limits = getattr(mixer, "time_step_limit", None)
        if limits is None or tuple(limits) == NO_LIMITS:
            continue
        if hasattr(mixer, "mup_vector"):
            raise ValueError(
                f"lm.pretrained={source!r} has time_step_limit={tuple(limits)}, which "
                "transformers leaves out in single steps of this architecture; choose a model "
                "without limits"
            )
        # Only while the layer runs: an adapter may take the place of the projection in between.
        mixer.register_forward_pre_hook(_begin)
        mixer.register_forward_hook(_end, always_call=True)


def _begin(mixer: Any, args: Any) -> None:
    hook = functools.partial(_clamp, mixer)
    mixer.clamp_handle = mixer.in_proj.register_forward_hook(hook)


def _end(mixer: Any, args: Any, output: Any) -> None:
    mixer.clamp_handle.remove()
    del mixer.clamp_handle


def _clamp(mixer: Any, projection: nn.Module, args: Any, projected: Tensor) -> Tensor:
    """(B, L, channels) -> the same, with the last channels, one for each head, clamped."""
    num_heads = mixer.num_heads
    others = projected[..., :-num_heads]
    time_steps = projected[..., -num_heads:]
    low, high = mixer.time_step_limit
    bias = mixer.dt_bias.to(projected.dtype)
    if low > 0:
        time_steps = torch.maximum(time_steps, _inverse_softplus(low) - bias)
    if high < math.inf:
        time_steps = torch.minimum(time_steps, _inverse_softplus(high) - bias)
    return torch.cat([others, time_steps], -1)


def _inverse_softplus(time_step: float) -> float:
    return time_step + math.log(-math.expm1(-time_step))
