"""IFEval: which instructions an answer follows, and the four accuracies that result."""

import functools
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
    is_empty = not text.strip()
    variants = [variant for variant in loose_variants(text) if variant.strip()]
    strict = []
    loose = []
    for check in checks:
        strict.append(not is_empty and check(text))
        loose.append(any(check(variant) for variant in variants))
    return Followed(strict, loose)


def _check(kind: str, values: Mapping[str, Any]) -> Callable[[str], bool]:
    """The check of an instruction with its arguments.

    Raises:
        ValueError: IFEval has no such kind of instruction, or an argument is missing.
    """
    if kind not in CHECKS:
        known = ", ".join(CHECKS)
        raise ValueError(f"{kind!r} is no instruction of IFEval; there are {known}")
    check = CHECKS[kind]
    # The first parameter is the text.
    names = list(inspect.signature(check).parameters)[1:]
    # In the data every instruction names the arguments of all kinds, most of them null.
    arguments = {}
    for name in names:
        value = values.get(name)
        if value is not None:
            arguments[name] = _as_int(value)
    if len(arguments) < len(names):
        needed = ", ".join(names)
        present = ", ".join(arguments) or "none"
        raise ValueError(f"{kind} needs {needed}, kwargs has {present}")
    return functools.partial(check, **arguments)


def _as_int(value: Any) -> Any:
    """A float as an integer; any other value unchanged.

    The data come from tables with gaps, which turn counts into floats.
    """
    if isinstance(value, float):
        return int(value)
    return value


def loose_variants(text: str) -> list[str]:
    """The eight variants of an answer of which one has to pass.

    They are the answer with and without its first and last line, each with and without asterisks.
    """
    lines = text.split("\n")
    variants = [text]
    # The first line may announce the answer, and the last may ask whether it is satisfactory.
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
    return {
        "strict_prompt": _prompt_accuracy(strict),
        "strict_instruction": _instruction_accuracy(strict),
        "loose_prompt": _prompt_accuracy(loose),
        "loose_instruction": _instruction_accuracy(loose),
    }


def _prompt_accuracy(flags_of_items: Sequence[Sequence[bool]]) -> float:
    """Share of the items of which every instruction is followed."""
    num_followed = sum(all(flags) for flags in flags_of_items)
    return num_followed / len(flags_of_items)


def _instruction_accuracy(flags_of_items: Sequence[Sequence[bool]]) -> float:
    """Share of all instructions that are followed; items with more of them weigh more."""
    num_followed = sum(sum(flags) for flags in flags_of_items)
    num_instructions = sum(len(flags) for flags in flags_of_items)
    return num_followed / num_instructions
