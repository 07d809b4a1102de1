"""The scan of Mamba-2 (state-space duality, SSD): the reference, fast paths and their choice.

This module, and no other one, chooses between the implementations ("paths") of this scan.

Glossary:
    B: rows (the tensor B is the input matrix of the state space model).
    L: steps.
    H: heads.
    P: channels per head.
    G: groups of heads that share the tensors B and C.
    R: H / G, heads per group.
    N: states per channel.
    K: chunks.
    S: steps of a chunk.
    x, dt: input and step size; A, B, C, D: parameters of the model; h: its state.

Source: Dao and Gu, "Transformers are SSMs", arXiv 2405.21060, sections 5 to 7.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from duplexmamba.ops.scan import states_at
from duplexmamba.streaming.padded import Positions, pad_steps

CHUNK = 64
"""Steps per chunk. Longer ones cost more products within chunks, shorter ones more between them."""

KERNEL_CHUNK = 256
"""Steps per chunk in the kernels of mamba-ssm, as in that package's own modules."""


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    h0: Tensor | None = None,
    path: str | None = None,
    return_states_at: Positions | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the scan of Mamba-2 over L steps:

        h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T
        y_t = h_t C_t + D x_t

    The state is computed in float64 when x is float64 and in float32 otherwise. Where dt is 0 it
    passes unchanged. Every tensor is differentiable once.

    Args:
        x: (B, L, H, P). L may be 0.
        dt: (B, L, H), >= 0.
        A: (H,), negative.
        B: (B, L, G, N); each group is shared by R consecutive heads.
        C: (B, L, G, N), like B.
        D: (H,).
        h0: (B, H, P, N), the initial state; None for zeros.
        path: "reference", "torch" or "mamba_ssm" (CUDA only, rounds float32 operands to TF32).
            None takes that of the environment variable DUPLEXMAMBA_SCAN, of which "cpp" and
            "triton" mean "torch", or else the fastest path that rounds no operand.
        return_states_at: positions, for the states there instead of the last ones.

    Returns:
        y (B, L, H, P) in the dtype of x; and the last states (B, H, P, N), or one row for each
        position, in the dtype of the state.

    Raises:
        ValueError: a shape is wrong or there is no such path.
        ImportError: "mamba_ssm" is requested but not installed.
    """
    _check_shapes(x, dt, A, B, C, D, h0)
    path = _path(x, path)
    dtype = torch.promote_types(x.dtype, torch.float32)
    if h0 is None:
        h0 = x.new_zeros(x.shape[0], *x.shape[2:], B.shape[3], dtype=dtype)
    h0 = h0.to(dtype)
    if x.shape[1] == 0:
        return x, h0 if return_states_at is None else h0[return_states_at.rows]
    operands = (x, dt.to(dtype), A.to(dtype), B, C, D.to(dtype), h0)
    y, h = _PATHS[path](*operands)
    if return_states_at is not None:
        h = states_at(return_states_at, functools.partial(ssd, path=path), *operands)
    return y.to(x.dtype), h


def _path(x: Tensor, requested: str | None) -> str:
    """Return the path to use: the argument, that of the environment, or the fastest one."""
    path = requested
    if not path:
        path = os.environ.get("DUPLEXMAMBA_SCAN", "")
        if path in ("cpp", "triton"):
            path = "torch"  # these exist for Mamba-1 only
    path = path or _fastest_path(x)
    if path not in _PATHS:
        known = ", ".join(_PATHS)
        raise ValueError(f"ssd path {path!r} (argument or DUPLEXMAMBA_SCAN) is not one of {known}")
    return path


def _fastest_path(x: Tensor) -> str:
    if x.shape[1] == 1:
        return "reference"  # takes a third of the time of one chunk
    half_precision = x.dtype in (torch.bfloat16, torch.float16)
    if x.is_cuda and half_precision and _has_kernels():
        return "mamba_ssm"
    return "torch"


@functools.cache
def _has_kernels() -> bool:
    """Check whether mamba-ssm is installed."""
    try:
        import mamba_ssm.ops.triton.ssd_combined  # type: ignore[import-not-found,import-untyped,unused-ignore] # noqa: F401
    except ImportError:
        return False
    return True


def _check_shapes(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor | None
) -> None:
    """Raise ValueError for the first operand whose shape does not fit those of x and B."""
    batch_size, steps, num_heads, head_dim = x.shape
    num_groups, num_states = B.shape[2:]
    if num_heads % num_groups:
        raise ValueError(
            f"B has {num_groups} groups for {num_heads} heads; "
            "the heads must be a multiple of the groups"
        )
    expected = [
        ("dt", dt, (batch_size, steps, num_heads)),
        ("A", A, (num_heads,)),
        ("B", B, (batch_size, steps, num_groups, num_states)),
        ("C", C, (batch_size, steps, num_groups, num_states)),
        ("D", D, (num_heads,)),
        ("h0", h0, (batch_size, num_heads, head_dim, num_states)),
    ]
    for name, operand, shape in expected:
        if operand is not None and operand.shape != shape:
            raise ValueError(
                f"{name} has shape {tuple(operand.shape)}; with x {tuple(x.shape)}, "
                f"G {num_groups} and N {num_states} it must be {shape}"
            )


def ssd_reference(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    h: Tensor,
) -> tuple[Tensor, Tensor]:
    """Compute the equations of `ssd` as they stand, step by step.

    Args:
        x: (B, L, H, P), L >= 1.
        dt: (B, L, H).
        A: (H,).
        B: (B, L, G, N).
        C: (B, L, G, N).
        D: (H,).
        h: (B, H, P, N), the initial state; its dtype is that of the computation.

    Returns:
        y (B, L, H, P) and the last state (B, H, P, N).
    """
    heads_per_group = x.shape[2] // B.shape[2]
    B = B.to(h.dtype).repeat_interleave(heads_per_group, 2)  # (B, L, H, N)
    C = C.to(h.dtype).repeat_interleave(heads_per_group, 2)  # (B, L, H, N)
    x = x.to(h.dtype)
    y = []
    for t in range(x.shape[1]):
        decay = torch.exp(dt[:, t] * A)[..., None, None]  # (B, H, 1, 1)
        h = decay * h + (dt[:, t, :, None] * x[:, t])[..., None] * B[:, t, :, None]
        y.append((h * C[:, t, :, None]).sum(-1) + D[:, None] * x[:, t])
    return torch.stack(y, 1), h


def ssd_torch(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    h: Tensor,
) -> tuple[Tensor, Tensor]:
    """Compute `ssd` by matrix products within chunks and a scan over chunks, on any device.

    Arguments and results are those of `ssd_reference`.
    """
    with _exact_products(x.device):
        dtype = h.dtype
        x = x.to(dtype)
        by_group = (B.shape[2], -1)
        inputs = _chunks(x * dt[..., None]).unflatten(3, by_group)  # (B, K, S, G, R, P)
        B = _chunks(B.to(dtype))  # (B, K, S, G, N)
        C = _chunks(C.to(dtype))
        # Sums over many steps are subtracted from each other. In float32 the gradient of dt would
        # lose two digits.
        step_log_decay = _chunks(dt.double() * A.double())  # (B, K, S, H)
        log_decay = step_log_decay.cumsum(2).unflatten(3, by_group)  # (B, K, S, G, R)
        y = _within_chunks(inputs, log_decay, B, C)
        # Decay from the start of the chunk to each step, and from each step to its end.
        from_start = log_decay.to(dtype).exp()
        to_end = (log_decay[:, :, -1:] - log_decay).to(dtype).exp()
        decayed_inputs = inputs * to_end[..., None]
        gained = torch.einsum("bksgrp,bksgn->bkgrpn", decayed_inputs, B)
        starts, h = _between_chunks(gained, from_start[:, :, -1], h)
        from_earlier_chunks = torch.einsum("bksgn,bkgrpn->bksgrp", C, starts)
        y = y + from_earlier_chunks * from_start[..., None]
        y = y.flatten(3, 4).flatten(1, 2)  # (B, K * S, H, P)
        return y[:, : x.shape[1]] + D[:, None] * x, h


def _chunks(x: Tensor) -> Tensor:
    """Divide steps into chunks: (B, L, ...) -> (B, K, S, ...).

    There are as few chunks of at most CHUNK steps as possible, all of one size, with zeros at the
    end. At those steps dt is 0 too, so they do not change the state.
    """
    num_steps = x.shape[1]
    num_chunks = -(-num_steps // CHUNK)
    chunk_steps = -(-num_steps // num_chunks)
    padded = pad_steps(x, num_chunks * chunk_steps - num_steps)
    return padded.unflatten(1, (num_chunks, chunk_steps))


def _within_chunks(inputs: Tensor, log_decay: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Compute what each step t reads of the inputs at steps s <= t of its chunk.

    Args:
        inputs: (B, K, S, G, R, P).
        log_decay: (B, K, S, G, R) float64, from the start of the chunk.
        B: (B, K, S, G, N).
        C: (B, K, S, G, N).

    Returns:
        (B, K, S, G, R, P).
    """
    log_decay = log_decay.permute(0, 1, 3, 4, 2)  # (B, K, G, R, S)
    chunk_steps = log_decay.shape[-1]
    square = (chunk_steps, chunk_steps)
    future = torch.ones(square, dtype=torch.bool, device=inputs.device).triu(1)
    difference = log_decay[..., :, None] - log_decay[..., None, :]  # (B, K, G, R, t, s)
    # Masked before exp: later steps have positive exponents, which could overflow.
    decay = difference.to(inputs.dtype).masked_fill(future, -torch.inf).exp()
    scores = torch.einsum("bktgn,bksgn->bkgts", C, B)
    weights = scores[:, :, :, None] * decay
    return torch.einsum("bkgrts,bksgrp->bktgrp", weights, inputs)


