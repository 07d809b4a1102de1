"""Gradient checkpointing: what happens within a block is computed again for its gradient instead of being kept."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from duplexmamba.models.blocks import ConvBlock, TransformerBlock
from duplexmamba.models.lm import MambaBlock
from duplexmamba.models.transformer import BLOCK

BLOCKS = (ConvBlock, TransformerBlock, MambaBlock, BLOCK)


def checkpoint_activations(model: nn.Module) -> None:
    """From now on, of every block of encoder and language model, only the input is kept for the gradient."""
    for block in model.modules():
        if isinstance(block, BLOCKS):
            block.forward = functools.partial(_forward, block.forward)  # type: ignore[method-assign]


def _forward(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
