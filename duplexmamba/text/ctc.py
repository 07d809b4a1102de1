"""Connectionist temporal classification (CTC): label sequences for frames without an alignment.

Each frame emits one label or the blank. Repeated labels are merged and then blanks are removed, so
many frame sequences (alignments) stand for one label sequence.

Glossary:
    B: rows.
    T: frames.
    L: labels.
    V: vocabulary size, blank included.

Sources:
    Graves et al. 2006, "Connectionist Temporal Classification".
    Prefix search: Hannun et al. 2014, arXiv 1408.2873, here without its language model.
"""

import math
from collections import defaultdict
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from duplexmamba.streaming.padded import Padded

Prefix = tuple[int, ...]
Beam = dict[Prefix, tuple[float, float]]
"""Prefix -> log probabilities of its alignments that end in a blank, and that end in a label."""


def ctc_loss(logits: Padded, labels: Padded, blank: int = 0) -> Tensor:
    """Compute the mean negative log likelihood per label, in nats.

    Args:
        logits: (B, T, V).
        labels: (B, L), none of them the blank.
        blank: id of the blank.

    Returns:
        A scalar. A row with more labels than its frames can emit counts as zero.
    """
    label_lengths = labels.row_lengths()
    total = F.ctc_loss(
        _log_probs_time_first(logits),
        labels.values,
        logits.row_lengths(),
        label_lengths,
        blank,
        reduction="sum",
        zero_infinity=True,
    )
    return total / label_lengths.sum().clamp_min(1)


def ctc_log_likelihood(logits: Padded, labels: Padded, blank: int = 0) -> Tensor:
    """Compute the log likelihood of each row's labels, in nats.

    Args:
        logits: (B, T, V).
        labels: (B, L), none of them the blank.
        blank: id of the blank.

    Returns:
        (B,); minus infinity for a row with more labels than its frames can emit.
    """
    negative = F.ctc_loss(
        _log_probs_time_first(logits),
        labels.values,
        logits.row_lengths(),
        labels.row_lengths(),
        blank,
        reduction="none",
    )
    return -negative


def ctc_greedy(logits: Padded) -> list[list[int]]:
    """Decode the most likely label of each frame of (B, T, V); the blank is 0."""
    best = logits.values.argmax(-1)  # (B, T)
    rows = []
    for row, length in zip(best, logits.row_lengths().tolist(), strict=True):
        merged = torch.unique_consecutive(row[:length])
        rows.append(merged[merged != 0].tolist())
    return rows


def ctc_beam(logits: Tensor, width: int, blank: int = 0) -> list[list[int]]:
    """Search for the most likely label sequences of one row.

    Args:
        logits: (T, V).
        width: sequences kept after each frame, and labels considered per frame.
        blank: id of the blank.

    Returns:
        Up to `width` label sequences, the most likely one first.
    """
    log_probs = logits.float().log_softmax(-1)
    num_labels = min(width, log_probs.shape[-1])
    top_log_probs, top_labels = log_probs.topk(num_labels)  # (T, num_labels) each
    frames = zip(
        top_labels.tolist(),
        top_log_probs.tolist(),
        log_probs[:, blank].tolist(),
        strict=True,
    )
    beam: Beam = {(): (0.0, -math.inf)}
    for labels, label_log_probs, blank_log_prob in frames:
        candidates = list(zip(labels, label_log_probs, strict=True))
        extended = _extend(beam, candidates, blank, blank_log_prob)
        beam = _most_likely(extended, width)
    return [list(prefix) for prefix in beam]


def _log_probs_time_first(logits: Padded) -> Tensor:
    """(B, T, V) logits -> (T, B, V) log probabilities in float32, as F.ctc_loss takes them."""
    return logits.values.float().log_softmax(-1).transpose(0, 1)


def _extend(
    beam: Beam, candidates: list[tuple[int, float]], blank: int, blank_log_prob: float
) -> Beam:
    """Extend every prefix by one frame.

    Args:
        beam: prefixes after the frames so far.
        candidates: labels of this frame with their log probabilities.
        blank: id of the blank; where it is among the candidates it is ignored.
        blank_log_prob: log probability of the blank at this frame.
    """
    ends_in_blank: dict[Prefix, float] = defaultdict(lambda: -math.inf)
    ends_in_label: dict[Prefix, float] = defaultdict(lambda: -math.inf)
    for prefix, (after_blank, after_label) in beam.items():
        either = _log_add(after_blank, after_label)
        stayed = either + blank_log_prob
        ends_in_blank[prefix] = _log_add(ends_in_blank[prefix], stayed)
        for label, log_prob in candidates:
            if label == blank:
                continue
            for target, source in _targets(prefix, label, after_blank, after_label, either):
                gained = source + log_prob
                ends_in_label[target] = _log_add(ends_in_label[target], gained)
    prefixes = {**ends_in_blank, **ends_in_label}
    return {prefix: (ends_in_blank[prefix], ends_in_label[prefix]) for prefix in prefixes}


def _targets(
    prefix: Prefix, label: int, after_blank: float, after_label: float, either: float
) -> Iterator[tuple[Prefix, float]]:
    """Yield the prefixes that a label leads to, each with the log probability it comes from."""
    longer = (*prefix, label)
    if prefix and label == prefix[-1]:
        # The last label again: merged with it, or a new one where a blank came between.
        yield prefix, after_label
        yield longer, after_blank
    else:
        yield longer, either


def _most_likely(beam: Beam, width: int) -> Beam:
    """Keep the `width` most likely prefixes, the most likely one first."""

    def negative_log_prob(item: tuple[Prefix, tuple[float, float]]) -> float:
        after_blank, after_label = item[1]
        return -_log_add(after_blank, after_label)

    ranked = sorted(beam.items(), key=negative_log_prob)
    return dict(ranked[:width])


def _log_add(a: float, b: float) -> float:
    """Add two probabilities that are represented by their logarithms."""
    high = max(a, b)
    low = min(a, b)
    if low == -math.inf:
        return high
    return high + math.log1p(math.exp(low - high))
