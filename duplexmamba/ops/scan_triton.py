"""The selective scan as two Triton kernels, for a GPU: each walks through time once, with its states in registers.

A program has one row, a few channels and all their states, and shares nothing: there are no atomics, sums have one
order, results are bitwise repeatable. The forward pass stores the state before every CHUNK steps; the backward pass
goes from chunk to chunk, recomputes a chunk's states into scratch memory and walks back through it.
This file cannot be imported without triton. TRITON_INTERPRET=1 runs the kernels on the CPU, for tests.
B batch, L steps, E channels, N states per channel.
"""

from typing import Any

import torch
import triton  # type: ignore[import]
import triton.language as tl  # type: ignore[import]
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 32  # steps per checkpoint
STAGES = 4  # steps whose operands are on their way while one is computed
TILE = 256  # states of a program, which is one warp: with more, too few programs fill the GPU; with fewer, lanes idle


def scan_triton(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor
) -> tuple[Tensor, Tensor]:
    """As `scan.selective_scan`, all of one dtype. Raises ValueError for tensors on the CPU."""
    if not (u.is_cuda or triton.knobs.runtime.interpret):
        raise ValueError(
            f'scan path "triton" needs tensors on a GPU; u is on {u.device}: use "torch"'
        )
    operands = [x.contiguous() for x in (u, dt, A.T, B, C, D, h0)]
    grad = torch.is_grad_enabled() and any(x.requires_grad for x in operands)
    return _TritonScan.apply(*operands) if grad else _scan(*operands)


class _TritonScan(torch.autograd.Function):
    """The scan with A (N, E) and h0 (B, N, E), all contiguous."""

    @staticmethod
    def forward(ctx: Any, u, dt, A, B, C, D, h0):
        checkpoints = h0.new_empty(len(h0), triton.cdiv(u.shape[1], CHUNK), *A.shape)
        ctx.save_for_backward(u, dt, A, B, C, D, checkpoints)
        return _scan(u, dt, A, B, C, D, h0, checkpoints)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy, dh):
        u, dt, A, B, C, D, checkpoints = ctx.saved_tensors
        (batch, length, e), sizes = u.shape, _sizes(A)
        blocks = triton.cdiv(e, sizes["BLOCK_E"])
        scratch = u.new_empty(batch, CHUNK, *A.shape)
        du, ddt = torch.empty_like(u), torch.empty_like(u)
        dA, dD, dh0 = (
            A.new_empty(batch, *A.shape),
            D.new_empty(batch, e),
            A.new_empty(batch, *A.shape),
        )
        dB, dC = (x.new_empty(batch, blocks, *x.shape[1:]) for x in (B, C))
        tensors = (u, dt, A, B, C, D, checkpoints, dy.contiguous(), dh.contiguous(), scratch)
        with torch.cuda.device_of(u):
            _backward[(batch * blocks,)](*tensors, du, ddt, dA, dB, dC, dD, dh0, length, **sizes)
        return du, ddt, dA.sum(0), dB.sum(1), dC.sum(1), dD.sum(0), dh0


def _scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    h0: Tensor,
    checkpoints: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    y, h = torch.empty_like(u), torch.empty_like(h0)
    sizes = _sizes(A)
    with torch.cuda.device_of(u):
        _forward[(len(u) * triton.cdiv(u.shape[2], sizes["BLOCK_E"]),)](
            u, dt, A, B, C, D, h0, y, h, checkpoints, u.shape[1], **sizes
        )
    return y, h


