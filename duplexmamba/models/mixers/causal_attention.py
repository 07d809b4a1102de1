"""Causal self-attention of a language model over a bounded or an unbounded past.

Letters in shapes:
    B: rows of the batch
    L: new steps
    S: slots, each for the key and the value of one past step
    H: heads of queries
    G: heads of keys and values; H is a multiple of G
    P: channels of a head
    D: model width

Without a bound, the slot of a step is its position, and the state grows. With one, the slot is the
position modulo the bound, so that a new step takes the place of the oldest, and the state has the
same size always.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duplexmamba.models.mixers.mamba import at_least_float32
from duplexmamba.streaming.padded import Padded, Positions


@dataclasses.dataclass(frozen=True)
class KeyValueState:
    """Keys and values of the past; all zero at the start of a sequence."""

    keys: Tensor
    """(B, S, G, P), after rotation; zero in empty slots."""
    values: Tensor
    """(B, S, G, P); zero in empty slots."""
    lengths: Tensor
    """(B,) int64: steps of each row so far, and so the position of its next step."""


class CausalAttention(nn.Module):
    """(B, L, D) -> (B, L, D): a step sees itself and the steps before it.

    Args:
        num_heads: H; D is a multiple of it.
        num_kv_heads: G.
        window: steps before its own that a step sees; None for all of them.
        rotary_share: share of the channels of a head that rotary positions turn; 0 for a model
            without positions, which learns the order of steps from its recurrent layers.
        rotary_base: steps in which the slowest pair of channels would rotate by one radian.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        num_kv_heads: int,
        window: int | None,
        rotary_share: float,
        rotary_base: float,
    ):
        super().__init__()
        head_dim = d_model // num_heads
        self.head_dim = head_dim
        self.window = window
        self.num_rotated = int(rotary_share * head_dim)
        self.rotary_base = rotary_base
        self.sizes = [num_heads * head_dim, num_kv_heads * head_dim, num_kv_heads * head_dim]
        self.in_proj = nn.Linear(d_model, sum(self.sizes), bias=False)
        self.out_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(
        self,
        x: Padded,
        state: KeyValueState | None = None,
        return_states_at: Positions | None = None,
    ) -> tuple[Padded, KeyValueState]:
        """Attend to the past. An empty chunk returns one step of padding and keeps the state.

        Args:
            x: (B, L, D).
            state: what the previous chunk returned; None at the start of the sequences.
            return_states_at: return the states at these positions, as in `MambaLM.forward`.

        Returns:
            (B, L, D), and the state for the next chunk.
        """
        x = x.at_least_one_step()
        num_past = torch.zeros_like(x.row_lengths())  # (B,)
        if state is not None:
            num_past = state.lengths
        steps = torch.arange(x.values.shape[1], device=num_past.device)
        positions = num_past[:, None] + steps  # (B, L)
        queries, new_keys, new_values = self._project(x.values, positions)
        keys = new_keys
        values = new_values
        if state is not None:
            # under autocast new keys have fewer bits than those of a state may have
            keys = torch.cat([state.keys, new_keys.to(state.keys.dtype)], 1)  # (B, S + L, G, P)
            values = torch.cat([state.values, new_values.to(state.values.dtype)], 1)
        y = self._attend(queries, keys, values, self._mask(state, positions))
        num_slots = keys.shape[1] - new_keys.shape[1]
        at = return_states_at or row_ends(x)
        new_state = self._state_at(at, keys, values, num_past, num_slots)
        return x.with_values(self.out_proj(y)), new_state

    def _project(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L, D) -> (B, L, H, P) queries, (B, L, G, P) keys and values."""
        heads = []
        for part in self.in_proj(x).split(self.sizes, -1):
            heads.append(part.unflatten(-1, (-1, self.head_dim)))
        queries, keys, values = heads
        if self.num_rotated:
            queries = rotate(queries, positions, self.num_rotated, self.rotary_base)
            keys = rotate(keys, positions, self.num_rotated, self.rotary_base)
        return queries, keys, values

    def _mask(self, state: KeyValueState | None, positions: Tensor) -> Tensor | None:
        """Return (B, L, S + L) bool, which keys a step sees; None where it sees all before it."""
        num_steps = positions.shape[1]
        is_bounded = self.window is not None and num_steps > self.window
        if state is None and not is_bounded:
            return None
        key_positions = positions
        if state is not None:
            past = slot_positions(state.lengths, state.keys.shape[1], self.window)
            key_positions = torch.cat([past, positions], 1)
        distance = positions[:, :, None] - key_positions[:, None]  # (B, L, S + L)
        is_visible = (distance >= 0) & (key_positions >= 0)[:, None]
        if self.window is not None:
            is_visible &= distance <= self.window
        return is_visible

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, H, P) queries, (B, S + L, G, P) keys and values -> (B, L, D)."""
        num_heads = queries.shape[2]
        num_kv_heads = keys.shape[2]
        if mask is not None:
            # the same for all heads
            mask = mask[:, None]
        y = F.scaled_dot_product_attention(
            queries.transpose(1, 2),
            keys.transpose(1, 2),
            values.transpose(1, 2),
            attn_mask=mask,
            is_causal=mask is None,
            enable_gqa=num_heads != num_kv_heads,
        )
        return y.transpose(1, 2).flatten(2)

    def _state_at(
        self, at: Positions, keys: Tensor, values: Tensor, num_past: Tensor, num_slots_before: int
    ) -> KeyValueState:
        """Return the state at some positions.

        Args:
            at: positions in the new steps.
            keys: (B, S + L, G, P), those in slots and then the new ones.
            values: (B, S + L, G, P).
            num_past: (B,) steps of each row before the new ones.
            num_slots_before: S.
        """
        rows = at.rows[:, None]
        past = num_past[rows]  # (P, 1)
        lengths = past[:, 0] + at.steps
        num_slots = int(lengths.max()) if self.window is None else self.window
        wanted = slot_positions(lengths, num_slots, self.window)  # (B, S)
        # a step that is not new is in the same slot as before; the new ones follow all slots
        slots = torch.arange(num_slots, device=num_past.device)
        indices = slots.clamp(max=keys.shape[1] - 1).expand_as(wanted)
        indices = torch.where(wanted >= past, wanted - past + num_slots_before, indices)
        is_empty = (wanted < 0)[..., None, None]
        return KeyValueState(
            keys[rows, indices].masked_fill(is_empty, 0),
            values[rows, indices].masked_fill(is_empty, 0),
            lengths,
        )


