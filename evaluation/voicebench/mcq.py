"""Multiple choice: which letter an answer names."""

import functools
import re

from evaluation.voicebench.phrases import phrases, unmarked

LETTERS = "ABCD"
AFTER_A_LETTER = (".", ",", ":", ")")
OPEN, SHUT = r"[*\"'“‘(\[{]*", r"[*\"'”’)\]}]*"
SAID = (
    r"\b(?:answer|option|choice|choose|select|pick)"
    r"(?:\s+(?:is|was|be|would|should|the|option|choice|letter|likely))*"
)
GOES_ON = r"\s+(?:is|was|would|because|since|as|seems|has|follows|or|and)\b(?!\s+(?:not|wrong|incorrect)\b)"
"""What comes after a letter and never after an article."""


def official_letter(response: str) -> str | None:
    """As the official scorer reads it: the first of its templates that holds one of the letters, anywhere.

    It takes the article of `the answer is a dog` for A, and reads neither `Answer: D` nor `I think it is b`.
    """
    text = unmarked(response.lower())
    for template in phrases("choices"):
        for letter in LETTERS:
            if template.replace("@", letter.lower()) in text:
                return letter
    for letter in LETTERS:
        begun = tuple(letter.lower() + mark for mark in AFTER_A_LETTER)
        if text == letter.lower() or text.startswith(begun):
            return letter
    return None


def stated_letter(response: str, letters: str = LETTERS) -> str | None:
    """The letter that an answer states, as a person reads it: the one it begins with, the last that it calls its
    answer, or the only one that it names. A word `a` is none."""
    text = unmarked(response.strip())
    alone, said, named = _patterns(letters)
    if found := alone.match(text):
        return found[1].upper()
    if calls := said.findall(text):
        return str(calls[-1]).upper()
    only = {letter.upper() for letter in named.findall(text)}
    return only.pop() if len(only) == 1 else None


@functools.cache
def _patterns(letters: str) -> tuple[re.Pattern[str], ...]:
    """A letter at the beginning and alone, one that is called the answer, any."""
    letter = rf"{OPEN}\b([{letters}])(?![\w’]|'\w){SHUT}"
    any_letter = rf"(?<![\w’'])\s*{letter}(?=\s*(?:[.,:;!?]|\Z)|{GOES_ON}|\n)"
    alone = rf"(?:option\s+|choice\s+)?{letter}(?=\s*(?:[.:]|\Z|\n)|\))"
    return tuple(
        re.compile(p, re.IGNORECASE) for p in (alone, rf"{SAID}\s*:?\s*{any_letter}", any_letter)
    )
