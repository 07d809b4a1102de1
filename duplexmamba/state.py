"""Streaming state is a value: a tree of frozen dataclasses and tuples with tensors at the leaves, rows first.

A fork is a reference, a rollback another: nothing changes a state in place.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
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
    """The rows of all, one below the other."""
    return _map(lambda *leaves: torch.cat(leaves), *states)


def reset(state: State, rows: Tensor) -> State:
    """Begin the stream of these rows (B,) bool anew; zero is every room's beginning."""
    return map_state(lambda t: t.masked_fill(rows.view(-1, *[1] * (t.dim() - 1)), 0), state)


def num_bytes(state: Any) -> int:
    """Bytes of all tensors."""
    return sum(leaf.numel() * leaf.element_size() for leaf in _leaves(state))


def _leaves(node: Any) -> Iterator[Tensor]:
    if isinstance(node, Tensor):
        yield node
    elif node is not None:
        children = node if isinstance(node, tuple) else [getattr(node, f.name) for f in dataclasses.fields(node)]
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
    return type(node)(**{name: _map(function, *(getattr(n, name) for n in nodes)) for name in names})
