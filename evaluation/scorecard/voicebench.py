"""VoiceBench on a scorecard: a cell for each subset, and what is missing."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from evaluation.scorecard.card import Card, Gap
from evaluation.voicebench.subsets import LEADERBOARD, SUBSETS

Scores = Mapping[str, float | None]
JUDGE = "JUDGE_URL=https://.../v1 JUDGE_MODEL=gpt-4o-mini"
JUDGED = ("open", "qa")
PUBLISHED = {"GPT-4o-Audio": 86.75, "Qwen2-Audio": 55.80, "Freeze-Omni": 55.20, "Mini-Omni": 30.42, "Moshi": 29.51}
"""Overall, by the leaderboard."""


class Cell(NamedTuple):
    """A checkpoint's scores of a subset, in words."""

    official: str
    rest: str


def rows(cards: Sequence[Card]) -> dict[str, list[Cell]]:
    """Subset -> cells, in the order of the leaderboard; those that some card has, and what they come to."""
    parts = [dict(card.parts["voicebench"].scores) if "voicebench" in card.parts else {} for card in cards]
    names = [name for name in SUBSETS if any(f"{name}/official" in scores for scores in parts)]
    found = {name: [cell(name, scores) for scores in parts] for name in names}
    return found | ({"overall": [total(scores) for scores in parts]} if names else {})


def cell(name: str, scores: Scores) -> Cell:
    """Official in large; strict, other judges' and the rates in small."""
    if f"{name}/official" not in scores:
        return Cell("", "")
    others = {key.removeprefix(f"{name}/"): scores[key] for key in scores if key.startswith(f"{name}/by/")}
    words = [
        f"{column} {value:.2f}"
        for column, value in {"strict": scores[f"{name}/strict"], **others}.items()
        if value is not None
    ]
    rates = {"not parsed": scores[f"{name}/parse_failure_rate"], "empty": scores[f"{name}/empty_rate"]}
    words += [f"{value:.0%} {rate}".replace("%", " %") for rate, value in rates.items() if value is not None]
    count = scores[f"count/{name}/responses"] or 0
    return Cell(two_digits(scores[f"{name}/official"]), ", ".join([*words, f"of {count:,.0f}"]))


def total(scores: Scores) -> Cell:
    others = [
        f"{key.removeprefix('overall/')} {two_digits(scores[key])}" for key in scores if key.startswith("overall/")
    ]
    return Cell(two_digits(scores.get("overall")), ", ".join(others))


def two_digits(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def gaps(scores: Scores, names: Sequence[str], command: str, whole: str) -> Iterator[Gap]:
    """What is missing of subsets that were scored.

    Args:
        command: that scores them.
        whole: the same for all items of all subsets.
    """
    if scores["data/embedded"]:
        yield Gap("VoiceBench's own questions", "there was no copy of them", f"{whole} --data FOLDER")
    else:
        counts = {name: scores[f"count/{name}/responses"] or 0 for name in names}
        short = [
            f"{name} {count:,.0f} of {SUBSETS[name].size:,}"
            for name, count in counts.items()
            if count < SUBSETS[name].size
        ]
        if short:
            yield Gap("VoiceBench, responses", ", ".join(short), whole)
    absent = [name for name in LEADERBOARD if name not in names]
    if absent:
        yield Gap(f"VoiceBench: {', '.join(absent)}", "not asked for", whole)
    empty = [name for name in names if SUBSETS[name].scorer in JUDGED and not judged(name, scores)]
    if empty:
        yield Gap(f"VoiceBench: {', '.join(empty)}", "nobody has judged all answers", f"{JUDGE} {command}")
    if any(f"{name}/panda" in scores and scores[f"{name}/panda"] is None for name in names):
        yield Gap("VoiceBench: PEDANT", "qa_metrics and its model were not there", f"pip install qa_metrics; {command}")


def judged(name: str, scores: Scores) -> bool:
    """Whether a judge's part is there, official or not."""
    keys = [key for key in scores if key == f"{name}/gpt" or key.startswith(f"{name}/by/") or key == f"{name}/official"]
    return any(scores[key] is not None for key in keys)
