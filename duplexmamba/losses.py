"""Losses over padded rows.

Glossary: B rows, T frames, L tokens, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from duplexmamba.padded import Padded

IGNORED = -100
"""Label of a position that carries no loss."""


def token_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross entropy in nats: logits (..., V), labels (...) int64, those equal to IGNORED left out."""
    flat = logits.flatten(0, -2)
    return F.cross_entropy(flat, labels.flatten(), ignore_index=IGNORED, label_smoothing=smoothing)


def ctc_loss(logits: Padded, labels: Padded, blank: int = 0) -> Tensor:
    """Mean negative log likelihood per label: logits (B, T, V), labels (B, L), none of them the blank.

    A row with more labels than its frames can carry counts as zero.
    """
    log_probs = logits.values.float().log_softmax(-1).transpose(0, 1)
    lengths, label_lengths = logits.row_lengths(), labels.row_lengths()
    total = F.ctc_loss(log_probs, labels.values, lengths, label_lengths, blank, "sum", zero_infinity=True)
    return total / label_lengths.sum().clamp_min(1)


def ctc_greedy(logits: Padded) -> list[list[int]]:
    """Likeliest label of each frame, repeats merged, blanks dropped."""
    best = logits.values.argmax(-1)
    rows = []
    for row, length in zip(best, logits.row_lengths().tolist(), strict=True):
        merged = torch.unique_consecutive(row[:length])
        rows.append(merged[merged != 0].tolist())
    return rows
