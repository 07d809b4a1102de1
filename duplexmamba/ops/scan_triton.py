"""The selective scan as two Triton kernels, for a GPU.

Each kernel goes through time once with its states in registers. One program has one row, a few
channels and all states of these channels, and shares nothing with other programs. There are no
atomics, so sums have one order and results are bitwise repeatable. The forward kernel stores the
state before every chunk of CHUNK steps. The backward kernel goes from the last chunk to the first,
recomputes the states of a chunk into scratch memory, and goes back through them.

This module cannot be imported without triton. With TRITON_INTERPRET=1 the kernels run on the CPU,
for tests.

Glossary:
    B: rows (the tensor B is the input matrix of the state space model).
    L: steps.
    E: channels.
    N: states per channel.
    K: chunks.
    G: blocks of channels; one program has one row and one block.
    Inside the kernels, names end in the dimensions of their block: `dt_e`, `B_n`, `A_ne`.
"""

from typing import Any

import torch
import triton  # type: ignore[import]
import triton.language as tl  # type: ignore[import]
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 32
"""Steps per checkpoint."""

STAGES = 4
"""Steps whose operands are loaded ahead while one step is computed."""

TILE = 256
"""States of a program, which is one warp. With more of them too few programs fill the GPU, with
fewer of them lanes have nothing to do."""


