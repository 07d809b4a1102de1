"""Activation checkpointing: blocks are computed again in the backward pass to save memory."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from duplexmamba.models.blocks import ConvBlock, TransformerBlock
from duplexmamba.models.language_models.mamba_lm import MixerBlock
from duplexmamba.models.language_models.transformer_lm import BLOCK
from duplexmamba.streaming.padded import Padded

BLOCKS = (ConvBlock, TransformerBlock, MixerBlock, BLOCK)
"""Classes of the blocks of encoders and language models."""


def checkpoint_activations(model: nn.Module) -> None:
    """Let every block save only its input, and compute the rest again in the backward pass."""
    for block in model.modules():
        if isinstance(block, BLOCKS):
            recomputed = functools.partial(_forward, block.forward)
            block.forward = recomputed  # type: ignore[method-assign]


def _forward(forward: Callable[..., Any], x: Padded | Tensor, *args: Any, **kwargs: Any) -> Any:
    # in validation there is nothing to recompute
    if not torch.is_grad_enabled():
        return forward(x, *args, **kwargs)
    # torch saves the random generators of the devices of the tensors among the arguments, so that
    # dropout is drawn again as it was; it does not look for tensors within a Padded
    values = x.values if isinstance(x, Padded) else x
    run = functools.partial(_without_values, forward)
    return checkpoint(run, values, x, *args, use_reentrant=False, **kwargs)


def _without_values(forward: Callable[..., Any], _: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Run a block, whose other arguments hold the tensor as well."""
    return forward(*args, **kwargs)
