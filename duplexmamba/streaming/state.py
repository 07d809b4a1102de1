"""Streaming state is a value: a tree of frozen dataclasses and tuples with tensors at the leaves, rows first.

A fork is a reference, a rollback another: nothing changes a state in place.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

State = TypeVar("State")


def map_state(function: Callable[[Tensor], Tensor], state: State) -> State:
    """The same tree with `function` applied to every tensor."""
    return _map(function, state)


def clone(state: State) -> State:
    """A copy that shares no memory."""
    return map_state(torch.clone, state)


def detach(state: State) -> State:
    """The same values outside the graph."""
    return map_state(Tensor.detach, state)


def to(state: State, device: torch.device | str) -> State:
    """The state on another device."""
    return map_state(lambda t: t.to(device), state)


def select(state: State, rows: Tensor) -> State:
    """Rows by index (int64), in any order and number: fork a row by naming it twice, drop it by not naming it."""
    return map_state(lambda t: t[rows], state)


def join(states: Sequence[State]) -> State:
    """The rows of all, one below the other; what grows with time, the second dimension, gets zeros behind."""
    return states[0] if len(states) == 1 else _map(_stack, *states)


def rows(state: State) -> list[State]:
    """Each row by itself, in memory of its own: one that is kept does not keep the others."""
    count = len(next(_leaves(state)))
    return [state] if count == 1 else [_row(state, i) for i in range(count)]


def reset(state: State, rows: Tensor) -> State:
    """Begin the stream of these rows (B,) bool anew; zero is every room's beginning."""
    return map_state(lambda t: t.masked_fill(rows.view(-1, *[1] * (t.dim() - 1)), 0), state)


def num_bytes(state: Any) -> int:
    """Bytes of all tensors."""
    return sum(leaf.numel() * leaf.element_size() for leaf in _leaves(state))


def _row(state: State, i: int) -> State:
    return map_state(lambda t: t[i : i + 1].clone(), state)


def _stack(*leaves: Tensor) -> Tensor:
    if len({leaf.shape[1:] for leaf in leaves}) > 1:
        longest = max(leaf.shape[1] for leaf in leaves)
        leaves = tuple(F.pad(t, (0, 0) * (t.dim() - 2) + (0, longest - t.shape[1])) for t in leaves)
    return torch.cat(leaves)


def _leaves(node: Any) -> Iterator[Tensor]:
    if isinstance(node, Tensor):
        yield node
    elif node is not None:
        children = (
            node
            if isinstance(node, tuple)
            else [getattr(node, f.name) for f in dataclasses.fields(node)]
        )
        for child in children:
            yield from _leaves(child)


def _map(function: Callable[..., Tensor], *nodes: Any) -> Any:
    """One tree from trees of the same shape."""
    node = nodes[0]
    if isinstance(node, Tensor):
        return function(*nodes)
    if isinstance(node, tuple):
        return tuple(_map(function, *children) for children in zip(*nodes, strict=True))
    if node is None:
        return None
    names = [f.name for f in dataclasses.fields(node)]
    return type(node)(
        **{name: _map(function, *(getattr(n, name) for n in nodes)) for name in names}
    )
