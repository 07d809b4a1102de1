"""A scorecard as one HTML file."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

from evaluation.scorecard.card import (
    Card,
    CardRow,
    Section,
    best_cards,
    differing_config,
    differing_settings,
    flat_scores,
)
from evaluation.scores import SCORES
from evaluation.units import format_score, unit_of
from reporting.render import render

TEMPLATE = Path(__file__).with_name("page.html")
SECTION_NOTES = {
    "Word error rate": (
        "Errors of the whole test set divided by its number of words; references and transcripts "
        "in lower case without punctuation, no other normaliser."
    ),
    "Speed": (
        "One conversation at a time. Times depend on the machine and its load: compare only times "
        "that were measured under the same conditions."
    ),
}
TRAINING_ROWS = (
    CardRow(
        "training",
        "test/exact_match",
        "answers that match exactly, one question at a time",
        "share",
        1,
    ),
    CardRow(
        "training",
        "test/state_macro_f1",
        "state of each slice: macro F1, in its own dialogues",
        "share",
        1,
    ),
    CardRow("training", "params/trained", "parameters trained", "count"),
    CardRow("training", "time/total_s", "training time, prerequisite stages included", "s", -1),
    CardRow("training", "memory/peak_gib", "peak memory", "GiB", -1),
)
"""Rows from the summary of the training, which no score of the registry computes."""


def page(cards: Sequence[Card]) -> str:
    """Render the whole file."""
    gaps = [(card, gap) for card in cards for gap in card.gaps]
    return render(
        TEMPLATE,
        cards=cards,
        title=" against ".join(card.name for card in cards),
        headline=headline,
        sections=sections(cards),
        best_cards=best_cards,
        format_score=format_score,
        gaps=gaps,
        differing_settings=differing_settings(cards),
        settings=settings_table(cards),
        differing_config=differing_config(cards),
        values=values_table(cards),
    )


def sections(cards: Sequence[Card]) -> list[Section]:
    """All tables: those of the registry, training, and benchmarks that some run was scored on."""
    rows = [row for row in TRAINING_ROWS if _any_has(cards, row)]
    return [*_registry_sections(cards), Section("Training", rows), *_benchmark_sections(cards)]


def _registry_sections(cards: Sequence[Card]) -> list[Section]:
    """Tables of the rows in the registry, and the tables that scores make themselves."""
    ranked: dict[str, list[tuple[int, CardRow]]] = {}
    ready: dict[str, Section] = {}
    for score in SCORES.values():
        if score.make_section is not None:
            section = score.make_section(cards)
            ready[section.title] = section
            # An empty entry keeps the place of the section.
            ranked[section.title] = []
        for title, rows in score.sections.items():
            for row in rows:
                resolved = CardRow(score.name, row.key, row.label, row.unit, row.better)
                ranked.setdefault(title, []).append((row.rank, resolved))
    found = []
    for title, pairs in ranked.items():
        if title in ready:
            found.append(ready[title])
            continue
        # The sort is stable, so rows of equal rank keep the order of the registry.
        pairs.sort(key=lambda pair: pair[0])
        present = [row for _, row in pairs if _any_has(cards, row)]
        found.append(Section(title, present, note_html=SECTION_NOTES.get(title, "")))
    return found


def _benchmark_sections(cards: Sequence[Card]) -> list[Section]:
    """Tables with every score of a command; a command that no run has is left out."""
    found = []
    for score in SCORES.values():
        if not score.section_of_all:
            continue
        # A dict as an ordered set: the groups of a benchmark differ between copies of its data.
        keys: dict[str, None] = {}
        for card in cards:
            if score.name in card.saved:
                keys |= dict.fromkeys(card.saved[score.name].scores)
        if keys:
            rows = [CardRow(score.name, key, key, unit_of(key)) for key in keys]
            systems = None
            if score.published is not None:
                systems = score.published.beside(cards, score.name)
            found.append(Section(score.section_of_all, rows, systems=systems))
    return found


def _any_has(cards: Sequence[Card], row: CardRow) -> bool:
    return any(card.value(row.command, row.key) is not None for card in cards)


def headline(card: Card) -> str:
    """The most important scores of a run as a sentence without its full stop."""
    phrases = []
    # Phrases that scores make themselves come after those of single rows.
    last_phrases = []
    for score in SCORES.values():
        for row in itertools.chain.from_iterable(score.sections.values()):
            value = card.value(score.name, row.key)
            if row.headline and value is not None:
                phrases.append(f"{format_score(row.unit, value)} {row.headline}")
        if score.headline is not None and score.name in card.saved:
            phrase = score.headline(card.saved[score.name].scores)
            if phrase:
                last_phrases.append(phrase)
    return ", ".join([*phrases, *last_phrases]) or "no score yet"


def settings_table(cards: Sequence[Card]) -> list[tuple[str, str, str]]:
    """Command, run and settings of every set of scores; empty settings are left out."""
    table = []
    for card in cards:
        for command, saved in card.saved.items():
            # The summary of the training has no settings: the configuration is on the page anyway.
            if not saved.settings:
                continue
            texts = []
            for name, value in saved.settings.items():
                if value:
                    texts.append(f"{name} {json.dumps(value)}")
            table.append((command, card.name, ", ".join(texts)))
    return table


def values_table(cards: Sequence[Card]) -> dict[str, list[str]]:
    """Every score without rounding to its unit: name -> one text for each run."""
    # One card at a time, so that the keys do not begin with the names of the runs.
    columns = [flat_scores([card]) for card in cards]
    names = dict.fromkeys(name for column in columns for name in column)
    table: dict[str, list[str]] = {}
    for name in names:
        texts = []
        for column in columns:
            value = column.get(name)
            texts.append("" if value is None else f"{value:.6g}")
        table[name] = texts
    return table
