"""The loss of the language model.

Glossary: V vocabulary.
"""

import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""Label of a position that carries no loss."""


def token_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross entropy in nats: logits (..., V), labels (...) int64, those equal to IGNORED left out."""
    flat = logits.flatten(0, -2)
    return F.cross_entropy(flat, labels.flatten(), ignore_index=IGNORED, label_smoothing=smoothing)
