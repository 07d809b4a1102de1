"""Linear layers in bfloat16 against those in float32."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from configs.loading import override
from configs.schema import Config
from lightning_modules.trainer import bf16_products, hardware
from lightning_modules.trainer.bf16_products import Bf16Products
from tests.small_runs import SHORT
from train import main


def gradients(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    layer = copy.deepcopy(layer)
    layer(x).square().sum().backward()
    return [x.grad, *(weight.grad for weight in layer.parameters())]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 96), (2, 3, 96), (96,), (0, 96)])
def test_values_and_gradients_are_those_of_float32_up_to_rounding(
    shape: tuple[int, ...], bias: bool
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(96, 64, bias=bias)
    x = torch.randn(shape)
    with Bf16Products():
        rounded, rounded_gradients = layer(x), gradients(layer, x)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, layer(x), atol=2e-2, rtol=0)
    for ours, exact in zip(rounded_gradients, gradients(layer, x), strict=True):
        torch.testing.assert_close(ours, exact, atol=2e-2 * (1 + exact.abs().sum().item()), rtol=0)
    if x.numel():
        assert not torch.equal(rounded, layer(x))


def test_the_result_is_the_exact_product_of_the_rounded_factors() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(7, 96), torch.randn(64, 96)
    with Bf16Products():
        ours = F.linear(x, weight)
    exact = x.bfloat16().double() @ weight.bfloat16().double().T
    # the sum itself is returned as bfloat16, of 8 bits
    torch.testing.assert_close(ours.double(), exact, rtol=2**-8, atol=1e-2)


def test_small_layers_and_other_types_are_left_alone() -> None:
    small = nn.Linear(8, 8)
    x = torch.randn(3, 8)
    double = nn.Linear(96, 64).double()
    with Bf16Products():
        assert torch.equal(small(x), F.linear(x, small.weight, small.bias))
        assert double(torch.randn(3, 96).double()).dtype == torch.float64


def test_frozen_weights_and_inputs_get_no_gradient() -> None:
    layer = nn.Linear(96, 64).requires_grad_(False)
    x = torch.randn(3, 96, requires_grad=True)
    with Bf16Products():
        layer(x).sum().backward()
    assert x.grad is not None and layer.weight.grad is None


@pytest.mark.parametrize(("overrides", "has_instructions", "expected"), [
    ([], True, True),
    ([], False, False),
    (["trainer.matmul_precision=bf16"], False, True),
    (["trainer.matmul_precision=highest"], True, False),
    (["trainer.precision=bf16-mixed"], True, False),
    (["trainer.activation_checkpointing=true"], True, False),
    (["trainer.strategy=fsdp"], True, False),
])  # fmt: skip
def test_trainings_on_such_cpus_use_it(
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    overrides: list[str],
    has_instructions: bool,
    expected: bool,
) -> None:
    monkeypatch.setattr(hardware, "has_bf16_instructions", lambda: has_instructions)
    monkeypatch.setattr(hardware, "trains_on_cpu", lambda trainer: True)
    context = hardware.training_products(override(config, overrides).trainer)
    assert isinstance(context, Bf16Products) == expected
    monkeypatch.setattr(hardware, "trains_on_cpu", lambda trainer: False)
    context = hardware.training_products(override(config, overrides).trainer)
    assert not isinstance(context, Bf16Products)


def test_only_updates_are_computed_in_it(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("espeakng_loader")
    modes = []
    linear = bf16_products.linear

    def noting(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        modes.append(torch.is_grad_enabled())
        return linear(x, *rest)

    monkeypatch.setattr(bf16_products, "linear", noting)
    run = [f"run.dir={tmp_path}", "trainer.matmul_precision=bf16"]
    main(["configs/preset/tiny.yaml", "configs/stage/encoder.yaml", *SHORT, *run])
    assert modes and all(modes)
