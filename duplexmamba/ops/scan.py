"""Selective scan of Mamba-1 with an initial state: the reference, and the choice of what runs it.

This module, and no other one, chooses between the implementations ("paths") of the scan.

Glossary:
    B: rows (the tensor B is the input matrix of the state space model).
    L: steps.
    E: channels.
    N: states per channel.
    P: positions.
    u, dt: input and step size of each channel.
    A, B, C, D: parameters of the state space model.
    h: its state.

Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
arXiv 2312.00752, algorithm 2.
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
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    h0: Tensor | None = None,
    path: str | None = None,
    return_states_at: Positions | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the selective scan over L steps:

        h_t = exp(dt_t A) h_{t-1} + dt_t u_t B_t
        y_t = C_t . h_t + D u_t

    It is computed in float64 when u is float64 and in float32 otherwise. Where dt is 0 the state
    passes unchanged, bit for bit. Every tensor is differentiable once.

    Args:
        u: (B, L, E). L may be 0.
        dt: (B, L, E), >= 0.
        A: (E, N), negative.
        B: (B, L, N).
        C: (B, L, N).
        D: (E,).
        h0: (B, N, E), the initial state; None for zeros.
        path: the implementation to use. None takes that of the environment variable
            DUPLEXMAMBA_SCAN or, without it, the first of these that works here:

            "cpp": on a CPU, below float64, with a C++ compiler.
            "triton": on a GPU, with triton, which comes with torch's CUDA builds, and a C compiler.
                Gradients pass through every state.
            "torch": on any device.
            "mamba_ssm": on a GPU, below float64, only on request. It has no gradient through the
                last state, and an initial state costs a (B, L, N, E) tensor.
            "reference": the equations as they stand, for tests.
        return_states_at: P positions, for the states there instead of the last ones.

    Returns:
        y (B, L, E) in the dtype of u; and the last states (B, N, E), or those at the positions
        (P, N, E), in the dtype of the computation.

    Raises:
        ValueError: a shape is wrong or there is no such path.
        RuntimeError, OSError, ImportError: the requested path cannot be built or is not installed.
    """
    _check_shapes(u, dt, A, B, C, D, h0)
    path = path or scan_path(u)
    if path not in _PATHS:
        known = ", ".join(_PATHS)
        raise ValueError(f"scan path {path!r} (argument or DUPLEXMAMBA_SCAN) is not one of {known}")
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    # The kernel of mamba-ssm starts from zero by itself, which costs less than adding zeros.
    if h0 is None and path != "mamba_ssm":
        h0 = u.new_zeros(u.shape[0], A.shape[1], u.shape[2], dtype=dtype)
    operands = [None if x is None else x.to(dtype) for x in (u, dt, A, B, C, D, h0)]
    y, h = _run(path, operands, return_states_at)
    return y.to(u.dtype), h


def _run(
    path: str, operands: list[Tensor | None], return_states_at: Positions | None
) -> tuple[Tensor, Tensor]:
    """Run the scan by a path; return y and the last states or those at the positions."""
    scan = _PATHS[path]
    if return_states_at is None:
        return scan(*operands)
    if path == "cpp":
        # This kernel returns the states of one pass; the others need a second one.
        return scan(*operands, return_states_at)
    y, _ = scan(*operands)
    return y, states_at(return_states_at, scan, *operands)


def states_at(
    return_states_at: Positions, scan: Callable[..., tuple[Tensor, Tensor]], *operands: Any
) -> Tensor:
    """Compute the states at positions by a scan in which each position is the end of a row.

    Args:
        return_states_at: P positions.
        scan: the scan of Mamba-1 or of Mamba-2; it returns y and the last states.
        operands: u, dt, A, B, C, D, h0 of that scan.

    Returns:
        (P, ...), the states.
    """
    u, dt, A, B, C, D, h0 = operands
    rows = return_states_at.rows
    longest = return_states_at.most_steps
    # With dt = 0 after its position, the state of a row stays as it is there.
    steps = torch.arange(longest, device=u.device)
    before_position = steps < return_states_at.steps[:, None]  # (P, L)
    u, dt, B, C = (x[rows, :longest] for x in (u, dt, B, C))
    h0 = None if h0 is None else h0[rows]
    _, states = scan(u, dt * before_position[..., None], A, B, C, D, h0)
    return states


def scan_path(u: Tensor) -> str:
    """Return the path that runs a scan of `u` when its caller names none."""
    requested = os.environ.get("DUPLEXMAMBA_SCAN")
    if requested:
        return requested
    if u.device.type == "cpu" and u.dtype != torch.float64 and kernels_work():
        return "cpp"
    if u.is_cuda and _triton_works(u.device):
        return "triton"
    return "torch"


def scan_reference(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the equations of `selective_scan` as they stand, step by step.

    Args:
        u: (B, L, E), and so on as in `selective_scan`, all of one dtype.
        dt: (B, L, E).
        A: (E, N).
        B: (B, L, N).
        C: (B, L, N).
        D: (E,).
        h: (B, N, E), the initial state.

    Returns:
        y (B, L, E) and the last state (B, N, E).
    """
    y = [u[:, :0]]
    for t in range(u.shape[1]):
        decay = torch.exp(dt[:, t, None, :] * A.T)  # (B, N, E)
        h = decay * h + (dt[:, t] * u[:, t])[:, None, :] * B[:, t, :, None]
        y.append((C[:, t, :, None] * h).sum(1, keepdim=True) + D * u[:, t : t + 1])
    return torch.cat(y, 1), h


@functools.cache
def _triton_works(device: torch.device) -> bool:
    """Check whether Triton can build and run the kernel here; warn once where it cannot."""
    x = torch.zeros(1, 1, 1, device=device)
    try:
        _scan_triton(x, x, x[0], x, x, x[0, 0], x)
    # Many types: no triton, no C compiler, a driver or a GPU that is too old.
    except Exception as error:
        warnings.warn(
            "The scan runs in plain torch, many times slower, because its Triton kernel does not "
            f"run on {device}: {error}\n"
            "Install triton and a C compiler; DUPLEXMAMBA_SCAN=torch silences this.",
            stacklevel=2,
        )
        return False
    return True


def _scan_triton(*operands: Tensor) -> tuple[Tensor, Tensor]:
    # Imported here, since it needs triton, which machines without a GPU do not have.
    from duplexmamba.ops.scan_triton import scan_triton

    return scan_triton(*operands)


def _check_shapes(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor | None
) -> None:
    """Raise ValueError for the first operand whose shape does not fit that of u."""
    batch_size, steps, channels = u.shape
    num_states = A.shape[-1]
    expected = [
        ("dt", dt, (batch_size, steps, channels)),
        ("A", A, (channels, num_states)),
        ("B", B, (batch_size, steps, num_states)),
        ("C", C, (batch_size, steps, num_states)),
        ("D", D, (channels,)),
        ("h0", h0, (batch_size, num_states, channels)),
    ]
    for name, operand, shape in expected:
        if operand is not None and operand.shape != shape:
            raise ValueError(
                f"{name} has shape {tuple(operand.shape)}; "
                f"with u {tuple(u.shape)} and N {num_states} it must be {shape}"
            )


_PATHS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "reference": scan_reference,
    "torch": scan_torch,
    "cpp": scan_cpp,
    "triton": _scan_triton,
    "mamba_ssm": scan_mamba_ssm,
}
