"""Silu, softplus and the gate: the kernel against torch in float64."""

import itertools
import os
import shutil
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from duplexmamba.ops.gates import gated, silu, softplus

needs_compiler = pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX", "c++")), reason="no C++ compiler"
)
SHAPES = [(2, 3, 32), (1, 1, 16), (3, 1, 16), (5, 7, 48), (1, 3, 5), (0, 4, 16), (4, 200, 192)]
PLAIN = [(silu, F.silu), (softplus, F.softplus)]


def gradients(function: Callable, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    y = function(*inputs)
    torch.manual_seed(1)
    weights = torch.randn(y.shape, dtype=torch.float64).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, inputs, weights)]


def assert_like_twin(function: Callable, twin: Callable, *inputs: torch.Tensor) -> None:
    exact = [x.detach().double().requires_grad_() for x in inputs]
    found = gradients(function, [x.requires_grad_() for x in inputs])
    for ours, theirs in zip(found, gradients(twin, exact), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=5e-6, atol=5e-7)


@needs_compiler
@pytest.mark.parametrize(("function", "twin"), PLAIN)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(function: Callable, twin: Callable, shape: tuple[int, ...]) -> None:
    assert_like_twin(function, twin, 3 * torch.randn(shape))
    assert_like_twin(function, twin, torch.randn(shape).transpose(0, -1))


@needs_compiler
@pytest.mark.parametrize(("function", "twin"), PLAIN)
def test_far_from_zero(function: Callable, twin: Callable) -> None:
    assert_like_twin(function, twin, torch.cat([torch.linspace(-80, 80, 31), torch.zeros(1)]))
    torch.testing.assert_close(function(torch.tensor([1e30] * 16)), torch.full((16,), 1e30))


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES)
def test_a_gate_that_is_part_of_wider_rows(shape: tuple[int, ...]) -> None:
    def halves(function: Callable) -> Callable:
        return lambda y, both: function(y, both.chunk(2, -1)[1])

    def twin(y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return y * F.silu(z)

    batch, steps, e = shape
    assert_like_twin(
        halves(gated), halves(twin), torch.randn(shape), 3 * torch.randn(batch, steps, 2 * e)
    )
    assert_like_twin(
        gated, twin, torch.randn(batch, e, steps).mT, torch.randn(steps, batch, e).transpose(0, 1)
    )


@needs_compiler
def test_threads_change_nothing() -> None:
    y, both = torch.randn(9, 150, 64), torch.randn(9, 150, 128)

    def run(threads: int) -> list[torch.Tensor]:
        torch.set_num_threads(threads)
        z = both.clone().requires_grad_()
        found = [gradients(function, [z]) for function in (silu, softplus)]
        with_gate = gradients(
            lambda y, z: gated(y, z.chunk(2, -1)[0]), [y.clone().requires_grad_(), z]
        )
        return [*itertools.chain(*found), *with_gate]

    assert all(map(torch.equal, run(1), run(3)))
