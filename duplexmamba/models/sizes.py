"""Parameter counts and derived widths: variants of a part get equally many parameters."""

from collections.abc import Callable

import torch
from torch import nn

ALIGNMENT = 8
"""Derived widths are multiples of this, a size that matrix units handle well."""


def num_parameters(build: Callable[[], nn.Module]) -> int:
    """Return the number of parameters of a module, without allocating or drawing its weights.

    Args:
        build: returns the module; called once, on the meta device.
    """
    with torch.device("meta"):
        module = build()
    return sum(parameter.numel() for parameter in module.parameters())


def nearest_multiple(value: float, unit: int) -> int:
    """Return the positive multiple of `unit` that is nearest to `value`."""
    return unit * max(1, round(value / unit))
