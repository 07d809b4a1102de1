"""The phrases that VoiceBench's scorers look for, and what the scorers share."""

import functools
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
TURN_MARKERS = ("<1>", "<2>", "<3>")
"""With which some models begin their answers; no part of them."""
PLACES = {" ": "{}", "<": r"\A{}", ">": r"{}\Z", "=": r"\A{}\Z"}


@functools.cache
def phrases(name: str) -> tuple[str, ...]:
    """One of the lists of phrases.json, in the official order, which decides where several fit."""
    return tuple(json.loads(Path(__file__).with_name("phrases.json").read_text("utf-8"))[name])


@functools.cache
def rules(name: str) -> tuple[tuple[int, re.Pattern[str]], ...]:
    """Answers, 0 or 1, and the patterns that mean them; a rule with a letter is two, of option a and of option b."""
    found = []
    for rule in phrases(name):
        answer, place, words = rule[0], rule[1], rule[2:]
        for number, letter in enumerate("ab") if answer == "@" else [(int(answer), "@")]:
            pattern = re.escape(words.replace("@", letter)).replace(r"\*", ".+?")
            found.append((number, re.compile(PLACES[place].format(pattern))))
    return tuple(found)


def first(name: str, text: str) -> int | None:
    """The answer of the first rule that fits."""
    return next((answer for answer, pattern in rules(name) if pattern.search(text)), None)


def unmarked(response: str) -> str:
    """Without a marker at the beginning."""
    return response[3:].strip() if response.startswith(TURN_MARKERS) else response


def guess(options: Sequence[T], seed: str) -> T:
    """Any of them, the same for the same seed: what the official scorers do with an answer that they cannot read."""
    return random.Random(seed).choice(options)