def row_ends(x: Padded) -> Positions:
    """Return the position after the last step of every row."""
    lengths = x.row_lengths()
    return Positions(torch.arange(lengths.shape[0], device=lengths.device), lengths)


def slot_positions(lengths: Tensor, num_slots: int, window: int | None) -> Tensor:
    """Return the position of the step in each slot.

    Args:
        lengths: (B,) int64, steps of each row so far.
        num_slots: S; equal to `window` where that is a number.
        window: steps that are kept; None for all.

    Returns:
        (B, S) int64; -1 for an empty slot.
    """
    slots = torch.arange(num_slots, device=lengths.device)
    newest = lengths[:, None] - 1
    if window is None:
        positions = slots.expand(lengths.shape[0], -1)
    else:
        positions = newest - (newest - slots) % num_slots
    is_filled = (positions >= 0) & (positions <= newest)
    return positions.where(is_filled, -1)


def rotate(x: Tensor, positions: Tensor, num_rotated: int, base: float) -> Tensor:
    """Apply rotary positions to the first channels of each head.

    Args:
        x: (B, L, H, P).
        positions: (B, L) int64.
        num_rotated: channels that are turned, an even number.
        base: steps in which the slowest pair would rotate by one radian.
    """
    rotated, passed = x.split([num_rotated, x.shape[-1] - num_rotated], -1)
    rotated = at_least_float32(rotated)
    half = num_rotated // 2
    rates = base ** (-torch.arange(half, device=x.device, dtype=rotated.dtype) / half)
    angles = positions[..., None] * rates  # (B, L, half)
    # the same for all heads
    cos = angles.cos()[:, :, None]
    sin = angles.sin()[:, :, None]
    a, b = rotated.chunk(2, -1)
    turned = [a * cos - b * sin, a * sin + b * cos]
    return torch.cat([torch.cat(turned, -1).to(x.dtype), passed], -1)