def _between_chunks(gained: Tensor, decay: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Run the recurrence from chunk to chunk.

    Args:
        gained: (B, K, G, R, P, N), the state that each chunk adds by its end.
        decay: (B, K, G, R), of each whole chunk.
        h: (B, H, P, N), the initial state.

    Returns:
        States before each chunk (B, K, G, R, P, N), and after the last one (B, H, P, N).
    """
    h = h.unflatten(1, gained.shape[2:4])  # (B, G, R, P, N)
    starts = []
    for chunk_gain, chunk_decay in zip(gained.unbind(1), decay.unbind(1), strict=True):
        starts.append(h)
        h = chunk_decay[..., None, None] * h + chunk_gain
    return torch.stack(starts, 1), h.flatten(1, 2)


@contextlib.contextmanager
def _exact_products(device: torch.device) -> Iterator[None]:
    """Compute products without autocast and, on CUDA, without TF32.

    Their errors would stay in the state of a stream. The backward pass uses what the caller set.
    """
    with torch.autocast(device.type, enabled=False):
        precision = torch.get_float32_matmul_precision()
        if device.type == "cuda":
            torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)


def ssd_mamba_ssm(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    h: Tensor,
) -> tuple[Tensor, Tensor]:
    """Compute `ssd` by the Triton kernels of mamba-ssm, with arguments as in `ssd_reference`.

    The state stays in float32; products take the dtype of x.

    Raises:
        ValueError: x is not on CUDA, or is float64.
        ImportError: mamba-ssm is not installed.
    """
    if not x.is_cuda or x.dtype == torch.float64:
        raise ValueError(
            'ssd path "mamba_ssm" needs CUDA tensors below float64; '
            f'x is {x.dtype} on {x.device}: use "torch"'
        )
    from mamba_ssm.ops.triton.ssd_combined import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        mamba_chunk_scan_combined,
    )

    return mamba_chunk_scan_combined(
        x,
        dt,
        A,
        B.to(x.dtype),
        C.to(x.dtype),
        KERNEL_CHUNK,
        D=D,
        initial_states=h,
        return_final_states=True,
    )


_PATHS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "reference": ssd_reference,
    "torch": ssd_torch,
    "mamba_ssm": ssd_mamba_ssm,
}
