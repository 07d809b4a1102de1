"""Selective scan of Mamba-1 with an initial state: the literal twin, a pure-torch path and a C++ kernel for the CPU.

Which one runs is chosen here and nowhere else. B batch, L steps, E channels, N states per channel.
Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv:2312.00752, algorithm 2.
"""

import ctypes
import functools
import hashlib
import math
import os
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-shared")
Scanned = tuple[Tensor, Tensor]  # y, h_L

CHUNK = 16  # steps whose (B, CHUNK, N, E) tensors the torch path holds at once
SMALL = 2**16  # states x steps below which waking other threads costs more than it saves


def selective_scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor | None = None, path: str | None = None
) -> tuple[Tensor, Tensor]:
    """Runs h_t = exp(dt_t A) h_{t-1} + dt_t u_t B_t and y_t = C_t . h_t + D u_t over the L steps.

    u, dt (B, L, E), dt >= 0; A (E, N), negative; B, C (B, L, N); D (E,); h0 (B, N, E), zeros when None. L may be 0.
    Returns y (B, L, E) in u's dtype and h_L (B, N, E), both computed in float64 when u is float64, else in float32, the
    dtype of h_L. Where dt is 0 the state passes unchanged, bit for bit. Differentiable once in every tensor.

    path: "reference", "torch" or "cpp"; None takes the environment's DUPLEXMAMBA_SCAN, or else the fastest that works.
    Raises ValueError for a wrong shape or path, RuntimeError or OSError where "cpp" is demanded and cannot be built.
    """
    _check_shapes(u, dt, A, B, C, D, h0)
    path = path or os.environ.get("DUPLEXMAMBA_SCAN") or _fastest_path(u)
    if path not in _PATHS:
        raise ValueError(f"scan path {path!r} (argument or DUPLEXMAMBA_SCAN) is not one of {', '.join(_PATHS)}")
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    if h0 is None:
        h0 = u.new_zeros(u.shape[0], A.shape[1], u.shape[2], dtype=dtype)
    y, h = _PATHS[path](*(x.to(dtype) for x in (u, dt, A, B, C, D, h0)))
    return y.to(u.dtype), h


def _fastest_path(u: Tensor) -> str:
    if u.device.type == "cpu" and u.dtype != torch.float64 and _kernel_works():
        return "cpp"
    return "torch"


def _check_shapes(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor | None) -> None:
    (b, length, e), n = u.shape, A.shape[-1]
    wanted = {"dt": (b, length, e), "A": (e, n), "B": (b, length, n), "C": (b, length, n), "D": (e,), "h0": (b, n, e)}
    for (name, shape), x in zip(wanted.items(), (dt, A, B, C, D, h0), strict=True):
        if x is not None and x.shape != shape:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; with u {tuple(u.shape)} and N {n} it must be {shape}")


# ---- reference: the paper's equations, one line each


def _scan_reference(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h: Tensor) -> Scanned:
    y = [u[:, :0]]
    for t in range(u.shape[1]):
        decay = torch.exp(dt[:, t, None, :] * A.T)
        h = decay * h + (dt[:, t] * u[:, t])[:, None, :] * B[:, t, :, None]
        y.append((C[:, t, :, None] * h).sum(1, keepdim=True) + D * u[:, t : t + 1])
    return torch.cat(y, 1), h


# ---- torch: chunks of whole tensors. Products are elementwise, not matmul, which autocast, TF32 or a lower
# `float32_matmul_precision` would round.


