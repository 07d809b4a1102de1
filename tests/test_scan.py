"""The fast paths of the scan against the reference: values, gradients, chunks, padding, repeats."""

import itertools
import math
import os
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from duplexmamba.ops import build as native
from duplexmamba.ops import scan, scan_torch
from duplexmamba.ops.scan import selective_scan
from duplexmamba.streaming.padded import Positions

NAMES = ("u", "dt", "A", "B", "C", "D", "h0")
needs_compiler = pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX", "c++")), reason="no C++ compiler"
)
FAST = ("torch", pytest.param("cpp", marks=needs_compiler))
SHAPES = [  # B, L, E, N
    (2, 100, 64, 16),
    (1, 100, 37, 5),
    (3, 7, 40, 8),
    (2, 33, 3, 1),
    (2, 1, 19, 16),
    (2, 0, 16, 8),
]


@pytest.fixture(autouse=True)
def _default_path(monkeypatch):
    monkeypatch.delenv("DUPLEXMAMBA_SCAN", raising=False)


def example(shape=(2, 50, 37, 5), hard=False, dtype=torch.float32, seed=0) -> dict[str, Tensor]:
    """Operands with dt and A as Mamba initialises them; `hard`: A to about -80 and dt above 5."""
    b, length, e, n = shape
    g = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=g, dtype=torch.float64)

    bias = torch.exp(torch.rand(e, generator=g) * math.log(100) + math.log(1e-3))
    bias = bias + torch.log(-torch.expm1(-bias)) + (2.0 if hard else 0.0)
    dt = F.softplus(normal(b, length, e) * (3.0 if hard else 0.5) + bias)
    A = -torch.arange(1, n + 1) * torch.exp(0.1 * normal(e, n)) * (4.0 if hard else 1.0)
    drawn = (
        normal(b, length, e),
        dt,
        A,
        normal(b, length, n),
        normal(b, length, n),
        normal(e),
        normal(b, n, e),
    )
    return {name: x.to(dtype) for name, x in zip(NAMES, drawn, strict=True)}


def run(
    operands: dict[str, Tensor], path: str, through=("y", "h"), at: Positions | None = None
) -> dict[str, Tensor]:
    """y, h and the gradients of a fixed random function of the outputs named in `through`."""
    leaves = {name: x.clone().requires_grad_() for name, x in operands.items()}
    out = dict(
        zip(("y", "h"), selective_scan(**leaves, path=path, return_states_at=at), strict=True)
    )
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


