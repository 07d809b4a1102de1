"""What a scorecard shows of a checkpoint: its scores, what they were taken with, and what is missing."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Part(NamedTuple):
    """What one command found."""

    scores: Mapping[str, float | None]
    """None: it cannot be had."""
    settings: Mapping[str, Any]


class Gap(NamedTuple):
    """What is not there."""

    what: str
    why: str
    command: str = ""
    """That makes it; empty: none does."""


@dataclasses.dataclass(frozen=True)
class Card:
    """One checkpoint."""

    name: str
    config: Mapping[str, Any]
    """Flat."""
    parts: Mapping[str, Part]
    """By command, and the summary of its training."""
    gaps: Sequence[Gap]

    def score(self, command: str, name: str) -> float | None:
        part = self.parts.get(command)
        return None if part is None else part.scores.get(name)


class Row(NamedTuple):
    """A line of a table."""

    command: str
    score: str
    label: str
    better: int = 0
    """-1: lower is better, 1: higher, 0: neither."""


SECTIONS = {
    "Word error rate": (
        Row("wer", "test/wer", "word error rate", -1), Row("wer", "test/cer", "character error rate", -1),
    ),
    "Conversation": (
        Row("duplex", "state/accuracy", "state of each slice: accuracy", 1),
        Row("duplex", "state/macro_f1", "state of each slice: macro F1", 1),
        Row("duplex", "turn/takeover_rate", "questions answered", 1),
        Row("duplex", "turn/latency_s", "how soon after their end", -1),
        Row("duplex", "answer/exact_match", "answers word for word right", 1),
        Row("duplex", "interruption/takeover_rate", "interruptions that take over", 1),
        Row("duplex", "interruption/stop_s", "how long it talks on over one", -1),
        Row("duplex", "pause/false_takeover_rate", "answers in the pause of a question", -1),
        Row("duplex", "ignore/false_takeover_rate/talking_to_other", "answers to asides", -1),
        Row("duplex", "ignore/false_takeover_rate/background_speech", "answers to background voices", -1),
        Row("duplex", "ignore/false_takeover_rate/backchannel", "answers to back-channels", -1),
        Row("duplex", "ignore/false_takeover_rate/noise", "answers to noise", -1),
        Row("duplex", "silence/false_takeover_per_hour", "answers to nothing, in an hour of silence", -1),
        Row("duplex", "answer/resumed_after_ignore", "answers that go on as if a sound had not been heard", 1),
    ),
    "Speed": (
        Row("speed", "slice/median_ms", "hearing a slice, median", -1),
        Row("speed", "slice/real_time_factor", "hearing slice by slice, share of real time", -1),
        Row("speed", "whole/real_time_factor", "hearing 10 s at once, share of real time", -1),
        Row("speed", "token/median_ms", "saying a token", -1),
        Row("duplex", "slice/median_ms", "a slice of a live session, median", -1),
        Row("duplex", "slice/p99_ms", "the same, 99th percentile", -1),
        Row("duplex", "slice/real_time_factor", "live session, share of real time", -1),
    ),
    "State and size": (
        Row("speed", "state/lm_bytes", "memory of the language model, after 20 s", -1),
        Row("speed", "state/all_bytes", "memory of everything, after 20 s", -1),
        Row("speed", "state/growth_bytes_per_s", "its growth in a second", -1),
        Row("duplex", "memory/lm_bytes", "live session: one branch of the language model", -1),
        Row("duplex", "memory/all_bytes", "live session: everything", -1),
        Row("speed", "size/all_parameters", "parameters"),
    ),
    "Training": (
        Row("training", "test/exact_match", "answers word for word right, one question at a time", 1),
        Row("training", "test/state_macro_f1", "state of each slice: macro F1, in its own dialogues", 1),
        Row("training", "params/trained", "parameters trained"),
        Row("training", "time/total_s", "time, the stages upstream included", -1),
        Row("training", "memory/peak_gib", "largest memory", -1),
    ),
}  # fmt: skip


BENCHES = {
    "Full-Duplex-Bench, text-emission variant": "full-duplex-bench",
    "TurnBench": "turnbench",
}
"""Sections that show all their command has found."""
UNITS = {"s": "s", "ms": "ms", "gib": "GiB", "hour": ""}


def shown(name: str, value: float | None) -> str:
    """A score as people read it, by the unit that its name ends in; a share where there is none."""
    if value is None:
        return ""
    unit = name.rsplit("_", 1)[-1]
    if unit == "bytes" or name.endswith("bytes_per_s"):
        return scaled(value, ("B", "kB", "MB", "GB"))
    if unit == "parameters" or name.startswith("params/"):
        return scaled(value, ("", "k", "M", "G")).strip()
    if unit in ("s", "ms", "gib", "hour"):
        digits = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        return f"{digits} {UNITS[unit]}".strip()
    return f"{100 * value:.1f} %"


def scaled(value: float, units: Sequence[str]) -> str:
    """Three digits and a power of a thousand."""
    power = 0
    while abs(value) >= 999.5 and power < len(units) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {units[power]}"


def best(cards: Sequence[Card], row: Row) -> set[str]:
    """Names of the cards with the best value, where they do not all have it; none of a row without one."""
    values = {card.name: card.score(row.command, row.score) for card in cards}
    found = {name: value for name, value in values.items() if value is not None}
    if not row.better or len(set(found.values())) < 2:
        return set()
    top = max(row.better * value for value in found.values())
    return {name for name, value in found.items() if row.better * value == top}


def flat(cards: Sequence[Card]) -> dict[str, float | None]:
    """All scores by `<command>/<score>`, behind the checkpoint's name where there are several."""
    values: dict[str, float | None] = {}
    for card in cards:
        prefix = f"{card.name}/" if len(cards) > 1 else ""
        for command, part in card.parts.items():
            values |= {f"{prefix}{command}/{name}": value for name, value in part.scores.items()}
    return values


def unlike(cards: Sequence[Card]) -> dict[str, list[str]]:
    """Settings in which scores of the same kind differ between checkpoints, their weights apart: name -> values."""
    found: dict[str, list[str]] = {}
    for command in dict.fromkeys(command for card in cards for command in card.parts):
        settings = [
            card.parts[command].settings if command in card.parts else None for card in cards
        ]
        there = [one for one in settings if one is not None]
        for name in sorted({name for one in there for name in one} - {"weights"}):
            if len({repr(one.get(name)) for one in there}) > 1:
                found[f"{command}: {name}"] = [
                    "" if one is None else str(one.get(name)) for one in settings
                ]
    return found


def differences(cards: Sequence[Card]) -> dict[str, list[str]]:
    """Keys of the configuration in which checkpoints differ: name -> values."""
    names = sorted({name for card in cards for name in card.config})
    values = {name: [str(card.config.get(name, "not set")) for card in cards] for name in names}
    return {name: each for name, each in values.items() if len(set(each)) > 1}
