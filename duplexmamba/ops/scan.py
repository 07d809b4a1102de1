"""Selective scan of Mamba-1 with an initial state: its literal twin, and the choice of what runs it.

Which path runs is chosen here and nowhere else. B batch, L steps, E channels, N states per channel.
Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv:2312.00752, algorithm 2.
"""

import functools
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from duplexmamba.ops.build import kernels_work
from duplexmamba.ops.scan_cpp import scan_cpp
from duplexmamba.ops.scan_mamba_ssm import scan_mamba_ssm
from duplexmamba.ops.scan_torch import scan_torch
from duplexmamba.streaming.padded import Positions


def selective_scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor | None = None,
    path: str | None = None, return_states_at: Positions | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Runs h_t = exp(dt_t A) h_{t-1} + dt_t u_t B_t and y_t = C_t . h_t + D u_t over the L steps.

    u, dt (B, L, E), dt >= 0; A (E, N), negative; B, C (B, L, N); D (E,); h0 (B, N, E), zeros when None. L may be 0.
    Returns y (B, L, E) in u's dtype and h_L (B, N, E), both computed in float64 when u is float64, else in float32, the
    dtype of h_L. Where dt is 0 the state passes unchanged, bit for bit. Differentiable once in every tensor.

    behind: P places; the states returned are then those there, (P, N, E), and not the last ones.
    path: one of these; None takes the environment's DUPLEXMAMBA_SCAN, or else the first that works here:
        "cpp": a CPU, below float64, with a C++ compiler.
        "triton": a GPU, with triton, which comes with torch's CUDA builds, and a C compiler. It takes an initial state,
            and gradients pass through every state.
        "torch": any device.
        "mamba_ssm": a GPU, below float64, only on demand: the gradient of h_L is refused, an initial state costs a
            (B, L, N, E) tensor, and "triton" is spared both.
        "reference": the twin of all, for tests.
    Raises ValueError for a wrong shape or path; RuntimeError, OSError or ImportError where a path is demanded that
    cannot be built or is not installed.
    """
    _check_shapes(u, dt, A, B, C, D, h0)
    path = path or scan_path(u)
    if path not in _PATHS:
        raise ValueError(
            f"scan path {path!r} (argument or DUPLEXMAMBA_SCAN) is not one of {', '.join(_PATHS)}"
        )
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    if h0 is None and path != "mamba_ssm":  # which starts from zero by itself, at less cost
        h0 = u.new_zeros(u.shape[0], A.shape[1], u.shape[2], dtype=dtype)
    operands = [x if x is None else x.to(dtype) for x in (u, dt, A, B, C, D, h0)]
    run = _PATHS[path]
    if return_states_at is not None and path == "cpp":  # whose kernel hands out what it comes by
        y, h = run(*operands, return_states_at)
    else:
        y, h = run(*operands)
        h = h if return_states_at is None else states_at(return_states_at, run, *operands)
    return y.to(u.dtype), h


def states_at(
    return_states_at: Positions, scan: Callable[..., tuple[Tensor, Tensor]], *operands: Any
) -> Tensor:
    """The states at places by a scan, of either Mamba, in which each is the end of a row of its own."""
    u, dt, A, B, C, D, h0 = operands
    length = int(return_states_at.steps.max())
    within = torch.arange(length, device=u.device) < return_states_at.steps[:, None]
    u, dt, B, C = (x[return_states_at.rows, :length] for x in (u, dt, B, C))
    return scan(
        u, dt * within[..., None], A, B, C, D, None if h0 is None else h0[return_states_at.rows]
    )[1]


def scan_path(u: Tensor) -> str:
    """What runs a scan of `u` unless a path is demanded."""
    if asked := os.environ.get("DUPLEXMAMBA_SCAN"):
        return asked
    if u.device.type == "cpu" and u.dtype != torch.float64 and kernels_work():
        return "cpp"
    return "triton" if u.is_cuda and _triton_works(u.device) else "torch"


@functools.cache
def _triton_works(device: torch.device) -> bool:
    """Whether Triton can build and run the kernel here; warns once where it cannot."""
    x = torch.zeros(1, 1, 1, device=device)
    try:
        _scan_triton(x, x, x[0], x, x, x[0, 0], x)
    except Exception as error:  # of many types: no triton, no C compiler, a driver or GPU too old
        warnings.warn(
            f"The scan runs in plain torch, many times slower, because its Triton kernel does not run on {device}: "
            f"{error}\nInstall triton and a C compiler; DUPLEXMAMBA_SCAN=torch silences this.",
            stacklevel=2,
        )
        return False
    return True


def _scan_triton(*operands: Tensor) -> tuple[Tensor, Tensor]:
    from duplexmamba.ops.scan_triton import (
        scan_triton,
    )  # not above: it needs triton, which a CPU does without

    return scan_triton(*operands)


def _check_shapes(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor | None
) -> None:
    (b, length, e), n = u.shape, A.shape[-1]
    wanted = {
        "dt": (b, length, e),
        "A": (e, n),
        "B": (b, length, n),
        "C": (b, length, n),
        "D": (e,),
        "h0": (b, n, e),
    }
    for (name, shape), x in zip(wanted.items(), (dt, A, B, C, D, h0), strict=True):
        if x is not None and x.shape != shape:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}; with u {tuple(u.shape)} and N {n} it must be {shape}"
            )


def scan_reference(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    """The paper's equations, one line each."""
    y = [u[:, :0]]
    for t in range(u.shape[1]):
        decay = torch.exp(dt[:, t, None, :] * A.T)
        h = decay * h + (dt[:, t] * u[:, t])[:, None, :] * B[:, t, :, None]
        y.append((C[:, t, :, None] * h).sum(1, keepdim=True) + D * u[:, t : t + 1])
    return torch.cat(y, 1), h


_PATHS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "reference": scan_reference,
    "torch": scan_torch,
    "cpp": scan_cpp,
    "triton": _scan_triton,
    "mamba_ssm": scan_mamba_ssm,
}
