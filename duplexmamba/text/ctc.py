"""Connectionist temporal classification: labels of frames without a known alignment.

Glossary: B rows, T frames, L labels, V vocabulary with the blank.
Sources: Graves et al. 2006; the search over prefixes, Hannun et al. 2014, arXiv 1408.2873, without its language model.
"""

import math
from collections import defaultdict

import torch
import torch.nn.functional as F
from torch import Tensor

from duplexmamba.streaming.padded import Padded


def ctc_loss(logits: Padded, labels: Padded, blank: int = 0) -> Tensor:
    """Mean negative log likelihood per label: logits (B, T, V), labels (B, L), none of them the blank.

    A row with more labels than its frames can carry counts as zero.
    """
    log_probs = logits.values.float().log_softmax(-1).transpose(0, 1)
    lengths, label_lengths = logits.row_lengths(), labels.row_lengths()
    total = F.ctc_loss(
        log_probs, labels.values, lengths, label_lengths, blank, "sum", zero_infinity=True
    )
    return total / label_lengths.sum().clamp_min(1)


def ctc_log_likelihood(logits: Padded, labels: Padded, blank: int = 0) -> Tensor:
    """(B,) of logits (B, T, V) and labels (B, L); minus infinity where the frames cannot carry them."""
    log_probs = logits.values.float().log_softmax(-1).transpose(0, 1)
    return -F.ctc_loss(
        log_probs, labels.values, logits.row_lengths(), labels.row_lengths(), blank, "none"
    )


def ctc_greedy(logits: Padded) -> list[list[int]]:
    """Likeliest label of each frame, repeats merged, blanks (0) dropped."""
    best = logits.values.argmax(-1)
    rows = []
    for row, length in zip(best, logits.row_lengths().tolist(), strict=True):
        merged = torch.unique_consecutive(row[:length])
        rows.append(merged[merged != 0].tolist())
    return rows


def ctc_beam(logits: Tensor, width: int, blank: int = 0) -> list[list[int]]:
    """Up to `width` likely label sequences of one row's (T, V) logits, likeliest first.

    Each frame goes on with the `width` sequences that are likeliest so far, by its `width` likeliest labels and the
    blank.
    """
    log_probs = logits.float().log_softmax(-1)
    values, labels = log_probs.topk(min(width, log_probs.shape[-1]))
    beam: dict[tuple[int, ...], tuple[float, float]] = {
        (): (0.0, -math.inf)
    }  # behind a blank, behind a label
    for frame in zip(labels.tolist(), values.tolist(), log_probs[:, blank].tolist(), strict=True):
        blanks: dict[tuple[int, ...], float] = defaultdict(lambda: -math.inf)
        spoken: dict[tuple[int, ...], float] = defaultdict(lambda: -math.inf)
        for prefix, (after_blank, after_label) in beam.items():
            both = _add(after_blank, after_label)
            blanks[prefix] = _add(blanks[prefix], both + frame[2])
            for label, log_prob in zip(*frame[:2], strict=True):
                if label == blank:
                    continue
                if prefix and label == prefix[-1]:
                    spoken[prefix] = _add(spoken[prefix], after_label + log_prob)
                    spoken[*prefix, label] = _add(spoken[*prefix, label], after_blank + log_prob)
                else:
                    spoken[*prefix, label] = _add(spoken[*prefix, label], both + log_prob)
        found = {prefix: (blanks[prefix], spoken[prefix]) for prefix in {**blanks, **spoken}}
        beam = dict(sorted(found.items(), key=lambda item: -_add(*item[1]))[:width])
    return [list(prefix) for prefix in beam]


def _add(a: float, b: float) -> float:
    """Log of the sum of two probabilities, given by their logs."""
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