def scan_triton(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    h0: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run the selective scan on a GPU, for operands of one dtype.

    Args:
        u: (B, L, E).
        dt: (B, L, E).
        A: (E, N).
        B: (B, L, N).
        C: (B, L, N).
        D: (E,).
        h0: (B, N, E).

    Returns:
        y (B, L, E) and the last states (B, N, E).

    Raises:
        ValueError: u is not on a GPU.
    """
    if not (u.is_cuda or triton.knobs.runtime.interpret):
        raise ValueError(
            f'scan path "triton" needs tensors on a GPU; u is on {u.device}: use "torch"'
        )
    operands = [x.contiguous() for x in (u, dt, A.T, B, C, D, h0)]
    needs_grad = any(operand.requires_grad for operand in operands)
    if torch.is_grad_enabled() and needs_grad:
        return _TritonScan.apply(*operands)
    return _scan(*operands)


class _TritonScan(torch.autograd.Function):
    """The scan with A (N, E) and h0 (B, N, E), all operands contiguous."""

    @staticmethod
    def forward(ctx: Any, u, dt, A, B, C, D, h0):
        num_chunks = triton.cdiv(u.shape[1], CHUNK)
        checkpoints = h0.new_empty(len(h0), num_chunks, *A.shape)  # (B, K, N, E)
        ctx.save_for_backward(u, dt, A, B, C, D, checkpoints)
        return _scan(u, dt, A, B, C, D, h0, checkpoints)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy, dh):
        u, dt, A, B, C, D, checkpoints = ctx.saved_tensors
        batch_size, length, channels = u.shape
        sizes = _sizes(A)
        num_blocks = triton.cdiv(channels, sizes["BLOCK_E"])
        scratch = u.new_empty(batch_size, CHUNK, *A.shape)
        du = torch.empty_like(u)
        ddt = torch.empty_like(u)
        # Parts that no two programs share, summed below: the kernel needs no atomics.
        dA = A.new_empty(batch_size, *A.shape)  # (B, N, E)
        dD = D.new_empty(batch_size, channels)
        dh0 = A.new_empty(batch_size, *A.shape)
        dB = B.new_empty(batch_size, num_blocks, *B.shape[1:])  # (B, G, L, N)
        dC = C.new_empty(batch_size, num_blocks, *C.shape[1:])
        operands = (u, dt, A, B, C, D, checkpoints)
        incoming = (dy.contiguous(), dh.contiguous())
        gradients = (du, ddt, dA, dB, dC, dD, dh0)
        grid = (batch_size * num_blocks,)
        with torch.cuda.device_of(u):
            _backward[grid](*operands, *incoming, scratch, *gradients, length, **sizes)
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
    """Run the forward kernel with A (N, E); it fills `checkpoints` (B, K, N, E) unless None."""
    batch_size, length, channels = u.shape
    y = torch.empty_like(u)
    h = torch.empty_like(h0)
    sizes = _sizes(A)
    num_blocks = triton.cdiv(channels, sizes["BLOCK_E"])
    grid = (batch_size * num_blocks,)
    with torch.cuda.device_of(u):
        _forward[grid](u, dt, A, B, C, D, h0, y, h, checkpoints, length, **sizes)
    return y, h


def _sizes(A: Tensor) -> dict[str, int]:
    """Return the compile-time arguments of the kernels for A (N, E)."""
    num_states, channels = A.shape
    # Triton's blocks have powers of two; masks leave out what does not exist.
    padded_states = triton.next_power_of_2(num_states)
    block_channels = max(8, min(32, TILE // padded_states))
    return {
        "E": channels,
        "N": num_states,
        "BLOCK_E": block_channels,
        "BLOCK_N": padded_states,
        "CHUNK": CHUNK,
        "STAGES": STAGES,
        "num_warps": 1,
    }


@triton.jit(do_not_specialize=["L"])
def _forward(
    u,
    dt,
    A,
    B,
    C,
    D,
    h0,
    y,
    h_last,
    checkpoints,
    L,
    E: tl.constexpr,
    N: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Compute y, h_last and checkpoints (may be None) for one row and block of channels."""
    row, e, n, state, in_e, in_n, in_state = _block(E, N, BLOCK_E, BLOCK_N)
    A_ne = tl.load(A + state, in_state, 0.0)
    D_e = tl.load(D + e, in_e, 0.0)
    row_state = row * N * E + state
    h = tl.load(h0 + row_state, in_state, 0.0)
    for t in tl.range(0, L, num_stages=STAGES):
        step = row * L + t
        at_e = step * E + e
        at_n = step * N + n
        if checkpoints is not None:
            chunk = row * tl.cdiv(L, CHUNK) + t // CHUNK
            # A masked store instead of a branch keeps the loop a plain pipeline of loads.
            starts_chunk = t % CHUNK == 0
            tl.store(checkpoints + chunk * N * E + state, h, in_state & starts_chunk)
        dt_e = tl.load(dt + at_e, in_e, 0.0)
        u_e = tl.load(u + at_e, in_e, 0.0)
        B_n = tl.load(B + at_n, in_n, 0.0)
        C_n = tl.load(C + at_n, in_n, 0.0)
        decay = tl.exp(dt_e[None, :] * A_ne)
        input_e = dt_e * u_e
        h = decay * h + input_e[None, :] * B_n[:, None]
        y_e = tl.sum(C_n[:, None] * h, 0) + D_e * u_e
        tl.store(y + at_e, y_e, in_e)
    tl.store(h_last + row_state, h, in_state)


@triton.jit(do_not_specialize=["L"])
def _backward(
    u,
    dt,
    A,
    B,
    C,
    D,
    checkpoints,
    dy,
    dh_last,
    scratch,
    du,
    ddt,
    dA,
    dB,
    dC,
    dD,
    dh0,
    L,
    E: tl.constexpr,
    N: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Compute the gradients for one row and block of channels, last chunk first."""
    row, e, n, state, in_e, in_n, in_state = _block(E, N, BLOCK_E, BLOCK_N)
    program = tl.program_id(0).to(tl.int64)
    A_ne = tl.load(A + state, in_state, 0.0)
    D_e = tl.load(D + e, in_e, 0.0)
    row_state = row * N * E + state
    dh = tl.load(dh_last + row_state, in_state, 0.0)
    dA_ne = tl.zeros_like(dh)
    dD_e = tl.zeros_like(D_e)
    # The scratch memory of this program: the state before each step of the current chunk.
    previous = scratch + row * CHUNK * N * E + state
    chunks = tl.cdiv(L, CHUNK)
    for i in range(chunks):
        chunk = chunks - 1 - i
        first = chunk * CHUNK
        steps = tl.minimum(L - first, CHUNK)
        tl.debug_barrier()  # a thread may read from scratch what another thread wrote
        h = tl.load(checkpoints + (row * chunks + chunk) * N * E + state, in_state, 0.0)
        start = row * L + first
        _store_states(
            u, dt, B, A_ne, h, previous, start, steps, e, n, in_e, in_n, in_state, E, N, STAGES
        )
        tl.debug_barrier()
        part = program * L + first
        dh, dA_ne, dD_e = _chunk_gradients(
            u, dt, B, C, dy, du, ddt, dB, dC,
            A_ne, D_e, previous, dh, dA_ne, dD_e,
            start, part, steps, e, n, in_e, in_n, in_state, E, N, STAGES,
        )  # fmt: skip
    tl.store(dh0 + row_state, dh, in_state)
    tl.store(dA + row_state, dA_ne, in_state)
    tl.store(dD + row * E + e, dD_e, in_e)


# Inlined into `_backward`. `start` is the first step of the chunk among the steps of all rows.
@triton.jit
def _store_states(
    u,
    dt,
    B,
    A_ne,
    h,
    previous,
    start,
    steps,
    e,
    n,
    in_e,
    in_n,
    in_state,
    E: tl.constexpr,
    N: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Recompute a chunk from the state h before it; store the state before each step."""
    for s in tl.range(0, steps, num_stages=STAGES):
        step = start + s
        at_e = step * E + e
        tl.store(previous + s * N * E, h, in_state)
        dt_e = tl.load(dt + at_e, in_e, 0.0)
        u_e = tl.load(u + at_e, in_e, 0.0)
        B_n = tl.load(B + step * N + n, in_n, 0.0)
        decay = tl.exp(dt_e[None, :] * A_ne)
        input_e = dt_e * u_e
        h = decay * h + input_e[None, :] * B_n[:, None]


# Inlined into `_backward`. `part` is `start` for results that each program has a part of.
@triton.jit
def _chunk_gradients(
    u,
    dt,
    B,
    C,
    dy,
    du,
    ddt,
    dB,
    dC,
    A_ne,
    D_e,
    previous,
    dh,
    dA_ne,
    dD_e,
    start,
    part,
    steps,
    e,
    n,
    in_e,
    in_n,
    in_state,
    E: tl.constexpr,
    N: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Store the gradients of each step of a chunk; return those of h, A and D so far."""
    for j in tl.range(0, steps, num_stages=STAGES):
        s = steps - 1 - j
        step = start + s
        at_e = step * E + e
        at_n = step * N + n
        dt_e = tl.load(dt + at_e, in_e, 0.0)
        u_e = tl.load(u + at_e, in_e, 0.0)
        dy_e = tl.load(dy + at_e, in_e, 0.0)
        B_n = tl.load(B + at_n, in_n, 0.0)
        C_n = tl.load(C + at_n, in_n, 0.0)
        decay = tl.exp(dt_e[None, :] * A_ne)
        decayed = decay * tl.load(previous + s * N * E, in_state, 0.0)
        input_e = dt_e * u_e
        state_after = decayed + input_e[None, :] * B_n[:, None]
        dC_n = tl.sum(dy_e[None, :] * state_after, 1)
        dh += dy_e[None, :] * C_n[:, None]
        dB_n = tl.sum(dh * input_e[None, :], 1)
        dinput_e = tl.sum(dh * B_n[:, None], 0)
        dexponent = dh * decayed
        dh *= decay  # from here on, the gradient of the state before this step
        dA_ne += dexponent * dt_e[None, :]
        dD_e += dy_e * u_e
        ddt_e = dinput_e * u_e + tl.sum(dexponent * A_ne, 0)
        du_e = dinput_e * dt_e + dy_e * D_e
        tl.store(ddt + at_e, ddt_e, in_e)
        tl.store(du + at_e, du_e, in_e)
        at_part = (part + s) * N + n
        tl.store(dB + at_part, dB_n, in_n)
        tl.store(dC + at_part, dC_n, in_n)
    return dh, dA_ne, dD_e


@triton.jit
def _block(
    E: tl.constexpr,
    N: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Return the row, channels, states and (N, E) offsets of this program, and their masks."""
    blocks = tl.cdiv(E, BLOCK_E)
    # In 64 bits, like every offset derived from it: tensors may have more than 2^31 numbers.
    row = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    e = block * BLOCK_E + tl.arange(0, BLOCK_E)
    n = tl.arange(0, BLOCK_N)
    state = n[:, None] * E + e[None, :]
    in_e = e < E
    in_n = n < N
    in_state = in_n[:, None] & in_e[None, :]
    return row, e, n, state, in_e, in_n, in_state