class _TorchScan(torch.autograd.Function):
    """The scan with u, dt (B, L, E), A (N, E), B, C (B, L, N), D (E,), h0 (B, N, E), all of one dtype."""

    @staticmethod
    def forward(ctx: Any, u, dt, A, B, C, D, h):
        y, starts = torch.empty_like(u), []
        for t in _chunks(u.shape[1]):
            starts.append(h)
            _, hs = _chunk_states(u[:, t], dt[:, t], A, B[:, t], h)
            torch.sum(hs * C[:, t, :, None], 2, out=y[:, t])
            h = hs[:, -1].clone()  # a view would keep the whole chunk alive
        ctx.save_for_backward(u, dt, A, B, C, D, *starts)
        return y + D * u, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy, dh):
        u, dt, A, B, C, D, *starts = ctx.saved_tensors
        du, ddt, dA, dB, dC = (torch.empty_like(x) if x is not A else torch.zeros_like(x) for x in (u, dt, A, B, C))
        for t, h in reversed(list(zip(_chunks(u.shape[1]), starts, strict=True))):
            du[:, t], ddt[:, t], part, dB[:, t], dC[:, t], dh = _chunk_backward(
                u[:, t], dt[:, t], A, B[:, t], C[:, t], h, dy[:, t], dh
            )
            dA += part
        return du + D * dy, ddt, dA, dB, dC, (dy * u).sum((0, 1)), dh


def _chunks(length: int) -> list[slice]:
    return [slice(t, min(t + CHUNK, length)) for t in range(0, length, CHUNK)]


def _chunk_states(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, h: Tensor) -> Scanned:
    """Decays and states (B, S, N, E) of S steps after h."""
    decay = (dt[:, :, None] * A).exp_()
    hs = (dt * u)[:, :, None] * B[..., None]
    for i in range(u.shape[1]):
        h = hs[:, i].addcmul_(decay[:, i], h)
    return decay, hs


