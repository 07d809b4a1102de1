"""Turn-taking of a corpus in numbers, beside those that are published about conversations.

Who sees an unlikely median gap or no back-channels at all should look at the channels, the clock and
the labels of the corpus before training on it.
"""

import collections
import dataclasses
import statistics
from collections.abc import Iterable

from datamodules.conversations.conversation import Conversation, Span
from datamodules.conversations.labels import labels_of, num_labelled_slices
from datamodules.conversations.turn_taking import TurnTaking, turn_taking
from datamodules.conversations.units import Timeline, units_of
from datamodules.dialogue.turns import Slices

STATES = ("response", "incomplete", "ignore", None)
"""Labels of slices; None: unknown."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """One number about a corpus."""

    key: str
    """Name in report.json; tells the unit."""
    label: str
    unit: str
    """s, %, or empty for a plain number."""
    published: str
    """What the literature reports, with its source; empty: nothing."""


FIGURES = (
    Figure("offset_median_s", "floor transfer: median offset", "s", "0.08 (CANDOR, 2203.00674)"),
    Figure(
        "offset_mean_s",
        "floor transfer: mean offset",
        "s",
        "0.21 after questions, ten languages (Stivers 2009)",
    ),
    Figure("gap_share", "transfers with a gap", "%", "52 (CANDOR)"),
    Figure("gap_median_s", "median gap", "s", "0.38 (CANDOR)"),
    Figure("overlap_median_s", "median overlap", "s", "0.41 (CANDOR)"),
    Figure("pause_median_s", "median pause within a turn", "s", ""),
    Figure(
        "turn_ends_per_minute",
        "turn ends a minute and side",
        "",
        "2.2 (TurnBench dev: one in 28 s)",
    ),
    Figure("backchannels_per_minute", "back-channels a minute and side", "", ""),
    Figure("backchannel_overlap_share", "back-channels during speech", "%", "80 (Uro 2024)"),
    Figure("interruptions_per_minute", "interruptions a minute and side", "", ""),
    Figure("slices_response", "slices: response", "%", "0.7 (TurnBench dev: 1 in 138)"),
    Figure("slices_incomplete", "slices: incomplete", "%", ""),
    Figure("slices_ignore", "slices: ignore", "%", ""),
    Figure("slices_unknown", "slices without a label", "%", ""),
)
"""Rows of the table of a report."""


@dataclasses.dataclass
class _Counts:
    """Events of a corpus while it is gone through."""

    minutes: float = 0.0
    offsets_s: list[float] = dataclasses.field(default_factory=list)
    """Beginning of a reply after the end of the turn; negative: overlap."""
    pauses_s: list[float] = dataclasses.field(default_factory=list)
    num_ends: int = 0
    num_interruptions: int = 0
    num_backchannels: int = 0
    num_overlapped_backchannels: int = 0
    slices: collections.Counter[str | None] = dataclasses.field(default_factory=collections.Counter)


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Turn-taking of a corpus."""

    values: dict[str, float]
    """Key of a Figure -> value; shares from 0 to 1. A number of which there are no events is absent."""
    offsets_s: list[float]
    """Floor transfer offsets, for a histogram."""


def statistics_of(conversations: Iterable[Conversation], slices: Slices) -> Statistics:
    """Count the turn-taking of conversations.

    With both sides of a conversation as listeners, every transfer of the floor counts once.
    """
    counts = _Counts()
    for conversation in conversations:
        taking = turn_taking(conversation)
        _count_turns(counts, taking)
        _count_backchannels(counts, conversation, taking.backchannels)
        counts.minutes += conversation.duration_s / 60
        num_slices = num_labelled_slices(conversation, taking, slices)
        counts.slices.update(labels_of(taking, slices, num_slices))
    return Statistics(_values(counts), counts.offsets_s)


def _count_turns(counts: _Counts, taking: TurnTaking) -> None:
    for turn in taking.turns:
        counts.num_ends += turn.ending == "shift"
        counts.num_interruptions += turn.kind == "interruption"
        counts.pauses_s += [end_s - start_s for start_s, end_s in turn.pauses]
        if turn.reply_s is not None:
            counts.offsets_s.append(turn.reply_s - turn.end_s)


def _count_backchannels(
    counts: _Counts, conversation: Conversation, backchannels: Iterable[Span]
) -> None:
    agent = Timeline(units_of(conversation, "agent"))
    for span in backchannels:
        counts.num_backchannels += 1
        counts.num_overlapped_backchannels += agent.has_within(span)


def _values(counts: _Counts) -> dict[str, float]:
    gaps_s = [offset_s for offset_s in counts.offsets_s if offset_s > 0]
    overlaps_s = [-offset_s for offset_s in counts.offsets_s if offset_s < 0]
    values = {
        "turn_ends_per_minute": counts.num_ends / counts.minutes,
        "backchannels_per_minute": counts.num_backchannels / counts.minutes,
        "interruptions_per_minute": counts.num_interruptions / counts.minutes,
    }
    medians_of = {
        "offset_median_s": counts.offsets_s,
        "gap_median_s": gaps_s,
        "overlap_median_s": overlaps_s,
        "pause_median_s": counts.pauses_s,
    }
    for key, spans_s in medians_of.items():
        if spans_s:
            values[key] = statistics.median(spans_s)
    # Clips of one side have no transfers.
    if counts.offsets_s:
        values["offset_mean_s"] = statistics.fmean(counts.offsets_s)
        values["gap_share"] = len(gaps_s) / len(counts.offsets_s)
    if counts.num_backchannels:
        share = counts.num_overlapped_backchannels / counts.num_backchannels
        values["backchannel_overlap_share"] = share
    for state in STATES:
        share = counts.slices[state] / counts.slices.total()
        values[f"slices_{state or 'unknown'}"] = share
    return values
