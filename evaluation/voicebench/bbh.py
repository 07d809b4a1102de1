"""BIG-Bench Hard, four of its tasks: what an answer of yes or no, or of option a or b, says."""

import re
from typing import NamedTuple

from evaluation.voicebench.mcq import stated_letter
from evaluation.voicebench.phrases import first, unmarked

TASKS = ("sports_understanding", "hyperbaton", "navigate", "web_of_lies")
VALUES = {"no": 0, "yes": 1, "(a)": 0, "(b)": 1}
"""Of references."""
NOT = r"\b(?:not|never|no longer|cannot|isn't|aren't|doesn't|don't|didn't|haven't|hasn't|won't|wouldn't|can't|wasn't)\b"


class Claim(NamedTuple):
    """Words that say yes or no to a task's question."""

    yes: str
    no: str
    """Says no by itself."""


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


def task_of(item_id: str) -> str:
    """Raises ValueError: an identifier of no task."""
    task = next((task for task in TASKS if task in item_id), None)
    if task is None:
        raise ValueError(
            f"id={item_id!r} names no task of bbh; it should hold one of {', '.join(TASKS)}"
        )
    return task


def official_answer(response: str, task: str) -> int | None:
    """As the official scorer reads it: the first rule of the task that fits.

    It reads a bare `b` as option a, cannot read `(b)` or `Option B`, and finds `The sentence ... is not plausible`
    plausible.
    """
    text = _plain(response)
    if task == "hyperbaton":
        return first(task, text)
    answer = first("yes_no", text)
    return first(task, text) if answer is None else answer


def _plain(response: str) -> str:
    """Lower case, without markers and most punctuation; apostrophes stay."""
    text = response.lower()
    if text.endswith("<|user|>"):
        text = text.removesuffix("<|user|>").strip()
    text = unmarked(text).replace("<|turn_end|>", "").replace("**", " ")
    return " ".join(re.sub(r'[:"\-,.：]', " ", text).split())


def stated_answer(response: str, task: str) -> int | None:
    """What an answer states, as a person reads it: yes or no where it says so, else its last claim."""
    text = unmarked(response.strip().replace("’", "'"))
    if task == "hyperbaton":
        letter = stated_letter(text, "AB")
        return None if letter is None else "AB".index(letter)
    said = re.search(r"(?i)\banswer\W+(?:is\W+|to the question is\W+)?(yes|no|true|false)\b", text)
    said = said or re.match(r"(?i)\W*(yes|no)\b", text) or re.search(r"(?i)\b(yes|no)\W*\Z", text)
    return int(said[1].lower() in ("yes", "true")) if said else _claimed(text.lower(), CLAIMS[task])


def _claimed(text: str, claim: Claim) -> int | None:
    """0 or 1 by the last sentence that makes the claim."""
    for sentence in reversed(re.split(r"[.!?\n]+", text)):
        denied, claimed = re.search(claim.no, sentence), re.search(claim.yes, sentence)
        if denied or claimed:
            return int(bool(denied) == bool(re.search(NOT, sentence)))
    return None
