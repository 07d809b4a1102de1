"""Depthwise convolutions: the fast paths against torch."""

import itertools
import os
import shutil
from collections.abc import Callable
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F

from duplexmamba.ops.conv import ShiftedConv, depthwise_conv, short_conv
from duplexmamba.ops.conv_cpp import conv_cpp
from duplexmamba.ops.step_cpp import is_step

Convolution = Callable[..., torch.Tensor]
needs_compiler = pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX", "c++")), reason="no C++ compiler"
)
SHAPES = [
    (2, 9, 32, 4),
    (1, 1, 16, 4),
    (3, 130, 48, 2),
    (2, 2, 16, 15),
    (2, 64, 64, 5),
    (0, 3, 16, 4),
]  # B, L, E, K


def operands(shape: tuple[int, int, int, int], dtype: torch.dtype) -> list[torch.Tensor]:
    batch, steps, e, k = shape
    sizes = (batch, steps + k - 1, e), (e, 1, k), (e,)
    return [torch.randn(size, dtype=dtype, requires_grad=True) for size in sizes]


def convolved(window: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.conv1d(window.transpose(1, 2), weight, bias, groups=len(bias)).transpose(1, 2)


def reference(window: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.silu(convolved(window, weight, bias))


PAIRS = [(short_conv, reference), (depthwise_conv, convolved)]


def values_and_gradients(function, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    y = function(*inputs)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).to(y.dtype)
    return [y, *torch.autograd.grad(y, inputs, dy)]


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_kernel_equals_torch(
    shape: tuple[int, int, int, int],
    threads: int,
    ours: Convolution,
    theirs: Convolution,
    monkeypatch,
) -> None:
    kernel = Mock(side_effect=conv_cpp)
    monkeypatch.setattr("duplexmamba.ops.conv.conv_cpp", kernel)
    torch.set_num_threads(threads)
    inputs = operands(shape, torch.float32)
    expected = values_and_gradients(theirs, [x.detach().double().requires_grad_() for x in inputs])
    for got, value in zip(values_and_gradients(ours, inputs), expected, strict=True):
        torch.testing.assert_close(got.double(), value, atol=2e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(ours(*inputs), ours(*inputs).detach(), atol=0, rtol=0)
    assert kernel.call_count == 3


@pytest.mark.parametrize("shape", [(2, 9, 6, 4), (1, 1, 5, 3)])
def test_shifted_multiplications_equal_torch(shape: tuple[int, int, int, int]) -> None:
    inputs = operands(shape, torch.float64)
    got, expected = (values_and_gradients(f, inputs) for f in (short_conv, reference))
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)
    assert torch.autograd.gradcheck(ShiftedConv.apply, inputs)


def test_tensors_on_other_devices_do_not_reach_the_kernels(monkeypatch) -> None:
    monkeypatch.setenv("DUPLEXMAMBA_SCAN", "cpp")
    x = torch.empty(1, 4, 16, device="meta")
    assert short_conv(
        x, torch.empty(16, 1, 4, device="meta"), torch.empty(16, device="meta")
    ).shape == (1, 1, 16)
    with torch.inference_mode():
        assert not is_step(x, 1)


@needs_compiler
def test_odd_widths_and_low_precision_take_the_general_path() -> None:
    odd, low = operands((2, 9, 18, 4), torch.float32), operands((2, 9, 32, 4), torch.bfloat16)
    for (ours, theirs), inputs in itertools.product(PAIRS, (odd, low)):
        got, expected = ours(*inputs), theirs(*inputs)
        assert got.dtype == expected.dtype
        torch.testing.assert_close(
            got, expected, atol=5e-2 if got.dtype == torch.bfloat16 else 1e-5, rtol=1e-2
        )
