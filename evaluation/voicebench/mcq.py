"""Multiple choice: reading a letter from an answer."""

import functools
import re
from typing import NamedTuple

from evaluation.voicebench.phrases import phrases, without_marker

LETTERS = "ABCD"
MARKS_AFTER_LETTER = (".", ",", ":", ")")
OPENING = r"[*\"'“‘(\[{]*"
CLOSING = r"[*\"'”’)\]}]*"
ANSWER_PHRASE = (
    r"\b(?:answer|option|choice|choose|select|pick)"
    r"(?:\s+(?:is|was|be|would|should|the|option|choice|letter|likely))*"
)
CONTINUATION = (
    r"\s+(?:is|was|would|because|since|as|seems|has|follows|or|and)\b"
    r"(?!\s+(?:not|wrong|incorrect)\b)"
)
"""Words that may follow a letter but not an article."""


def official_letter(response: str) -> str | None:
    """Read an answer as the official scorer does: by the first template that contains a letter.

    That scorer takes the article of `the answer is a dog` for A, and reads neither `Answer: D` nor
    `I think it is b`.

    Returns:
        The letter; None if no template fits.
    """
    text = without_marker(response.lower())
    for template in phrases("choices"):
        for letter in LETTERS:
            if template.replace("@", letter.lower()) in text:
                return letter
    # An answer that is a letter, alone or followed by the text of the option.
    for letter in LETTERS:
        beginnings = tuple(letter.lower() + mark for mark in MARKS_AFTER_LETTER)
        if text == letter.lower() or text.startswith(beginnings):
            return letter
    return None


def stated_letter(response: str, letters: str = LETTERS) -> str | None:
    """Read an answer as a person does.

    The letter is the one that the answer begins with, else the last one that it calls its answer,
    else the only one that it names. The article `a` is no letter.

    Returns:
        The letter; None if the answer states none.
    """
    text = without_marker(response.strip())
    patterns = _patterns(letters)
    leading = patterns.leading.match(text)
    if leading:
        return leading[1].upper()
    # The last one, since an answer that corrects itself does so at the end.
    called_answer = patterns.called_answer.findall(text)
    if called_answer:
        return str(called_answer[-1]).upper()
    named = {letter.upper() for letter in patterns.named.findall(text)}
    return named.pop() if len(named) == 1 else None


class _Patterns(NamedTuple):
    """Patterns whose only group is a letter."""

    leading: re.Pattern[str]
    """A letter at the beginning, alone."""
    called_answer: re.Pattern[str]
    """A letter that the text calls its answer."""
    named: re.Pattern[str]
    """Any letter that cannot be an article."""


@functools.cache
def _patterns(letters: str) -> _Patterns:
    """Compile the patterns for a set of letters."""
    # Not followed by another letter or an apostrophe: "B's" and "A'ight" name no option.
    letter = rf"{OPENING}\b([{letters}])(?![\w’]|'\w){CLOSING}"
    named = rf"(?<![\w’'])\s*{letter}(?=\s*(?:[.,:;!?]|\Z)|{CONTINUATION}|\n)"
    leading = rf"(?:option\s+|choice\s+)?{letter}(?=\s*(?:[.:]|\Z|\n)|\))"
    called_answer = rf"{ANSWER_PHRASE}\s*:?\s*{named}"
    return _Patterns(
        re.compile(leading, re.IGNORECASE),
        re.compile(called_answer, re.IGNORECASE),
        re.compile(named, re.IGNORECASE),
    )
