"""Activation checkpointing: blocks are computed again in the backward pass to save memory."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from duplexmamba.models.blocks import ConvBlock, TransformerBlock
from duplexmamba.models.language_models.mamba_lm import MambaBlock
from duplexmamba.models.language_models.transformer_lm import BLOCK

BLOCKS = (ConvBlock, TransformerBlock, MambaBlock, BLOCK)
"""Classes of the blocks of encoders and language models."""


def checkpoint_activations(model: nn.Module) -> None:
    """Let every block save only its input, and compute the rest again in the backward pass."""
    for block in model.modules():
        if isinstance(block, BLOCKS):
            recomputed = functools.partial(_forward, block.forward)
            block.forward = recomputed  # type: ignore[method-assign]


def _forward(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    # in validation there is nothing to recompute
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
