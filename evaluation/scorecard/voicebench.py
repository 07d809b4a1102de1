"""VoiceBench on a scorecard: a cell for each subset, and what is missing."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from evaluation.scorecard.card import Card, Gap
from evaluation.voicebench.subsets import LEADERBOARD, SUBSETS

Scores = Mapping[str, float | None]
JUDGE = "JUDGE_URL=https://.../v1 JUDGE_MODEL=gpt-4o-mini"
JUDGED = ("open", "qa")
PUBLISHED = {
    "GPT-4o-Audio": 86.75,
    "Qwen2-Audio": 55.80,
    "Freeze-Omni": 55.20,
    "Mini-Omni": 30.42,
    "Moshi": 29.51,
}
"""Overall, by the leaderboard."""


class Cell(NamedTuple):
    """A checkpoint's scores of a subset, in words."""

    official: str
    rest: str


def rows(cards: Sequence[Card]) -> dict[str, list[Cell]]:
    """Subset -> cells, in the order of the leaderboard; those that some card has, and what they come to."""
    parts = [
        dict(card.parts["voicebench"].scores) if "voicebench" in card.parts else {}
        for card in cards
    ]
    names = [name for name in SUBSETS if any(f"{name}/official" in scores for scores in parts)]
    found = {name: [cell(name, scores) for scores in parts] for name in names}
    return found | ({"overall": [total(scores) for scores in parts]} if names else {})


def cell(name: str, scores: Scores) -> Cell:
    """Official in large; strict, other judges', the rates and the number of answers in small."""
    if f"{name}/official" not in scores:
        return Cell("", "")
    by = [key.removeprefix(f"{name}/") for key in scores if key.startswith(f"{name}/by/")]
    columns = {column: scores[f"{name}/{column}"] for column in ("strict", *by)}
    rates = {
        "not parsed": scores[f"{name}/parse_failure_rate"],
        "empty": scores[f"{name}/empty_rate"],
    }
    words = [f"{column} {value:.2f}" for column, value in columns.items() if value is not None]
    words += [f"{100 * value:.0f} % {rate}" for rate, value in rates.items() if value is not None]
    words.append(f"of {scores[f'count/{name}/responses'] or 0:,.0f}")
    return Cell(two_digits(scores[f"{name}/official"]), ", ".join(words))


def total(scores: Scores) -> Cell:
    """The leaderboard's mean, and how the answers were made."""
    by = {
        key.removeprefix("overall/"): value
        for key, value in scores.items()
        if key.startswith("overall/")
    }
    words = [f"{column} {value:.2f}" for column, value in by.items() if value is not None]
    live = scores.get("data/streaming")
    words += [] if live is None else ["answered live" if live else "each question heard as a whole"]
    return Cell(two_digits(scores.get("overall")), ", ".join(words))


def two_digits(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def gaps(scores: Scores, command: str, whole: str) -> Iterator[Gap]:
    """What is missing of subsets that were scored.

    Args:
        command: that scores them.
        whole: the same for all items of all subsets.
    """
    names = [name for name in SUBSETS if f"{name}/official" in scores]
    if scores["data/embedded"]:
        yield Gap(
            "VoiceBench's own questions", "there was no copy of them", f"{whole} --data FOLDER"
        )
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
        yield Gap(f"VoiceBench: {', '.join(absent)}", "not scored", whole)
    empty = [name for name in names if SUBSETS[name].scorer in JUDGED and not judged(name, scores)]
    if empty:
        yield Gap(
            f"VoiceBench: {', '.join(empty)}", "nobody has judged all answers", f"{JUDGE} {command}"
        )
    if any(f"{name}/panda" in scores and scores[f"{name}/panda"] is None for name in names):
        yield Gap(
            "VoiceBench: PEDANT",
            "qa_metrics and its model were not there",
            f"pip install qa_metrics; {command}",
        )


def judged(name: str, scores: Scores) -> bool:
    """Whether a judge's part is there, official or not."""
    keys = [
        key
        for key in scores
        if key == f"{name}/gpt" or key.startswith(f"{name}/by/") or key == f"{name}/official"
    ]
    return any(scores[key] is not None for key in keys)
