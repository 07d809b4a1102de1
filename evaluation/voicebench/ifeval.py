"""IFEval: which instructions an answer follows, and the four accuracies that result."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from evaluation.voicebench.instructions import CHECKS
from evaluation.voicebench.phrases import without_marker


class Followed(NamedTuple):
    """For each instruction of an item, whether the answer follows it."""

    strict: list[bool]
    loose: list[bool]
    """Also true if the answer without its first line, last line or asterisks follows it."""


def followed(
    response: str, kinds: Sequence[str], arguments: Sequence[Mapping[str, Any]]
) -> Followed:
    """Check one answer.

    Args:
        response: the answer.
        kinds: `instruction_id_list` of the item.
        arguments: `kwargs` of the item, one map for each instruction.

    Raises:
        ValueError: IFEval has no such kind of instruction, or an argument is missing.
    """
    if len(kinds) != len(arguments):
        raise ValueError(
            f"{len(kinds)} instructions and {len(arguments)} kwargs; there is one for each"
        )
    checks = [_check(kind, values) for kind, values in zip(kinds, arguments, strict=True)]
    text = without_marker(response)
    # An empty answer follows no instruction, not even `no_comma`.
    variants = [variant for variant in loose_variants(text) if variant.strip()]
    strict = []
    loose = []
    for check in checks:
        strict.append(bool(text.strip()) and check(text))
        loose.append(any(check(variant) for variant in variants))
    return Followed(strict, loose)


def _check(kind: str, values: Mapping[str, Any]) -> Callable[[str], bool]:
    """The check of an instruction with its arguments.

    In the data every instruction names the arguments of all kinds, most of them null.
    """
    if kind not in CHECKS:
        raise ValueError(f"{kind!r} is no instruction of IFEval; there are {', '.join(CHECKS)}")
    check = CHECKS[kind]
    # The first parameter is the text.
    names = list(inspect.signature(check).parameters)[1:]
    arguments = {}
    for name in names:
        if values.get(name) is not None:
            arguments[name] = _as_int(values[name])
    if len(arguments) < len(names):
        present = ", ".join(arguments) or "none"
        raise ValueError(f"{kind} needs {', '.join(names)}, kwargs has {present}")
    return lambda text: check(text, **arguments)


def _as_int(value: Any) -> Any:
    """Floats as integers: tables with gaps, from which the data come, turn counts into floats."""
    return int(value) if isinstance(value, float) else value


def loose_variants(text: str) -> list[str]:
    """The eight variants of an answer of which one has to pass."""
    lines = text.split("\n")
    variants = [text]
    for part in (lines[1:], lines[:-1], lines[1:-1]):
        variants.append("\n".join(part).strip())
    without_asterisks = [variant.replace("*", "") for variant in variants]
    return variants + without_asterisks


def accuracies(items: Sequence[Followed]) -> dict[str, float]:
    """Shares of prompts with all instructions followed, and of instructions, strict and loose.

    Their mean is VoiceBench's score.
    """
    strict = [item.strict for item in items]
    loose = [item.loose for item in items]
    result = {}
    for name, lists in (("strict", strict), ("loose", loose)):
        num_prompts = sum(all(flags) for flags in lists)
        num_followed = sum(sum(flags) for flags in lists)
        num_instructions = sum(len(flags) for flags in lists)
        result[f"{name}_prompt"] = num_prompts / len(lists)
        result[f"{name}_instruction"] = num_followed / num_instructions
    return result
