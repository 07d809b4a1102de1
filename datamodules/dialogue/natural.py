"""Times of turns as people take them, drawn from published statistics (`dialogue.timing: natural`).

Sources: CANDOR (arXiv 2203.00674) for gaps and overlaps between turns, the row "silence only" of
eot-bench (livekit/eot-bench, English) for pauses within turns, TurnBench (arXiv 2608.25218) for the
number of back-channels, Uro et al. 2024 for their place. Where only a median is published, the
exponential distribution with this median is drawn from.
"""

import math
import random
from collections.abc import Sequence

from datamodules.dialogue.turns import RULES, Event

GAP_SHARE = 0.52
"""Share of the changes of speaker with a gap; at the others the next speaker begins early (CANDOR)."""
MEDIAN_GAP_S = 0.38
MEDIAN_OVERLAP_S = 0.41
MAX_GAP_S = 3.0
"""Longest gap: after a longer silence nobody replies any more."""
MAX_OVERLAP_S = 2.0
PAUSES = ((0.2, 1.0), (0.3, 0.556), (0.6, 0.217), (1.0, 0.10), (1.6, 0.05), (5.0, 0.0))
"""Length of a pause within a turn in seconds, and the share of pauses that are longer: what silence
of that length cuts off in eot-bench."""
BACKCHANNELS_PER_S = 2 * 4.3 / 60
"""Back-channels for each second of the other side's speech: 4.3 a minute and side in TurnBench, of
which each side listens half."""
OVERLAPPED_BACKCHANNELS = 0.8
"""Share of the back-channels that begin during the other side's speech (Uro et al. 2024)."""
MAX_BACKCHANNEL_DELAY_S = 1.0
"""Time after the other side's speech within which the others begin."""


def draw_offset_s(rng: random.Random) -> float:
    """Draw the time from the end of a turn to the beginning of the next speaker's; negative: overlap."""
    if rng.random() < GAP_SHARE:
        return min(_exponential_s(MEDIAN_GAP_S, rng), MAX_GAP_S)
    return -min(_exponential_s(MEDIAN_OVERLAP_S, rng), MAX_OVERLAP_S)


def draw_pause_s(rng: random.Random) -> float:
    """Draw the length of a pause within a turn."""
    share = rng.random()
    for (short_s, above), (long_s, below) in zip(PAUSES, PAUSES[1:], strict=False):
        if share >= below:
            # Between two published points the distribution is uniform.
            return long_s - (long_s - short_s) * (share - below) / (above - below)
    return PAUSES[-1][0]


def draw_backchannel_start_s(reply_s: float, rng: random.Random) -> float:
    """Draw the time from the beginning of a reply of `reply_s` seconds to that of a back-channel."""
    if rng.random() < OVERLAPPED_BACKCHANNELS:
        return rng.uniform(0, reply_s)
    return reply_s + rng.uniform(0, MAX_BACKCHANNEL_DELAY_S)


def with_backchannels(
    events: Sequence[Event], min_reply_s: float, rng: random.Random
) -> list[Event]:
    """Insert back-channels into the replies that no other event overlaps.

    Args:
        events: the events of a dialogue.
        min_reply_s: shortest reply that an event overlaps.
        rng: source of the draws.
    """
    share = 1 - math.exp(-BACKCHANNELS_PER_S * min_reply_s)
    backchannel = Event("backchannel", True, False, False)
    with_more: list[Event] = []
    for event in events:
        is_free = not event.response_is_overlapped and not event.is_corrected
        if RULES[event.kind].can_be_overlapped and is_free and rng.random() < share:
            with_more += [event._replace(response_is_overlapped=True), backchannel]
        else:
            with_more.append(event)
    return with_more


def _exponential_s(median_s: float, rng: random.Random) -> float:
    return rng.expovariate(math.log(2) / median_s)