def _sizes(A: Tensor) -> dict[str, int]:
    n, e = A.shape
    padded = triton.next_power_of_2(n)
    channels = max(8, min(32, TILE // padded))
    return {
        "E": e,
        "N": n,
        "BLOCK_E": channels,
        "BLOCK_N": padded,
        "CHUNK": CHUNK,
        "STAGES": STAGES,
        "num_warps": 1,
    }


@triton.jit(do_not_specialize=["L"])
def _forward(
    u, dt, A, B, C, D, h0, y, h_last, checkpoints, L,
    E: tl.constexpr, N: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    row, e, n, state, in_e, in_n, in_state = _place(E, N, BLOCK_E, BLOCK_N)
    A_en = tl.load(A + state, in_state, 0.0)
    D_e = tl.load(D + e, in_e, 0.0)
    h = tl.load(h0 + row * N * E + state, in_state, 0.0)
    for t in tl.range(0, L, num_stages=STAGES):
        step = row * L + t
        if checkpoints is not None:
            chunk = row * tl.cdiv(L, CHUNK) + t // CHUNK
            tl.store(checkpoints + chunk * N * E + state, h, in_state & (t % CHUNK == 0))
        dt_e = tl.load(dt + step * E + e, in_e, 0.0)
        u_e = tl.load(u + step * E + e, in_e, 0.0)
        B_n = tl.load(B + step * N + n, in_n, 0.0)
        C_n = tl.load(C + step * N + n, in_n, 0.0)
        h = tl.exp(dt_e[None, :] * A_en) * h + (dt_e * u_e)[None, :] * B_n[:, None]
        tl.store(y + step * E + e, tl.sum(C_n[:, None] * h, 0) + D_e * u_e, in_e)
    tl.store(h_last + row * N * E + state, h, in_state)


@triton.jit(do_not_specialize=["L"])
def _backward(
    u, dt, A, B, C, D, checkpoints, dy, dh_last, scratch, du, ddt, dA, dB, dC, dD, dh0, L,
    E: tl.constexpr, N: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    row, e, n, state, in_e, in_n, in_state = _place(E, N, BLOCK_E, BLOCK_N)
    program = tl.program_id(0).to(tl.int64)
    A_en = tl.load(A + state, in_state, 0.0)
    D_e = tl.load(D + e, in_e, 0.0)
    dh = tl.load(
        dh_last + row * N * E + state, in_state, 0.0
    )  # gradient of the state behind the step at hand
    dA_en = tl.zeros_like(dh)
    dD_e = tl.zeros_like(D_e)
    before = scratch + row * CHUNK * N * E + state  # the state before each step of the chunk
    chunks = tl.cdiv(L, CHUNK)
    for i in range(chunks):
        chunk = chunks - 1 - i
        first = chunk * CHUNK
        steps = tl.minimum(L - first, CHUNK)
        tl.debug_barrier()  # a thread may read from scratch what another wrote
        h = tl.load(checkpoints + (row * chunks + chunk) * N * E + state, in_state, 0.0)
        for s in tl.range(0, steps, num_stages=STAGES):
            step = row * L + first + s
            tl.store(before + s * N * E, h, in_state)
            dt_e = tl.load(dt + step * E + e, in_e, 0.0)
            u_e = tl.load(u + step * E + e, in_e, 0.0)
            B_n = tl.load(B + step * N + n, in_n, 0.0)
            h = tl.exp(dt_e[None, :] * A_en) * h + (dt_e * u_e)[None, :] * B_n[:, None]
        tl.debug_barrier()
        for j in tl.range(0, steps, num_stages=STAGES):
            s = steps - 1 - j
            step = row * L + first + s
            dt_e = tl.load(dt + step * E + e, in_e, 0.0)
            u_e = tl.load(u + step * E + e, in_e, 0.0)
            dy_e = tl.load(dy + step * E + e, in_e, 0.0)
            B_n = tl.load(B + step * N + n, in_n, 0.0)
            C_n = tl.load(C + step * N + n, in_n, 0.0)
            decay = tl.exp(dt_e[None, :] * A_en)
            kept = decay * tl.load(before + s * N * E, in_state, 0.0)
            dtu_e = dt_e * u_e
            dC_n = tl.sum(dy_e[None, :] * (kept + dtu_e[None, :] * B_n[:, None]), 1)
            dh += dy_e[None, :] * C_n[:, None]
            dB_n = tl.sum(dh * dtu_e[None, :], 1)
            ddtu_e = tl.sum(dh * B_n[:, None], 0)
            dexponent = dh * kept
            dh *= decay
            dA_en += dexponent * dt_e[None, :]
            dD_e += dy_e * u_e
            tl.store(ddt + step * E + e, ddtu_e * u_e + tl.sum(dexponent * A_en, 0), in_e)
            tl.store(du + step * E + e, ddtu_e * dt_e + dy_e * D_e, in_e)
            part = (program * L + first + s) * N + n
            tl.store(dB + part, dB_n, in_n)
            tl.store(dC + part, dC_n, in_n)
    tl.store(dh0 + row * N * E + state, dh, in_state)
    tl.store(dA + row * N * E + state, dA_en, in_state)
    tl.store(dD + row * E + e, dD_e, in_e)


@triton.jit
def _place(E: tl.constexpr, N: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_N: tl.constexpr):
    """The row, channels, states and (N, E) offsets of this program, and which of them exist."""
    blocks = tl.cdiv(E, BLOCK_E)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    e = tl.program_id(0) % blocks * BLOCK_E + tl.arange(0, BLOCK_E)
    n = tl.arange(0, BLOCK_N)
    in_e, in_n = e < E, n < N
    return row, e, n, n[:, None] * E + e[None, :], in_e, in_n, in_n[:, None] & in_e[None, :]
