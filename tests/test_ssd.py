"""The scan of Mamba-2: fast paths against the reference, and the mixer around it."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from duplexmamba.models.mixers.mamba2 import Mamba2Mixer
from duplexmamba.ops import ssd as module
from duplexmamba.ops.ssd import ssd
from duplexmamba.streaming.padded import Padded
from tests.test_scan import assert_close, double

NAMES = ("x", "dt", "A", "B", "C", "D", "h0")
IN_TIME = ("x", "dt", "B", "C")
LENGTHS = (0, 1, 5, 64, 65, 200)
SIZES = (2, 4, 8, 2, 6)  # B, H, P, G, N
needs_kernels = pytest.mark.skipif(
    not torch.cuda.is_available() or not module._has_kernels(), reason="needs mamba-ssm"
)


@pytest.fixture(autouse=True)
def _default_path(monkeypatch):
    monkeypatch.delenv("DUPLEXMAMBA_SCAN", raising=False)


def example(length=50, sizes=SIZES, hard=False, dtype=torch.float32, seed=0) -> dict[str, Tensor]:
    """Operands as Mamba-2 initialises them; `hard`: dt from 1e-4 to above 5 within a row."""
    b, h, p, g, n = sizes
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    low, high = (1e-4, 8.0) if hard else (1e-3, 0.1)
    dt = torch.exp(
        torch.rand(b, length, h, generator=generator, dtype=torch.float64) * math.log(high / low)
    )
    A = -torch.linspace(1, 16, h, dtype=torch.float64)
    drawn = (
        normal(b, length, h, p),
        dt * low,
        A,
        normal(b, length, g, n),
        normal(b, length, g, n),
        normal(h),
        normal(b, h, p, n),
    )
    return {name: x.to(dtype) for name, x in zip(NAMES, drawn, strict=True)}


def run(operands: dict[str, Tensor], path: str, through=("y", "h")) -> dict[str, Tensor]:
    """y, h and the gradients of a fixed random function of the outputs named in `through`."""
    leaves = {name: x.clone().requires_grad_() for name, x in operands.items()}
    out = dict(zip(("y", "h"), ssd(**leaves, path=path), strict=True))
    g = torch.Generator().manual_seed(1)
    weights = {
        name: torch.randn(x.shape, generator=g, dtype=torch.float64).to(x)
        for name, x in out.items()
    }
    sum((out[name] * weights[name]).sum() for name in through).backward()
    return out | {
        "d" + name: x.grad if x.grad is not None else torch.zeros_like(x)
        for name, x in leaves.items()
    }


def part(operands: dict[str, Tensor], start: int, stop: int) -> dict[str, Tensor]:
    return {name: x[:, start:stop] if name in IN_TIME else x for name, x in operands.items()}


@pytest.mark.parametrize("hard", [False, True], ids=["init", "hard"])
@pytest.mark.parametrize("length", LENGTHS)
def test_float32_equals_reference(length, hard):
    operands = example(length, hard=hard)
    assert_close(run(operands, "torch"), run(double(operands), "reference"), 1e-5)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("sizes", [SIZES, (1, 3, 5, 1, 7), (3, 4, 1, 4, 2)], ids=str)
def test_float64_equals_reference(length, sizes):
    operands = example(length, sizes, dtype=torch.float64, hard=True)
    assert_close(run(operands, "torch"), run(operands, "reference"), 1e-10)


@pytest.mark.parametrize("through", [("y",), ("h",)], ids=str)
def test_without_h0_and_through_one_output(through):
    operands = example()
    del operands["h0"]
    assert_close(run(operands, "torch", through), run(double(operands), "reference", through), 1e-5)


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_matmul_precision_and_autocast_do_not_change_values(precision):
    operands = example(200, (2, 8, 64, 1, 64))
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            y, h = ssd(**operands, path="torch")
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision("highest")
    with torch.no_grad():
        expected = ssd(**double(operands), path="reference")
    assert_close({"y": y, "h": h}, dict(zip("yh", expected, strict=True)), 1e-5)


@settings(deadline=None, max_examples=20)
@given(splits=st.lists(st.integers(0, 150), max_size=5), seed=st.integers(0, 99))
def test_chunks_equal_one_pass(splits, seed):
    operands = example(150, seed=seed)
    y, h = ssd(**operands, path="torch")
    parts, state = [], operands["h0"]
    for start, stop in itertools.pairwise([0, *sorted(splits), 150]):
        piece, state = ssd(**part(operands, start, stop) | {"h0": state}, path="torch")
        parts.append(piece)
    assert_close({"y": torch.cat(parts, 1), "h": state}, {"y": y, "h": h}, 2e-6)


def test_gradients_pass_through_the_states_between_chunks():
    one_pass, split = (
        {name: x.clone().requires_grad_() for name, x in example(90).items()} for _ in range(2)
    )
    first, state = ssd(**part(split, 0, 70), path="torch")
    second, state = ssd(**part(split, 70, 90) | {"h0": state}, path="torch")
    (torch.cat([first, second], 1).square().sum() + state.square().sum()).backward()
    y, h = ssd(**one_pass, path="torch")
    (y.square().sum() + h.square().sum()).backward()
    assert_close(
        {k: x.grad for k, x in split.items()}, {k: x.grad for k, x in one_pass.items()}, 1e-5
    )


@pytest.mark.parametrize("path", ["reference", "torch"])
def test_zero_dt_keeps_the_state(path):
    operands = example(130)
    operands["dt"][:, 70:] = 0
    assert_close(
        {"h": ssd(**operands, path=path)[1]},
        {"h": ssd(**part(operands, 0, 70), path=path)[1]},
        1e-6,
    )
    operands["dt"][:] = 0
    assert torch.equal(ssd(**operands, path=path)[1], operands["h0"])


@pytest.mark.parametrize("path", ["reference", "torch"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_computed_in_float32(path, dtype):
    operands = {name: x.to(dtype) for name, x in example().items()}
    got = run(operands, path)
    assert got["y"].dtype == dtype and got["h"].dtype == torch.float32
    assert all(got["d" + name].dtype == dtype for name in NAMES)
    assert_close(got, run({name: x.float() for name, x in operands.items()}, "reference"), 2e-2)
    expected = ssd(**double(operands), path="reference")[1]
    assert_close({"h": got["h"]}, {"h": expected}, 1e-5)


@pytest.mark.gpu
@needs_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("length", LENGTHS)
def test_mamba_ssm_equals_reference(length, dtype):
    operands = {name: x.cuda() for name, x in example(length, (2, 4, 64, 2, 32)).items()}
    for name in ("x", "B", "C"):
        operands[name] = operands[name].to(dtype)
    got = run(operands, "mamba_ssm")
    assert got["y"].dtype == dtype and got["h"].dtype == torch.float32
    assert_close(got, run(double(operands), "reference"), 3e-2 if dtype == torch.bfloat16 else 3e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tf32_does_not_change_values_on_a_gpu():
    operands = {name: x.cuda() for name, x in example(200).items()}
    torch.set_float32_matmul_precision("medium")
    try:
        y, h = ssd(**operands, path="torch")
    finally:
        torch.set_float32_matmul_precision("highest")
    assert_close(
        {"y": y, "h": h},
        dict(zip("yh", ssd(**double(operands), path="reference"), strict=True)),
        1e-5,
    )


def test_choice_of_the_path(monkeypatch):
    called = []
    paths = {
        name: lambda *x, name=name: called.append(name) or (x[0], x[-1]) for name in module._PATHS
    }
    monkeypatch.setattr(module, "_PATHS", paths)
    ssd(**example())
    ssd(**example(1))
    for value in ("reference", "torch", "cpp", "triton"):
        monkeypatch.setenv("DUPLEXMAMBA_SCAN", value)
        ssd(**example())
    ssd(**example(), path="reference")
    assert called == ["torch", "reference", "reference", "torch", "torch", "torch", "reference"]


def test_wrong_arguments_are_named(monkeypatch):
    operands = example()
    with pytest.raises(ValueError, match="h0 has shape"):
        ssd(**operands | {"h0": operands["h0"].transpose(1, 2)})
    with pytest.raises(ValueError, match="3 groups for 4 heads"):
        ssd(**example(sizes=(1, 4, 2, 3, 2)))
    with pytest.raises(ValueError, match="CUDA tensors"):
        ssd(**operands, path="mamba_ssm")
    monkeypatch.setenv("DUPLEXMAMBA_SCAN", "fast")
    with pytest.raises(ValueError, match=r"'fast'.*reference, torch, mamba_ssm"):
        ssd(**operands)


def test_mixer_equals_its_equations():
    """Step by step, from the window of the convolution to the gated norm."""
    mixer = Mamba2Mixer(6, 5, 4, 2, head_dim=3, num_groups=2).double()
    x = torch.randn(2, 7, 6, dtype=torch.float64)
    gate, inner, dt = mixer.in_proj(x).split([12, 12 + 2 * 2 * 5, 4], -1)
    inner = F.silu(
        F.conv1d(F.pad(inner.mT, (3, 0)), mixer.conv1d.weight, mixer.conv1d.bias, groups=32)
    ).mT
    u, B, C = inner[..., :12].unflatten(2, (4, 3)), inner[..., 12:22], inner[..., 22:]
    dt = torch.log1p(torch.exp(dt + mixer.dt_bias))
    operands = u, dt, -mixer.A_log.exp(), B.unflatten(2, (2, 5)), C.unflatten(2, (2, 5)), mixer.D
    y, h = ssd(*operands, path="reference")
    y = (y.flatten(2) * F.silu(gate)).unflatten(2, (2, 6))
    y = y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    got, state = mixer(Padded(x))
    torch.testing.assert_close(
        got.values, mixer.out_proj(y.flatten(2) * mixer.norm.weight), atol=1e-10, rtol=0
    )
    torch.testing.assert_close(state.ssm, h, atol=1e-10, rtol=0)


def test_mixer_is_initialised_as_published():
    mixer = Mamba2Mixer(64, 8, 4, 2, head_dim=1)
    assert 1 <= mixer.A_log.exp().min() < 2 and 15 < mixer.A_log.exp().max() <= 16
    assert (
        0.99e-3 <= F.softplus(mixer.dt_bias).min() < 2e-3
        and 0.05 < F.softplus(mixer.dt_bias).max() <= 0.101
    )
    assert (mixer.D == 1).all()


@pytest.mark.parametrize("autocast", [False, True])
def test_mixer_in_bfloat16_keeps_a_float32_state(autocast):
    mixer, x = Mamba2Mixer(32, 16, 4, 2, head_dim=16), torch.randn(2, 90, 32)
    expected, state = mixer(Padded(x))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        low = mixer if autocast else Mamba2Mixer(32, 16, 4, 2, head_dim=16).bfloat16()
        low.load_state_dict(mixer.state_dict())
        got, low_state = low(Padded(x.bfloat16()))
    assert got.values.dtype == torch.bfloat16 and low_state.ssm.dtype == torch.float32
    assert_close(
        {"y": got.values, "h": low_state.ssm}, {"y": expected.values, "h": state.ssm}, 3e-2
    )
