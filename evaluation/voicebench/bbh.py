"""BIG-Bench Hard, four of its tasks: reading yes or no, or option a or b, from an answer."""

import re
from typing import NamedTuple

from evaluation.voicebench.mcq import stated_letter
from evaluation.voicebench.phrases import first_match, without_marker

TASKS = ("sports_understanding", "hyperbaton", "navigate", "web_of_lies")
REFERENCE_VALUES = {"no": 0, "yes": 1, "(a)": 0, "(b)": 1}
# No bare `no`: "no, he is" denies a question, not the claim that follows it.
NEGATION = (
    r"\b(?:not|never|no longer|cannot|isn't|aren't|doesn't|don't|didn't|haven't|hasn't|won't|"
    r"wouldn't|can't|wasn't)\b"
)


class Claim(NamedTuple):
    """Patterns of words that answer a task's question without saying yes or no."""

    affirmative: str
    negative: str
    """Words that deny by themselves, without a negation."""


CLAIMS = {
    "sports_understanding": Claim(
        r"\b(?:plausible|possible|likely)\b", r"\b(?:implausible|impossible|unlikely)\b"
    ),
    "navigate": Claim(
        r"\b(?:return\w*|back|end up|at)\b[^.!?]*\b(?:start\w*|began|origin\w*)\b", r"\baway from\b"
    ),
    "web_of_lies": Claim(
        r"\b(?:tell|tells|telling|told|says?)\b[^.!?]*\btruth\b", r"\b(?:lies|lying|liar|a lie)\b"
    ),
}
ANSWER_WORD = r"(?i)\banswer\W+(?:is\W+|to the question is\W+)?(yes|no|true|false)\b"
FIRST_WORD = r"(?i)\W*(yes|no)\b"
LAST_WORD = r"(?i)\b(yes|no)\W*\Z"


def task_of(item_id: str) -> str:
    """Task that the identifier of an item names. Raises ValueError: it names none."""
    for task in TASKS:
        if task in item_id:
            return task
    raise ValueError(
        f"id={item_id!r} names no task of bbh; it should hold one of {', '.join(TASKS)}"
    )


def official_answer(response: str, task: str) -> int | None:
    """Read an answer as the official scorer does: by the first rule of the task that fits.

    That scorer takes a bare `b` for option a, cannot read `(b)` or `Option B`, and takes
    `The sentence ... is not plausible` for yes.

    Returns:
        0 for no or option a, 1 for yes or option b, None if no rule fits.
    """
    text = _simplify(response)
    # Hyperbaton asks which of two sentences is right; the other tasks are yes-or-no questions.
    if task != "hyperbaton":
        answer = first_match("yes_no", text)
        if answer is not None:
            return answer
    return first_match(task, text)


def _simplify(response: str) -> str:
    """Lower case without markers and most punctuation; apostrophes stay."""
    text = response.lower()
    # Some systems write the markers of their chat template into their answers.
    if text.endswith("<|user|>"):
        text = text.removesuffix("<|user|>").strip()
    text = without_marker(text).replace("<|turn_end|>", "").replace("**", " ")
    return " ".join(re.sub(r'[:"\-,.：]', " ", text).split())


def stated_answer(response: str, task: str) -> int | None:
    """Read an answer as a person does: yes or no if the answer says so, else its last claim.

    Returns:
        0 for no or option a, 1 for yes or option b, None if the answer states neither.
    """
    text = without_marker(response.strip().replace("’", "'"))
    if task == "hyperbaton":
        letter = stated_letter(text, "AB")
        return None if letter is None else "AB".index(letter)
    # From the most explicit to the least: "the answer is no", "No, ...", "... so no".
    match = re.search(ANSWER_WORD, text)
    if match is None:
        match = re.match(FIRST_WORD, text)
    if match is None:
        match = re.search(LAST_WORD, text)
    if match is None:
        return _claimed_answer(text.lower(), CLAIMS[task])
    return int(match[1].lower() in ("yes", "true"))


def _claimed_answer(text: str, claim: Claim) -> int | None:
    """0 or 1 by the last sentence that makes the claim; a negation reverses its meaning."""
    # Backwards, since answers that reason step by step conclude at the end.
    for sentence in reversed(re.split(r"[.!?\n]+", text)):
        denies = re.search(claim.negative, sentence) is not None
        affirms = re.search(claim.affirmative, sentence) is not None
        if denies or affirms:
            is_negated = re.search(NEGATION, sentence) is not None
            return int(denies == is_negated)
    return None
