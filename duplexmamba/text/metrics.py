"""Scores that compare strings with reference strings."""

from collections.abc import Sequence

import jiwer

from duplexmamba.text.tokenizer import normalise, without_markers

Pairs = Sequence[tuple[str, str]]
"""(reference, hypothesis) pairs."""


def error_rates(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, float]:
    """Compute word and character error rates over a whole set.

    Args:
        references: correct transcripts.
        hypotheses: recognised text, in the same order. Both go through `normalise`.

    Returns:
        {"wer", "cer"} as fractions: edits over all pairs divided by the number of reference words
        or characters. Pairs whose reference is empty after normalisation do not count.

    Raises:
        ValueError: no reference contains a word.
    """
    scored_references = []
    scored_hypotheses = []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        normalised = normalise(reference)
        if not normalised:
            continue
        scored_references.append(normalised)
        scored_hypotheses.append(normalise(hypothesis))
    if not scored_references:
        raise ValueError(
            "no reference transcript contains a word: there is nothing to score against; "
            "check the transcripts of this data set"
        )
    return {
        "wer": jiwer.wer(scored_references, scored_hypotheses),
        "cer": jiwer.cer(scored_references, scored_hypotheses),
    }


def exact_match(pairs: Pairs) -> float:
    """Compute the fraction of (reference, hypothesis) pairs that have the same words.

    White space does not count: a model separates words by single spaces, whatever the reference
    does. Markers in a reference do not count either, since no response is trained to hold one.
    """
    num_equal = sum(_words(reference) == _words(hypothesis) for reference, hypothesis in pairs)
    return num_equal / len(pairs)


def _words(text: str) -> list[str]:
    return without_markers(text).split()


def accuracy(pairs: Pairs) -> float:
    """Compute the fraction of (reference, hypothesis) pairs of class names that are equal."""
    num_equal = sum(reference == hypothesis for reference, hypothesis in pairs)
    return num_equal / len(pairs)


def macro_f1(pairs: Pairs) -> float:
    """Compute the mean F1 over the classes that occur among the references of the pairs."""
    classes = {reference for reference, _ in pairs}
    return sum(f1(pairs, name) for name in classes) / len(classes)


def f1(pairs: Pairs, name: str) -> float:
    """Compute the F1 score of one class: the harmonic mean of its precision and recall.

    Raises:
        ZeroDivisionError: the class occurs neither as a reference nor as a hypothesis.
    """
    num_correct = sum(reference == hypothesis == name for reference, hypothesis in pairs)
    num_references = sum(reference == name for reference, _ in pairs)
    num_hypotheses = sum(hypothesis == name for _, hypothesis in pairs)
    return 2 * num_correct / (num_references + num_hypotheses)
