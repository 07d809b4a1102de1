"""The optimiser and its learning rate schedule."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from configs.schema import OptimConfig
from duplexmamba.models.language_models.marker_rows import is_marker_row
from duplexmamba.models.speech_lm import part_of

ENCODER = "features"
"""Part of the model whose weights are those of a pretrained encoder."""


def build_optimizer(
    parameters: Iterable[tuple[str, nn.Parameter]], config: OptimConfig
) -> Optimizer:
    """AdamW for the parameters that are trained.

    Args:
        parameters: (name, parameter) of a stage, whose model is called `model`.
        config: learning rates, moments and weight decay.
    """
    # the configuration has a list, AdamW's type is a pair
    beta1, beta2 = config.betas
    return torch.optim.AdamW(
        parameter_groups(parameters, config),
        lr=config.lr,
        betas=(beta1, beta2),
        eps=config.eps,
        fused=True,
    )


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]], config: OptimConfig
) -> list[dict[str, Any]]:
    """Parameter groups for AdamW; those of a pretrained encoder with its own learning rate come last.

    Args:
        parameters: as in `build_optimizer`.
        config: learning rates and weight decay.
    """
    if config.encoder_lr is None:
        return decay_groups(parameters, config.weight_decay)
    others: list[tuple[str, nn.Parameter]] = []
    of_encoder: list[tuple[str, nn.Parameter]] = []
    for name, parameter in parameters:
        part = part_of(name.removeprefix("model."))
        members = of_encoder if part == ENCODER else others
        members.append((name, parameter))
    encoder_groups = decay_groups(of_encoder, config.weight_decay)
    for group in encoder_groups:
        group["lr"] = config.encoder_lr
    return decay_groups(others, config.weight_decay) + encoder_groups


def decay_groups(
    parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float
) -> list[dict[str, Any]]:
    """Parameter groups for AdamW, without the frozen parameters.

    Matrices decay. Vectors (norms, biases) and the logarithm of the scan's A do not: shrinking
    them towards zero has no meaning as a regulariser. Nor do the rows of new markers in a frozen
    language model, whose other rows keep their size.
    """
    decayed: list[nn.Parameter] = []
    not_decayed: list[nn.Parameter] = []
    for name, parameter in parameters:
        if not parameter.requires_grad:
            continue
        is_matrix = parameter.dim() > 1 and not is_marker_row(name)
        if is_matrix and not name.endswith("A_log"):
            decayed.append(parameter)
        else:
            not_decayed.append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": not_decayed, "weight_decay": 0.0},
    ]


def learning_rate_factor(config: OptimConfig, max_steps: int) -> Callable[[int], float]:
    """Map of an update to the factor on the peak learning rate.

    The rate rises linearly over the warm-up. Then it falls with the inverse square root of the
    update, or as a cosine that reaches zero at `max_steps`.
    """
    warmup_steps = max(config.warmup_steps, 1)

    def inverse_sqrt(step: int) -> float:
        return min((step + 1) / warmup_steps, (warmup_steps / (step + 1)) ** 0.5)

    def cosine(step: int) -> float:
        progress = (step - warmup_steps) / max(max_steps - warmup_steps, 1)
        # schedulers ask for one update more than there are
        progress = min(max(progress, 0.0), 1.0)
        decay = 0.5 * (1 + math.cos(math.pi * progress))
        return min((step + 1) / warmup_steps, decay)

    return cosine if config.schedule == "cosine" else inverse_sqrt
