"""IFEval: which of its instructions an answer follows, and the four accuracies made of that."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from evaluation.voicebench.instructions import CHECKS
from evaluation.voicebench.phrases import unmarked


class Followed(NamedTuple):
    """Of each instruction of an item, whether it was followed."""

    strict: list[bool]
    loose: list[bool]
    """Also by the answer without its first line, its last line, or its asterisks."""


def followed(
    response: str, kinds: Sequence[str], arguments: Sequence[Mapping[str, Any]]
) -> Followed:
    """Check one answer.

    Args:
        kinds, arguments: `instruction_id_list` and `kwargs` of the item.

    Raises:
        ValueError: a kind that IFEval does not have, or arguments that are not its own.
    """
    if len(kinds) != len(arguments):
        raise ValueError(
            f"{len(kinds)} instructions and {len(arguments)} kwargs; there is one for each"
        )
    checks = [_check(kind, given) for kind, given in zip(kinds, arguments, strict=True)]
    text = unmarked(response)
    strict = [bool(text.strip()) and check(text) for check in checks]
    return Followed(
        strict, [any(check(some) for some in loosened(text) if some.strip()) for check in checks]
    )


def _check(kind: str, given: Mapping[str, Any]) -> Any:
    """The check of a kind with its arguments; the data name all arguments of all kinds, most of them null."""
    if kind not in CHECKS:
        raise ValueError(f"{kind!r} is no instruction of IFEval; there are {', '.join(CHECKS)}")
    names = list(inspect.signature(CHECKS[kind]).parameters)[1:]
    own = {name: given[name] for name in names if given.get(name) is not None}
    if len(own) < len(names):
        raise ValueError(f"{kind} needs {', '.join(names)}, kwargs has {', '.join(own) or 'none'}")
    return lambda text: CHECKS[kind](text, **{name: _whole(value) for name, value in own.items()})


def _whole(value: Any) -> Any:
    """Counts are floats in data that were read by way of a table with gaps."""
    return int(value) if isinstance(value, float) else value


def loosened(text: str) -> list[str]:
    """The eight forms of an answer of which one has to pass."""
    lines = text.split("\n")
    cut = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*cut, *(some.replace("*", "") for some in cut)]


def accuracies(items: Sequence[Followed]) -> dict[str, float]:
    """Shares of prompts with all instructions followed, and of instructions, strict and loose.

    Their mean is VoiceBench's score.
    """
    found = {}
    for name, lists in (
        ("strict", [item.strict for item in items]),
        ("loose", [item.loose for item in items]),
    ):
        found[f"{name}_prompt"] = sum(map(all, lists)) / len(lists)
        found[f"{name}_instruction"] = sum(map(sum, lists)) / sum(map(len, lists))
    return found
