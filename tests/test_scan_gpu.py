"""The GPU's paths of the scan and of the short convolution.

The Triton kernels run on a GPU, or with TRITON_INTERPRET=1 on the CPU. The packages mamba-ssm and
causal-conv1d are replaced by functions with their documented behaviour; on a GPU that has them, the
packages themselves are tested.
"""

import importlib.util
import itertools
import os
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from duplexmamba.ops import conv, scan
from duplexmamba.ops.conv import short_conv
from duplexmamba.ops.scan import selective_scan
from tests.test_scan import assert_close, double, example, run

CUDA = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if CUDA and not INTERPRETED else "cpu"


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


needs_triton = pytest.mark.skipif(
    not (installed("triton") and (CUDA or INTERPRETED)), reason="needs a GPU, and triton"
)
SHAPES = [
    (2, 70, 19, 16),
    (1, 33, 37, 5),
    (3, 7, 40, 8),
    (2, 32, 3, 1),
    (1, 3, 5, 64),
    (2, 1, 19, 16),
    (2, 0, 16, 8),
]
PACKAGES = ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.selective_scan_interface")


def example_on_device(*args, **kwargs) -> dict[str, Tensor]:
    return {name: x.to(DEVICE) for name, x in example(*args, **kwargs).items()}


@pytest.mark.gpu
@needs_triton
@pytest.mark.parametrize("hard", [False, True], ids=["init", "hard"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_triton_equals_reference(shape, hard):
    operands = example_on_device(shape, hard)
    expected = run(double(operands), "reference")
    assert_close(run(operands, "triton"), expected, 1e-5)
    assert_close(run(double(operands), "triton"), expected, 1e-10)


@pytest.mark.gpu
@needs_triton
@pytest.mark.parametrize("through", [("y",), ("h",)], ids=str)
def test_triton_without_h0_and_through_one_output(through):
    operands = example_on_device((2, 40, 9, 4))
    del operands["h0"]
    assert_close(
        run(operands, "triton", through), run(double(operands), "reference", through), 1e-5
    )


@pytest.mark.gpu
@needs_triton
def test_triton_chunks_equal_one_pass_and_repeat_bit_for_bit():
    operands = example_on_device((2, 50, 9, 4))
    y, state, parts = *selective_scan(**operands, path="triton"), []
    first, again = run(operands, "triton"), run(operands, "triton")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(first["y"], y) and torch.equal(first["h"], state)  # checkpoints or none
    state = operands["h0"]
    for start, stop in itertools.pairwise((0, 1, 34, 34, 50)):
        piece = {name: operands[name][:, start:stop] for name in ("u", "dt", "B", "C")}
        part, state = selective_scan(**operands | piece | {"h0": state}, path="triton")
        parts.append(part)
    assert_close({"y": torch.cat(parts, 1), "h": state}, {"y": first["y"], "h": first["h"]}, 1e-6)


@pytest.mark.gpu
@needs_triton
def test_triton_zero_dt_keeps_the_state_bit_for_bit():
    operands = example_on_device((2, 50, 9, 4))
    operands["dt"][:, 30:] = 0
    head = {name: x[:, :30] if name in ("u", "dt", "B", "C") else x for name, x in operands.items()}
    assert torch.equal(
        selective_scan(**operands, path="triton")[1], selective_scan(**head, path="triton")[1]
    )
    operands["dt"][:] = 0
    assert torch.equal(selective_scan(**operands, path="triton")[1], operands["h0"])


@pytest.mark.gpu
@needs_triton
def test_triton_takes_strided_and_expanded_tensors():
    operands = example_on_device((2, 20, 9, 4))
    strided = {
        name: x.transpose(0, -1).contiguous().transpose(0, -1) for name, x in operands.items()
    }
    leaves = [
        {name: x.clone().requires_grad_() for name, x in tensors.items()}
        for tensors in (operands, strided)
    ]
    for tensors, path in zip(leaves, ("reference", "triton"), strict=True):
        y, h = selective_scan(**tensors, path=path)
        (y.sum() + h.sum()).backward()
    reference, ours = ({name: x.grad for name, x in tensors.items()} for tensors in leaves)
    assert_close(ours, reference, 1e-5)


@pytest.mark.skipif(not installed("triton") or INTERPRETED, reason="needs triton, uninterpreted")
def test_triton_rejects_tensors_on_the_cpu():
    with pytest.raises(ValueError, match="needs tensors on a GPU"):
        selective_scan(**example(), path="triton")


@pytest.mark.skipif(installed("triton"), reason="triton is here")
def test_warns_once_without_triton():
    scan._triton_works.cache_clear()
    with pytest.warns(UserWarning, match="No module named 'triton'.*\n.*Install triton"):
        assert not scan._triton_works(torch.device("cpu"))
    assert not scan._triton_works(torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="needs a GPU")
def test_choice_of_the_path_on_a_gpu(monkeypatch):
    called = []
    paths = {
        name: lambda *x, name=name: called.append(name) or (x[0], x[-1]) for name in scan._PATHS
    }
    operands = {name: x.cuda() for name, x in example().items()}
    works = scan._triton_works(operands["u"].device)
    monkeypatch.setattr(scan, "_PATHS", paths)
    selective_scan(**operands)
    selective_scan(**double(operands))
    assert called == (["triton"] * 2 if works else ["torch"] * 2)


# ---- mamba-ssm


def documented_scan(u, delta, A, B, C, D, return_last_state):
    """u, delta (B, E, L), A (E, N), B, C (B, N, L), D (E,) -> (B, E, L), last state (B, E, N).

    The gradient of the last state is lost.
    """
    (b, e, length), n = u.shape, A.shape[1]
    assert (
        delta.shape == u.shape
        and A.shape == (e, n)
        and B.shape == C.shape == (b, n, length)
        and D.shape == (e,)
    )
    assert u.dtype == delta.dtype == B.dtype == C.dtype and length > 0 and return_last_state
    h, ys = u.new_zeros(b, e, n), []
    for t in range(length):
        h = torch.exp(delta[:, :, t, None] * A) * h + (delta * u)[:, :, t, None] * B[:, None, :, t]
        ys.append((h * C[:, None, :, t]).sum(-1))
    out = torch.stack(ys, 2) + D[:, None] * u
    return out, h.detach() + 0 * out.sum()


@pytest.fixture
def documented_package(monkeypatch):
    modules = [types.ModuleType(name) for name in PACKAGES]
    modules[-1].selective_scan_fn = documented_scan
    for module in modules:
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("with_h0", [False, True], ids=["zero", "h0"])
@pytest.mark.parametrize("shape", [(2, 20, 7, 3), (1, 1, 5, 2)], ids=str)
def test_mamba_ssm_equals_reference(documented_package, shape, with_h0, dtype):
    operands = example(shape, dtype=dtype)
    if not with_h0:
        del operands["h0"]
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    assert_close(
        run(operands, "mamba_ssm", ("y",)), run(double(operands), "reference", ("y",)), tolerance
    )


@pytest.mark.parametrize("with_h0", [False, True], ids=["zero", "h0"])
def test_mamba_ssm_raises_for_the_gradient_of_the_last_state(documented_package, with_h0):
    operands = example((2, 5, 7, 3))
    if not with_h0:
        del operands["h0"]
    with pytest.raises(RuntimeError, match="no gradient through the last state.*=triton"):
        run(operands, "mamba_ssm", ("h",))


def test_mamba_ssm_without_steps_and_with_dt_of_zero(documented_package):
    operands = example((2, 0, 7, 3))
    y, h = selective_scan(**operands, path="mamba_ssm")
    assert y.shape == (2, 0, 7) and torch.equal(h, operands["h0"])
    assert not selective_scan(**operands | {"h0": None}, path="mamba_ssm")[1].any()
    operands = example((2, 9, 7, 3))
    operands["dt"][:] = 0
    assert torch.equal(selective_scan(**operands, path="mamba_ssm")[1], operands["h0"])


@pytest.mark.skipif(installed("mamba_ssm"), reason="mamba-ssm is here")
def test_missing_mamba_ssm_is_named():
    with pytest.raises(ImportError, match="mamba_ssm"):
        selective_scan(**example((1, 2, 3, 1)), path="mamba_ssm")


@pytest.mark.gpu
@pytest.mark.skipif(not (CUDA and installed("mamba_ssm")), reason="needs a GPU, and mamba-ssm")
@pytest.mark.parametrize("hard", [False, True], ids=["init", "hard"])
def test_installed_mamba_ssm_equals_reference(hard):
    operands = {name: x.cuda() for name, x in example((2, 100, 64, 16), hard).items()}
    assert_close(
        run(operands, "mamba_ssm", ("y",)), run(double(operands), "reference", ("y",)), 1e-5
    )


# ---- causal-conv1d


def documented_conv(x, weight, bias, activation):
    """x (B, E, L), weight (E, K), bias (E,) -> silu of (B, E, L), zeros before the start."""
    assert activation == "silu"
    assert (
        x.shape[1] == weight.shape[0] == len(bias)
        and x.stride(1) == 1
        and weight.dtype == bias.dtype
    )
    padded = F.pad(x.to(weight.dtype), (weight.shape[1] - 1, 0))
    return F.silu(F.conv1d(padded, weight[:, None], bias, groups=len(weight))).to(x.dtype)


def convolve(device: str, dtype=torch.float32, e: int = 16, k: int = 4) -> list[Tensor]:
    """The output and the gradients of window, weight and bias."""
    g = torch.Generator().manual_seed(0)
    drawn = (
        torch.randn(*size, generator=g)
        for size in ((2, 12 + k - 1, e), (e, 1, k), (e,), (2, 12, e))
    )
    window, weight, bias, grad = (x.to(device) for x in drawn)
    operands = [window.to(dtype).requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]
    out = short_conv(*operands)
    return [out, *torch.autograd.grad(out, operands, grad.to(out.dtype))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(("e", "k"), [(16, 4), (8, 2), (12, 4), (8, 5)])
def test_short_convolution_by_documented_causal_conv1d(monkeypatch, dtype, e, k):
    monkeypatch.setenv("DUPLEXMAMBA_SCAN", "torch")
    expected, used = convolve("cpu", dtype, e, k), []
    monkeypatch.setattr(
        conv,
        "_causal_conv1d",
        lambda device: lambda *x, **y: used.append(1) or documented_conv(*x, **y),
    )
    got = convolve("cpu", dtype, e, k)
    assert bool(used) == (dtype != torch.float64 and e % 8 == 0 and k <= 4)
    for ours, plain in zip(got, expected, strict=True):
        assert ours.dtype == plain.dtype
        # The plain gradient of a bfloat16 window is summed in bfloat16.
        tolerance = 2e-2 if ours.dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(ours, plain, atol=tolerance, rtol=tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="needs a GPU")
@pytest.mark.parametrize("k", [2, 4, 5])
def test_short_convolution_on_a_gpu(k):
    for ours, plain in zip(convolve("cuda", k=k), convolve("cpu", k=k), strict=True):
        torch.testing.assert_close(ours.cpu(), plain, atol=1e-4, rtol=1e-4)
