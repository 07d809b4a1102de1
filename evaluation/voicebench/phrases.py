"""The phrases that VoiceBench's scorers look for, and helpers that several scorers use."""

import functools
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
TURN_MARKERS = ("<1>", "<2>", "<3>")
"""Markers at the beginning of the answers of some models; they are not part of the answer."""
POSITIONS = {" ": "{}", "<": r"\A{}", ">": r"{}\Z", "=": r"\A{}\Z"}
"""Position of a phrase in an answer -> pattern: anywhere, at the start, at the end, alone."""


@functools.cache
def phrases(name: str) -> tuple[str, ...]:
    """A list of phrases.json, in the official order; if several phrases fit, the first counts."""
    file = Path(__file__).with_name("phrases.json")
    return tuple(json.loads(file.read_text("utf-8"))[name])


@functools.cache
def rules(name: str) -> tuple[tuple[int, re.Pattern[str]], ...]:
    """Pairs of an answer, 0 or 1, and a pattern that means it.

    The first letter of a rule in phrases.json is the answer, the second the position, and the rest
    the words. A rule with @ as its answer stands for two rules, of option a and of option b.
    """
    compiled = []
    for rule in phrases(name):
        answer = rule[0]
        position = rule[1]
        words = rule[2:]
        if answer == "@":
            variants = [(0, "a"), (1, "b")]
        else:
            variants = [(int(answer), "@")]
        for number, letter in variants:
            pattern = re.escape(words.replace("@", letter))
            # The only wildcard is a star: as few letters as possible, but at least one.
            pattern = pattern.replace(r"\*", ".+?")
            pattern = POSITIONS[position].format(pattern)
            compiled.append((number, re.compile(pattern)))
    return tuple(compiled)


def first_match(name: str, text: str) -> int | None:
    """The answer of the first rule that fits a text; None if no rule fits."""
    for answer, pattern in rules(name):
        if pattern.search(text):
            return answer
    return None


def without_marker(response: str) -> str:
    """A response without the marker at its beginning."""
    if not response.startswith(TURN_MARKERS):
        return response
    # all markers have three letters
    return response[3:].strip()


def guess(options: Sequence[T], seed: str) -> T:
    """Choose an option at random, always the same for the same seed.

    The official scorers guess when they cannot read an answer.
    """
    return random.Random(seed).choice(options)