def assert_close(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert got.keys() == expected.keys()
    for name, x in expected.items():
        assert got[name].shape == x.shape, name
        if x.numel():
            error = (
                got[name].double() - x.double()
            ).abs().max() / x.double().abs().max().clamp_min(1e-30)
            assert error <= tolerance, f"{name}: {error:.1e}"


def double(operands: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.double() for name, x in operands.items()}


@pytest.mark.parametrize("path", FAST)
@pytest.mark.parametrize("hard", [False, True], ids=["init", "hard"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float32_equals_reference(path, hard, shape):
    operands = example(shape, hard)
    assert_close(run(operands, path), run(double(operands), "reference"), 1e-5)


@pytest.mark.parametrize("path", FAST)
@pytest.mark.parametrize("through", [("y",), ("h",)], ids=str)
def test_without_h0_and_through_one_output(path, through):
    operands = example()
    del operands["h0"]
    assert_close(run(operands, path, through), run(double(operands), "reference", through), 1e-5)


@pytest.mark.parametrize("path", FAST)
@pytest.mark.parametrize("through", [("y",), ("h",), ("y", "h")], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_states_at_positions_equal_the_reference(path, through, shape):
    """In any order, at both ends, one position twice, and a row without positions."""
    operands, (batch, length, *_) = example(shape), shape
    rows, steps = [0, batch - 1, 0, 0, 0], [length, length // 2, 0, length // 3, length // 3]
    at = Positions(torch.tensor(rows), torch.tensor(steps))
    got = run(operands, path, through, at)
    assert_close(got, run(double(operands), "reference", through, at), 1e-5)
    for h, row, step in zip(got["h"], rows, steps, strict=True):
        until = {
            name: x[row : row + 1, :step] if name in ("u", "dt", "B", "C") else x
            for name, x in operands.items()
        }
        expected = selective_scan(
            **until | {"h0": operands["h0"][row : row + 1]}, path="reference"
        )[1]
        assert_close({"h": h[None]}, {"h": expected}, 1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_torch_float64_equals_reference(shape):
    operands = example(shape, dtype=torch.float64)
    assert_close(run(operands, "torch"), run(operands, "reference"), 1e-10)


def test_torch_gradcheck(monkeypatch):
    monkeypatch.setattr(scan_torch, "CHUNK", 2)
    operands = example((2, 3, 3, 2), dtype=torch.float64)
    leaves = tuple(x.requires_grad_() for x in operands.values())
    assert torch.autograd.gradcheck(lambda *x: selective_scan(*x, path="torch"), leaves)


@pytest.mark.parametrize("path", FAST)
@settings(deadline=None, max_examples=20)
@given(splits=st.lists(st.integers(0, 50), max_size=5), seed=st.integers(0, 99))
def test_chunks_equal_one_pass(path, splits, seed):
    operands = example(seed=seed)
    y, h = selective_scan(**operands, path=path)
    edges = [0, *sorted(splits), 50]
    parts, state = [], operands["h0"]
    for start, stop in itertools.pairwise(edges):
        piece = {name: operands[name][:, start:stop] for name in ("u", "dt", "B", "C")}
        part, state = selective_scan(**piece, A=operands["A"], D=operands["D"], h0=state, path=path)
        parts.append(part)
    assert_close({"y": torch.cat(parts, 1), "h": state}, {"y": y, "h": h}, 1e-6)


@pytest.mark.parametrize("path", FAST)
def test_gradients_pass_through_the_states_between_chunks(path):
    def in_two_chunks(u, dt, A, B, C, D, h0, path):
        first, state = selective_scan(u[:, :21], dt[:, :21], A, B[:, :21], C[:, :21], D, h0, path)
        second, state = selective_scan(
            u[:, 21:], dt[:, 21:], A, B[:, 21:], C[:, 21:], D, state, path
        )
        return torch.cat([first, second], 1), state

    operands = example()
    leaves = {name: x.clone().requires_grad_() for name, x in operands.items()}
    y, h = in_two_chunks(**leaves, path=path)
    (y.square().sum() + h.square().sum()).backward()
    one_pass = {name: x.clone().requires_grad_() for name, x in operands.items()}
    y, h = selective_scan(**one_pass, path=path)
    (y.square().sum() + h.square().sum()).backward()
    assert_close(
        {k: x.grad for k, x in leaves.items()}, {k: x.grad for k, x in one_pass.items()}, 1e-5
    )


@pytest.mark.parametrize("path", ("reference", *FAST))
def test_zero_dt_keeps_the_state_bit_for_bit(path):
    operands = example()
    operands["dt"] = operands["dt"].clone()
    operands["dt"][:, 30:] = 0
    head = {name: x[:, :30] if name in ("u", "dt", "B", "C") else x for name, x in operands.items()}
    assert torch.equal(
        selective_scan(**operands, path=path)[1], selective_scan(**head, path=path)[1]
    )
    operands["dt"][:] = 0
    assert torch.equal(selective_scan(**operands, path=path)[1], operands["h0"])


@pytest.mark.parametrize("path", FAST)
def test_strided_views(path):
    operands = example()
    strided = {
        name: x.transpose(0, -1).contiguous().transpose(0, -1) for name, x in operands.items()
    }
    assert not strided["u"].is_contiguous()
    assert_close(run(strided, path), run(operands, path), 1e-6)
    y, h = selective_scan(**{name: x.requires_grad_() for name, x in strided.items()}, path=path)
    # The gradients of y and h arrive expanded, without storage of their own.
    (y.sum() + h.sum()).backward()
    reference = {name: x.detach().double().requires_grad_() for name, x in operands.items()}
    y, h = selective_scan(**reference, path="reference")
    (y.sum() + h.sum()).backward()
    assert_close(
        {k: x.grad for k, x in strided.items()}, {k: x.grad for k, x in reference.items()}, 1e-5
    )


@pytest.mark.parametrize("path", FAST)
def test_inputs_are_not_changed(path):
    operands = example()
    before = {name: x.clone() for name, x in operands.items()}
    run(operands, path)
    with torch.no_grad():
        selective_scan(**operands, path=path)
    assert all(torch.equal(operands[name], x) for name, x in before.items())


@needs_compiler
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_repeats_are_bitwise_equal(batch, threads):
    operands, before = example((batch, 70, 96, 16)), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first = run(operands, "cpp")
        repeats = [run(operands, "cpp") for _ in range(5)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(first[name], again[name]) for again in repeats for name in first)
    assert_close(first, run(double(operands), "reference"), 1e-5)


@needs_compiler
@pytest.mark.parametrize(
    "target",
    [("-march=x86-64",), ("-march=x86-64-v3",), ("-march=native", "-mno-avx512f", "-mavx2")],
    ids=" ".join,
)
def test_other_instruction_sets(target, monkeypatch):
    flags = tuple(flag for flag in native.FLAGS if not flag.startswith("-march")) + target
    try:
        width = native.load_library(flags).vector_width()
    except RuntimeError as error:
        pytest.skip(f"the compiler does not know {target}: {error}")
    assert width == (4 if target == ("-march=x86-64",) else 8)
    monkeypatch.setattr(native, "FLAGS", flags)
    for shape in SHAPES[:3]:
        operands = example(shape)
        assert_close(run(operands, "cpp"), run(double(operands), "reference"), 1e-5)


@needs_compiler
def test_builds_once_into_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    flags = ("-O0", *native.FLAGS[1:])
    with ThreadPoolExecutor(4) as pool:  # all at once, as the processes of one node start
        built, *others = pool.map(native.build_library, [flags] * 4)
    stamp = built.stat().st_mtime_ns
    assert others == [built] * 3
    assert native.build_library(flags) == built and built.stat().st_mtime_ns == stamp
    assert native.build_library(("-O1", *native.FLAGS[1:])) != built
    assert sorted(path.suffix for path in (tmp_path / "duplexmamba").iterdir()) == [".so", ".so"]


@needs_compiler
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_shares_the_openmp_runtime_of_torch():
    native.load_library(native.FLAGS)
    maps = Path("/proc/self/maps").read_text().split()
    assert len({os.path.realpath(word) for word in maps if "libgomp" in word}) == 1


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_warns_once_without_a_compiler(compiler, monkeypatch):
    monkeypatch.setenv("CXX", compiler)
    native.load_library.cache_clear()
    native.kernels_work.cache_clear()
    try:
        with pytest.warns(UserWarning, match="Install a C[+][+] compiler"):
            got = selective_scan(**example())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            selective_scan(**example())
        with pytest.raises((OSError, RuntimeError)):
            selective_scan(**example(), path="cpp")
    finally:
        native.kernels_work.cache_clear()
    assert all(
        torch.equal(a, b)
        for a, b in zip(got, selective_scan(**example(), path="torch"), strict=True)
    )


@pytest.mark.parametrize("path", FAST)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_computed_in_float32(path, dtype):
    operands = {name: x.to(dtype) for name, x in example().items()}
    got = run(operands, path)
    assert got["y"].dtype == dtype and got["h"].dtype == torch.float32
    assert all(got["d" + name].dtype == dtype for name in NAMES)
    assert_close(got, run({name: x.float() for name, x in operands.items()}, "reference"), 2e-2)


@pytest.mark.parametrize("path", ("reference", *FAST))
def test_mixed_dtypes_under_autocast(path):
    operands = example()
    for name in ("u", "B", "C"):
        operands[name] = operands[name].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        got = run(operands, path)
    assert_close(
        {"h": got["h"], "dA": got["dA"]}, _part(run(double(operands), "reference"), "h", "dA"), 1e-2
    )
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        h = selective_scan(**operands, path=path)[1]
    assert_close({"h": h}, _part(run(double(operands), "reference"), "h"), 1e-5)


def _part(results: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: results[name] for name in names}


@needs_compiler
def test_choice_of_the_path(monkeypatch):
    called = []
    paths = {
        name: lambda *x, name=name: called.append(name) or (x[0], x[-1]) for name in scan._PATHS
    }
    monkeypatch.setattr(scan, "_PATHS", paths)
    selective_scan(**example())
    selective_scan(**example(dtype=torch.bfloat16))
    selective_scan(**example(dtype=torch.float64))
    monkeypatch.setenv("DUPLEXMAMBA_SCAN", "reference")
    selective_scan(**example())
    selective_scan(**example(), path="torch")
    assert called == ["cpp", "cpp", "torch", "reference", "torch"]


def test_wrong_arguments_are_named():
    operands = example()
    with pytest.raises(ValueError, match="h0 has shape"):
        selective_scan(**operands | {"h0": operands["h0"].transpose(1, 2)})
    with pytest.raises(ValueError, match=r"'fast'.*reference, torch, cpp"):
        selective_scan(**operands, path="fast")
    with pytest.raises(ValueError, match="float64"):
        selective_scan(**double(operands), path="cpp")
    with pytest.raises(ValueError, match="CPU tensors"):
        selective_scan(**operands | {"dt": operands["dt"].to("meta")}, path="cpp")
