"""The scan of Mamba-2 (state-space duality) with an initial state: its literal twin, fast paths and their choice.

Which path runs is chosen here and nowhere else. B batch, L steps, H heads, P channels per head, G groups of heads that
share B and C, N states per channel; K chunks of S steps, R = H / G heads per group.
Source: Dao and Gu, "Transformers are SSMs", arXiv 2405.21060, sections 5 to 7.
"""

import contextlib
import functools
import os
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from duplexmamba.ops.scan import states_at
from duplexmamba.streaming.padded import Positions

CHUNK = 64  # steps: longer ones cost more products inside chunks, shorter ones more between them
KERNEL_CHUNK = 256  # as mamba-ssm's own modules have it


def ssd(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor | None = None,
    path: str | None = None, return_states_at: Positions | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Runs h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T and y_t = h_t C_t + D x_t over the L steps.

    x (B, L, H, P); dt (B, L, H), >= 0; A (H,), negative; B, C (B, L, G, N), one for every H / G heads in a row; D (H,);
    h0 (B, H, P, N), zeros when None. L may be 0.
    Returns y (B, L, H, P) in x's dtype and h_L (B, H, P, N) in float64 when x is float64, else in float32, the dtype of
    all arithmetic on the state. Where dt is 0 the state passes unchanged. Differentiable once in every tensor.

    behind: places; the states returned are then those there, a row for each, and not the last ones.
    path: "reference", "torch" or "mamba_ssm" (CUDA only; float32 operands are rounded to TF32); None takes the
    environment's DUPLEXMAMBA_SCAN, where "cpp" and "triton" mean "torch", or else the fastest that rounds no operand.
    Raises ValueError for a wrong shape or path, ImportError where "mamba_ssm" is demanded and not installed.
    """
    _check_shapes(x, dt, A, B, C, D, h0)
    demanded = os.environ.get("DUPLEXMAMBA_SCAN", "")
    path = path or {"cpp": "torch", "triton": "torch"}.get(demanded, demanded) or _fastest_path(x)
    if path not in _PATHS:
        raise ValueError(
            f"ssd path {path!r} (argument or DUPLEXMAMBA_SCAN) is not one of {', '.join(_PATHS)}"
        )
    dtype = torch.promote_types(x.dtype, torch.float32)
    if h0 is None:
        h0 = x.new_zeros(x.shape[0], *x.shape[2:], B.shape[3], dtype=dtype)
    if not x.shape[1]:
        return x, h0.to(dtype) if return_states_at is None else h0.to(dtype)[return_states_at.rows]
    operands = x, dt.to(dtype), A.to(dtype), B, C, D.to(dtype), h0.to(dtype)
    y, h = _PATHS[path](*operands)
    if return_states_at is not None:
        h = states_at(return_states_at, functools.partial(ssd, path=path), *operands)
    return y.to(x.dtype), h


def _fastest_path(x: Tensor) -> str:
    if x.shape[1] == 1:
        return "reference"  # a third of the time of one chunk
    half = x.dtype in (torch.bfloat16, torch.float16)
    return "mamba_ssm" if x.is_cuda and half and _has_kernels() else "torch"


@functools.cache
def _has_kernels() -> bool:
    try:
        import mamba_ssm.ops.triton.ssd_combined  # type: ignore[import-not-found,import-untyped,unused-ignore] # noqa: F401
    except ImportError:
        return False
    return True


def _check_shapes(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor | None
) -> None:
    (b, length, h, p), (g, n) = x.shape, B.shape[2:]
    if h % g:
        raise ValueError(
            f"B has {g} groups for {h} heads; the heads must be a multiple of the groups"
        )
    groups = (b, length, g, n)
    wanted = {
        "dt": (b, length, h),
        "A": (h,),
        "B": groups,
        "C": groups,
        "D": (h,),
        "h0": (b, h, p, n),
    }
    for (name, shape), tensor in zip(wanted.items(), (dt, A, B, C, D, h0), strict=True):
        if tensor is not None and tensor.shape != shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}; with x {tuple(x.shape)}, G {g} and N {n} it must be {shape}"
            )


def ssd_reference(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    """The paper's equations, one line each."""
    B, C = (groups.to(h.dtype).repeat_interleave(x.shape[2] // B.shape[2], 2) for groups in (B, C))
    x, y = x.to(h.dtype), []
    for t in range(x.shape[1]):
        decay = torch.exp(dt[:, t] * A)[..., None, None]
        h = decay * h + (dt[:, t, :, None] * x[:, t])[..., None] * B[:, t, :, None]
        y.append((h * C[:, t, :, None]).sum(-1) + D[:, None] * x[:, t])
    return torch.stack(y, 1), h


def ssd_torch(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    """The same as matrix products within chunks and a scan over chunks, for any device."""
    with _exact_products(x.device):
        x, groups = x.to(h.dtype), B.shape[2]
        u = _chunks(x * dt[..., None]).unflatten(3, (groups, -1))  # (B, K, S, G, R, P)
        B, C = _chunks(B.to(h.dtype)), _chunks(C.to(h.dtype))
        # Sums of many steps are subtracted from each other: in float32 the gradient of dt would lose two digits.
        log_decay = (
            _chunks(dt.double() * A.double()).cumsum(2).unflatten(3, (groups, -1))
        )  # (B, K, S, G, R)
        y = _within_chunks(u, log_decay, B, C)
        from_start, to_end = (
            log_decay.to(h.dtype).exp(),
            (log_decay[:, :, -1:] - log_decay).to(h.dtype).exp(),
        )
        gained = torch.einsum("bksgrp,bksgn->bkgrpn", u * to_end[..., None], B)
        starts, h = _between_chunks(gained, from_start[:, :, -1], h)
        y = y + torch.einsum("bksgn,bkgrpn->bksgrp", C, starts) * from_start[..., None]
        return y.flatten(3, 4).flatten(1, 2)[:, : x.shape[1]] + D[:, None] * x, h


def _chunks(x: Tensor) -> Tensor:
    """(B, L, ...) -> (B, K, S, ...): the fewest chunks of at most CHUNK steps, padded with zeros, where dt is 0 too."""
    count = -(-x.shape[1] // CHUNK)
    size = -(-x.shape[1] // count)
    return F.pad(x, (0, 0) * (x.dim() - 2) + (0, count * size - x.shape[1])).unflatten(
        1, (count, size)
    )


def _within_chunks(u: Tensor, log_decay: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """What the steps t of each chunk read of its steps s <= t: (B, K, S, G, R, P)."""
    log_decay = log_decay.permute(0, 1, 3, 4, 2)
    size = log_decay.shape[-1]
    future = torch.ones(size, size, dtype=torch.bool, device=u.device).triu(1)
    decay = (
        (log_decay[..., :, None] - log_decay[..., None, :])
        .to(u.dtype)
        .masked_fill(future, -torch.inf)
        .exp()
    )
    scores = torch.einsum("bktgn,bksgn->bkgts", C, B)
    return torch.einsum("bkgrts,bksgrp->bktgrp", scores[:, :, :, None] * decay, u)


def _between_chunks(gained: Tensor, decay: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """States (B, K, G, R, P, N) before each chunk, and (B, H, P, N) after the last."""
    starts, h = [], h.unflatten(1, gained.shape[2:4])
    for gain, kept in zip(gained.unbind(1), decay.unbind(1), strict=True):
        starts.append(h)
        h = kept[..., None, None] * h + gain
    return torch.stack(starts, 1), h.flatten(1, 2)


@contextlib.contextmanager
def _exact_products(device: torch.device) -> Iterator[None]:
    """No autocast and, on CUDA, no TF32, whose errors a carried state would keep; gradients are as the caller set."""
    with torch.autocast(device.type, enabled=False):
        precision = torch.get_float32_matmul_precision()
        if device.type == "cuda":
            torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)


def ssd_mamba_ssm(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    """The authors' Triton kernels; the state stays in float32, products take x's dtype."""
    if not x.is_cuda or x.dtype == torch.float64:
        raise ValueError(
            f'ssd path "mamba_ssm" needs CUDA tensors below float64; x is {x.dtype} on {x.device}: use "torch"'
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


_PATHS = {"reference": ssd_reference, "torch": ssd_torch, "mamba_ssm": ssd_mamba_ssm}