def _chunk_backward(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor, dy: Tensor, dh: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of u (without the D term), dt, A, B, C and of h, the state before the chunk, from those of y, h_S."""
    decay, hs = _chunk_states(u, dt, A, B, h)
    dhs = dy[:, :, None] * C[..., None]
    dC = (hs * dy[:, :, None]).sum(3)
    ddecay = torch.cat([h[:, None], hs[:, :-1]], 1).mul_(decay)  # times dhs: the gradient of dt A
    for i in reversed(range(u.shape[1])):
        dh = dhs[:, i].add_(dh) * decay[:, i]
    ddtu = (dhs * B[..., None]).sum(2)
    ddecay *= dhs
    dB = dhs.mul_((dt * u)[:, :, None]).sum(3)
    ddt = ddtu * u + (ddecay * A).sum(2)
    dA = ddecay.mul_(dt[:, :, None]).sum((0, 1))
    return ddtu * dt, ddt, dA, dB, dC, dh


def _scan_torch(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor) -> Scanned:
    return _TorchScan.apply(u, dt, A.T.contiguous(), B, C, D, h0)


# ---- cpp: scan.cpp, built by the system's compiler at first use and kept in the user's cache


class Kernel(NamedTuple):
    forward: Any
    backward: Any
    width: int  # channels must come in multiples of this
    chunk: int  # steps per checkpoint


@functools.cache
def load_kernel(flags: tuple[str, ...] = FLAGS) -> Kernel:
    """The built kernel. Raises OSError without a compiler, RuntimeError with its message where it fails."""
    library = ctypes.CDLL(str(build_kernel(flags)))
    sizes = *[ctypes.c_int64] * 5, ctypes.c_int
    library.scan_forward.argtypes = *[ctypes.c_void_p] * 9, *sizes
    library.scan_backward.argtypes = *[ctypes.c_void_p] * 15, *sizes
    library.scan_forward.restype = library.scan_backward.restype = None
    return Kernel(library.scan_forward, library.scan_backward, library.scan_width(), library.scan_chunk())


def build_kernel(flags: tuple[str, ...] = FLAGS) -> Path:
    """The shared library for these flags, compiler ($CXX or c++) and processor, built if the user's cache lacks it."""
    compiler = os.environ.get("CXX", "c++")
    # The predefined macros name the compiler's version and every instruction set that -march=native stands for here.
    target = _run(compiler, *flags, "-dM", "-E", "-x", "c++", os.devnull)
    key = hashlib.sha256("\0".join([SOURCE.read_text(), *flags, target]).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "duplexmamba"
    built = cache / f"scan_{key}.so"
    if not built.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:  # same disk, so that the move into place is atomic
            fresh = os.path.join(scratch, built.name)
            _run(compiler, *flags, "-o", fresh, str(SOURCE))
            os.replace(fresh, built)
    return built


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


@functools.cache
def _kernel_works() -> bool:
    try:
        load_kernel(FLAGS)
    except (OSError, RuntimeError) as error:
        warnings.warn(
            f"The scan runs in plain torch, several times slower, because its C++ kernel could not be built: {error}\n"
            "Install a C++ compiler (Debian and Ubuntu: apt install g++) or set CXX; "
            "DUPLEXMAMBA_SCAN=torch silences this.",
            stacklevel=2,
        )
        return False
    return True


class _CppScan(torch.autograd.Function):
    """As _TorchScan, in contiguous float32 with E a multiple of the kernel's width."""

    @staticmethod
    def forward(ctx: Any, u, dt, A, B, C, D, h0):
        chunks = math.ceil(u.shape[1] / load_kernel(FLAGS).chunk)
        checkpoints = u.new_empty(h0.shape[0], chunks, *h0.shape[1:])
        ctx.save_for_backward(u, dt, A, B, C, D, checkpoints)
        return _cpp_forward(u, dt, A, B, C, D, h0, checkpoints)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy, dh):
        u, dt, A, B, C, D, checkpoints = ctx.saved_tensors
        sizes = _sizes(u, A)
        groups = sizes[4]
        dy, dh = dy.contiguous(), dh.clone(memory_format=torch.contiguous_format)
        du, ddt = torch.empty_like(u), torch.empty_like(u)
        dA, dD = u.new_zeros(len(u), *A.shape), u.new_zeros(len(u), *D.shape)
        dB, dC = u.new_empty(groups, *B.shape), u.new_empty(groups, *C.shape)
        tensors = (u, dt, A, B, C, D, checkpoints, dy, dh, du, ddt, dA, dB, dC, dD)
        load_kernel(FLAGS).backward(*(x.data_ptr() for x in tensors), *sizes)
        return du, ddt, dA.sum(0), dB.sum(0), dC.sum(0), dD.sum(0), dh


def _cpp_forward(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor, checkpoints: Tensor | None = None
) -> Scanned:
    y, h = torch.empty_like(u), h0.clone()
    tensors = (u, dt, A, B, C, D, h, y)
    stored = None if checkpoints is None else checkpoints.data_ptr()
    load_kernel(FLAGS).forward(*(x.data_ptr() for x in tensors), stored, *_sizes(u, A))
    return y, h


def _sizes(u: Tensor, A: Tensor) -> tuple[int, ...]:
    """batch, length, E, N, then into how many channel groups each row is cut so that all threads get the same share."""
    (batch, length, e), n = u.shape, len(A)
    threads = torch.get_num_threads() if u.numel() * n > SMALL else 1
    groups = min(threads // math.gcd(batch, threads), e // load_kernel(FLAGS).width)
    return batch, length, e, n, groups, threads


def _scan_cpp(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor) -> Scanned:
    # The kernel is handed bare addresses: another device's would crash the process.
    if u.dtype != torch.float32 or any(x.device.type != "cpu" for x in (u, dt, A, B, C, D, h0)):
        raise ValueError(f'scan path "cpp" needs CPU tensors below float64; u is {u.dtype} on {u.device}: use "torch"')
    A, e = A.T, u.shape[2]
    if padding := -e % load_kernel(FLAGS).width:
        u, dt, A, D, h0 = (F.pad(x, (0, padding)) for x in (u, dt, A, D, h0))
    operands = [x.contiguous() for x in (u, dt, A, B, C, D, h0)]
    grad = torch.is_grad_enabled() and any(x.requires_grad for x in operands)
    y, h = _CppScan.apply(*operands) if grad else _cpp_forward(*operands)
    return (y[..., :e], h[..., :e]) if padding else (y, h)


# A path for another device (mamba-ssm on CUDA) gets its function above, its name here and its rule in _fastest_path.
_PATHS = {"reference": _scan_reference, "torch": _scan_torch, "cpp": _scan_cpp}
