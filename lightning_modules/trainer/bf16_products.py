"""Products of linear layers in bfloat16, for training on CPUs that have instructions for it.

Such a CPU multiplies bfloat16 about twice as fast as float32. As in mixed precision on a GPU, factors
and results are rounded, and sums are accumulated in float32. Everything between the products stays
in float32, which spares most conversions of torch's autocast.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.overrides import TorchFunctionMode

MIN_WEIGHTS = 4096
"""Smaller matrices are multiplied in float32: the rounding would take longer than it saves."""


class Bf16Products(TorchFunctionMode):
    """While it is active, every `torch.nn.functional.linear` rounds its factors to bfloat16.

    The backward pass does so too, wherever it runs. Other functions are as ever.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Compute a function of torch; called by torch for each of them."""
        if func is F.linear:
            return linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return input @ weight.T + bias, with factors and product rounded to bfloat16.

    Args:
        input: (..., M) float32.
        weight: (N, M) float32.
        bias: (N,) float32, not rounded.

    Returns:
        (..., N) float32. Small matrices, and those of another type, are multiplied as they are.
    """
    is_float32 = input.dtype == weight.dtype == torch.float32
    if not is_float32 or weight.numel() < MIN_WEIGHTS:
        with torch._C.DisableTorchFunction():
            return F.linear(input, weight, bias)
    product: Tensor = _Bf16Linear.apply(input, weight)
    return product if bias is None else product + bias


class _Bf16Linear(torch.autograd.Function):
    """input @ weight.T with rounded factors and results, in both passes."""

    @staticmethod
    def forward(ctx: FunctionCtx, input: Tensor, weight: Tensor) -> Tensor:
        rows = input.reshape(-1, input.shape[-1]).bfloat16()
        rounded = weight.bfloat16()
        ctx.save_for_backward(rows, rounded)
        ctx.shape = input.shape  # type: ignore[attr-defined]
        return (rows @ rounded.T).float().view(*input.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors
        rounded = gradient.reshape(-1, gradient.shape[-1]).bfloat16()
        input_gradient = weight_gradient = None
        if ctx.needs_input_grad[0]:
            input_gradient = (rounded @ weight).float().view(ctx.shape)
        if ctx.needs_input_grad[1]:
            weight_gradient = (rounded.T @ rows).float()
        return input_gradient, weight_gradient


def has_bf16_instructions() -> bool:
    """Whether this CPU multiplies bfloat16 faster than float32 (AVX512_BF16 or AMX)."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
