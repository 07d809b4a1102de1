"""Sizes of baselines that match the number of parameters of the published parts."""

from collections.abc import Callable

import torch
from torch import nn


def num_parameters(build: Callable[[], nn.Module]) -> int:
    """Number of parameters of the module that `build` makes, without allocating them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters())


def nearest_multiple(value: float, unit: int) -> int:
    """The multiple of `unit` that is nearest to `value`, at least one `unit`."""
    return max(1, round(value / unit)) * unit
