"""A scorecard as one HTML file."""

import json
from collections.abc import Sequence
from pathlib import Path

from evaluation.scorecard import voicebench
from evaluation.scorecard.card import (
    BENCHES,
    SECTIONS,
    Card,
    CardRow,
    best,
    differences,
    flat,
    shown,
    unlike,
)
from reporting.render import render

TEMPLATE = Path(__file__).with_name("page.html")
HEADLINES = (
    CardRow("wer", "test/wer", "word error rate"),
    CardRow("duplex", "turn/takeover_rate", "of the questions answered"),
    CardRow("duplex", "turn/latency_s", "after their end"),
    CardRow("duplex", "answer/exact_match", "of the answers right"),
    CardRow("speed", "slice/real_time_factor", "of real time to encode"),
    CardRow("speed", "state/all_bytes", "of memory"),
)
"""Numbers in large print at the top."""


def page(cards: Sequence[Card]) -> str:
    """The whole file."""
    questions = voicebench.rows(cards)
    return render(
        TEMPLATE, cards=cards, title=" against ".join(card.name for card in cards), headline=headline,
        sections=sections(cards), best=best, shown=shown, questions=questions,
        embedded=any(card.score("voicebench", "data/embedded") for card in cards), published=voicebench.PUBLISHED,
        gaps=[(card, gap) for card in cards for gap in card.gaps], unlike=unlike(cards),
        settings=settings(cards), differences=differences(cards), values=every(cards),
    )  # fmt: skip


def sections(cards: Sequence[Card]) -> dict[str, list[CardRow]]:
    """The rows that some card has a score for; a benchmark that none has is left out."""
    found = {
        title: [r for r in rows if any(has(card, r) for card in cards)]
        for title, rows in SECTIONS.items()
    }
    for title, command in BENCHES.items():
        parts = [card.parts[command] for card in cards if command in card.parts]
        if names := dict.fromkeys(name for part in parts for name in part.scores):
            found[title] = [CardRow(command, name, name) for name in names]
    return found


def has(card: Card, row: CardRow) -> bool:
    return card.score(row.command, row.score) is not None


def headline(card: Card) -> str:
    """The scores that matter most, in words."""
    words = [
        f"{shown(row.score, card.score(row.command, row.score))} {row.label}"
        for row in HEADLINES
        if has(card, row)
    ]
    overall = card.score("voicebench", "overall")
    return (
        ", ".join(words + ([] if overall is None else [f"{overall:.2f} overall on VoiceBench"]))
        or "no score yet"
    )


def settings(cards: Sequence[Card]) -> list[tuple[str, str, str]]:
    """Command, checkpoint, and what was asked."""
    return [
        (
            command,
            card.name,
            ", ".join(
                f"{name} {json.dumps(value)}" for name, value in part.settings.items() if value
            ),
        )
        for card in cards
        for command, part in card.parts.items()
        if part.settings
    ]


def every(cards: Sequence[Card]) -> dict[str, list[str]]:
    """All scores as they are: name -> one for each card."""
    found = [flat([card]) for card in cards]
    names = dict.fromkeys(name for values in found for name in values)
    return {
        name: ["" if values.get(name) is None else f"{values[name]:.6g}" for values in found]
        for name in names
    }
