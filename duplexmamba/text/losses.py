"""The loss of the language model.

Glossary:
    V: vocabulary size.
"""

import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""Label of a position without loss, the value that torch's cross entropy ignores by default."""


def token_loss(
    logits: Tensor, labels: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """Compute the mean cross entropy over labelled positions, in nats.

    Args:
        logits: (..., V).
        labels: (...) int64 token ids; positions equal to IGNORED are left out of the mean.
        smoothing: label smoothing, 0 to 1.
        weights: (V,) weight of each id in a weighted mean; None: all are equal.

    Returns:
        A scalar.
    """
    flat_logits = logits.flatten(0, -2)
    return F.cross_entropy(
        flat_logits,
        labels.flatten(),
        weight=weights,
        ignore_index=IGNORED,
        label_smoothing=smoothing,
    )
