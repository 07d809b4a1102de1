"""Silu, softplus and the gate: the kernels against torch in float64."""

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


def assert_equals_reference(function: Callable, reference: Callable, *inputs: torch.Tensor) -> None:
    exact = [x.detach().double().requires_grad_() for x in inputs]
    results = gradients(function, [x.requires_grad_() for x in inputs])
    for ours, theirs in zip(results, gradients(reference, exact), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=5e-6, atol=5e-7)


@needs_compiler
@pytest.mark.parametrize(("function", "reference"), PLAIN)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(
    function: Callable, reference: Callable, shape: tuple[int, ...]
) -> None:
    assert_equals_reference(function, reference, 3 * torch.randn(shape))
    assert_equals_reference(function, reference, torch.randn(shape).transpose(0, -1))


@needs_compiler
@pytest.mark.parametrize(("function", "reference"), PLAIN)
def test_far_from_zero(function: Callable, reference: Callable) -> None:
    assert_equals_reference(
        function, reference, torch.cat([torch.linspace(-80, 80, 31), torch.zeros(1)])
    )
    torch.testing.assert_close(function(torch.tensor([1e30] * 16)), torch.full((16,), 1e30))


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES)
def test_gate_that_is_a_view_of_a_wider_tensor(shape: tuple[int, ...]) -> None:
    def halves(function: Callable) -> Callable:
        return lambda y, both: function(y, both.chunk(2, -1)[1])

    def gated_reference(y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return y * F.silu(z)

    batch, steps, e = shape
    assert_equals_reference(
        halves(gated),
        halves(gated_reference),
        torch.randn(shape),
        3 * torch.randn(batch, steps, 2 * e),
    )
    assert_equals_reference(
        gated,
        gated_reference,
        torch.randn(batch, e, steps).mT,
        torch.randn(steps, batch, e).transpose(0, 1),
    )


@needs_compiler
def test_results_do_not_depend_on_threads() -> None:
    y, both = torch.randn(9, 150, 64), torch.randn(9, 150, 128)

    def run(threads: int) -> list[torch.Tensor]:
        torch.set_num_threads(threads)
        z = both.clone().requires_grad_()
        pointwise = [gradients(function, [z]) for function in (silu, softplus)]
        with_gate = gradients(
            lambda y, z: gated(y, z.chunk(2, -1)[0]), [y.clone().requires_grad_(), z]
        )
        return [*itertools.chain(*pointwise), *with_gate]

    assert all(map(torch.equal, run(1), run(3)))
