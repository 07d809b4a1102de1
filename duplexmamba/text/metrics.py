"""Scores of strings against strings."""

from collections.abc import Sequence

import jiwer

from duplexmamba.text.tokenizer import normalise


def error_rates(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, float]:
    """Word and character error rate of the whole set, both sides through `normalise`: {"wer", "cer"}.

    Raises:
        ValueError: no reference holds a word.
    """
    pairs = [(normalise(r), normalise(h)) for r, h in zip(references, hypotheses, strict=True)]
    pairs = [(r, h) for r, h in pairs if r]
    if not pairs:
        raise ValueError("no reference transcript holds a word: there is nothing to score against")
    refs, hyps = [r for r, _ in pairs], [h for _, h in pairs]
    return {"wer": jiwer.wer(refs, hyps), "cer": jiwer.cer(refs, hyps)}


def exact_match(pairs: Sequence[tuple[str, str]]) -> float:
    """Share of (reference, hypothesis) pairs that are equal."""
    return sum(reference == hypothesis for reference, hypothesis in pairs) / len(pairs)


def macro_f1(pairs: Sequence[tuple[str, str]]) -> float:
    """Mean over the classes that occur among the references, of (reference, hypothesis) pairs, of their F1."""
    classes = {reference for reference, _ in pairs}
    return sum(f1(pairs, name) for name in classes) / len(classes)


def f1(pairs: Sequence[tuple[str, str]], name: str) -> float:
    """Harmonic mean of precision and recall of one class."""
    both = sum(reference == hypothesis == name for reference, hypothesis in pairs)
    return (
        2
        * both
        / sum((reference == name) + (hypothesis == name) for reference, hypothesis in pairs)
    )
