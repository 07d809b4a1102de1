"""Streaming state as a value: a tree of frozen dataclasses and tuples with tensors as leaves.

Nothing changes a state in place. Forking a stream or rolling it back is therefore no more than
keeping a reference to an earlier state.

Glossary:
    B: rows. The first dimension of every leaf is the row of the batch.
    T: steps in time. Where a leaf grows with time, T is its second dimension.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from duplexmamba.streaming.padded import pad_steps

State = TypeVar("State")
"""A tree of tensors: a tensor, None, a tuple of trees or a dataclass of trees."""


def map_state(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply a function to every tensor of a state; the tree keeps its structure."""
    return _map(function, state)


def clone(state: State) -> State:
    """Copy a state into memory of its own."""
    return map_state(torch.clone, state)


def detach(state: State) -> State:
    """Detach every tensor from the autograd graph; values share memory with the original."""
    return map_state(Tensor.detach, state)


def to(state: State, device: torch.device | str) -> State:
    """Move a state to another device."""

    def move(leaf: Tensor) -> Tensor:
        return leaf.to(device)

    return map_state(move, state)


def select(state: State, rows: Tensor) -> State:
    """Select rows of a state by index.

    Args:
        state: B rows.
        rows: (n,) int64, in any order. An index that occurs twice forks its row; a row that does
            not occur is dropped.

    Returns:
        A state with n rows.
    """

    def take_rows(leaf: Tensor) -> Tensor:
        return leaf[rows]

    return map_state(take_rows, state)


def join(states: Sequence[State]) -> State:
    """Concatenate the rows of several states of the same structure.

    Leaves that grow with time are padded with zeros at the end of their second dimension.
    """
    if len(states) == 1:
        return states[0]
    return _map(_concatenate_rows, *states)


def rows(state: State) -> list[State]:
    """Split a state into states of one row each.

    Each has memory of its own, so that keeping one of them does not keep the whole batch alive.
    """
    num_rows = len(next(_leaves(state)))
    if num_rows == 1:
        return [state]
    return [_copy_row(state, index) for index in range(num_rows)]


def reset(state: State, rows: Tensor) -> State:
    """Set the rows where `rows` (B,) bool is True to zero, the state at the start of a stream."""

    def clear(leaf: Tensor) -> Tensor:
        ones = [1] * (leaf.dim() - 1)
        return leaf.masked_fill(rows.view(-1, *ones), 0)  # (B,) -> (B, 1, ...)

    return map_state(clear, state)


def num_bytes(state: Any) -> int:
    """Count the bytes of all tensors of a state."""
    return sum(leaf.numel() * leaf.element_size() for leaf in _leaves(state))


def _copy_row(state: State, index: int) -> State:
    def copy(leaf: Tensor) -> Tensor:
        return leaf[index : index + 1].clone()

    return map_state(copy, state)


def _concatenate_rows(*leaves: Tensor) -> Tensor:
    """Concatenate (B_i, T_i, ...) to (sum of B_i, max of T_i, ...)."""
    shapes = {leaf.shape[1:] for leaf in leaves}
    if len(shapes) == 1:
        return torch.cat(leaves)
    longest = max(leaf.shape[1] for leaf in leaves)
    padded = [pad_steps(leaf, longest - leaf.shape[1]) for leaf in leaves]
    return torch.cat(padded)


def _leaves(node: Any) -> Iterator[Tensor]:
    """Yield the tensors of a tree, depth first."""
    if isinstance(node, Tensor):
        yield node
        return
    for child in _children(node):
        yield from _leaves(child)


def _children(node: Any) -> Sequence[Any]:
    """Return the direct children of a node that is not a tensor."""
    if node is None:
        return ()
    if isinstance(node, tuple):
        return node
    return [getattr(node, field.name) for field in dataclasses.fields(node)]


def _map(function: Callable[..., Tensor], *nodes: Any) -> Any:
    """Build one tree from trees of the same structure, by a function of their leaves."""
    node = nodes[0]
    if isinstance(node, Tensor):
        return function(*nodes)
    if node is None:
        return None
    child_lists = [_children(each) for each in nodes]
    mapped = [_map(function, *children) for children in zip(*child_lists, strict=True)]
    if isinstance(node, tuple):
        return tuple(mapped)
    names = [field.name for field in dataclasses.fields(node)]
    return type(node)(**dict(zip(names, mapped, strict=True)))
