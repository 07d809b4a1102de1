"""When the model stops for the user, and answers again: v1.5's rules on spans of speech."""

from collections.abc import Sequence

USER_GAP_S = 0.6
MODEL_GAP_S = 0.5
"""Spans with a gap up to this between them are joined."""
DIGITS = 6
"""Differences of decimal times have errors of floating point."""

Span = tuple[float, float]
"""Begin and end in seconds."""


def merge(spans: Sequence[Span], gap_s: float) -> list[Span]:
    """Sort spans and join those at most `gap_s` apart."""
    merged: list[Span] = []
    for start_s, end_s in sorted(spans):
        if merged and round(start_s - merged[-1][1], DIGITS) <= gap_s:
            last_start_s, last_end_s = merged[-1]
            merged[-1] = (last_start_s, max(last_end_s, end_s))
        else:
            merged.append((start_s, end_s))
    return merged


def timing(user: Sequence[Span], model: Sequence[Span]) -> dict[str, list[float]]:
    """Compute the times of v1.5.

    Args:
        user: spans of the user's speech in the whole recording, the first question included.
        model: spans of the model's speech.

    Returns:
        `stop_latency_s`: length of each overlap of user and model. `response_latency_s`: time from
        an end of the user's speech to the next beginning of the model's.
    """
    # A breath within a sentence is no end of speech.
    user = merge(user, USER_GAP_S)
    model = merge(model, MODEL_GAP_S)
    return {
        "stop_latency_s": _stop_latencies_s(user, model),
        "response_latency_s": _response_latencies_s(user, model),
    }


def _stop_latencies_s(user: Sequence[Span], model: Sequence[Span]) -> list[float]:
    """Lengths of overlaps; of several that end at the same millisecond the shortest."""
    shortest_s: dict[int, float] = {}
    for user_start_s, user_end_s in user:
        for model_start_s, model_end_s in model:
            end_s = min(user_end_s, model_end_s)
            overlap_s = end_s - max(user_start_s, model_start_s)
            if overlap_s > 0:
                end_ms = round(1000 * end_s)
                shortest_s[end_ms] = min(overlap_s, shortest_s.get(end_ms, overlap_s))
    return [shortest_s[end_ms] for end_ms in sorted(shortest_s)]


def _response_latencies_s(user: Sequence[Span], model: Sequence[Span]) -> list[float]:
    """Times to the next start strictly later, even during later speech of the user.

    Of several ends with the same next start the latest counts.
    """
    latest_end_s: dict[float, float] = {}
    for _, end_s in user:
        starts_s = [start_s for start_s, _ in model if start_s > end_s]
        if starts_s:
            # The ends increase, so that a later one replaces an earlier one.
            latest_end_s[min(starts_s)] = end_s
    return [start_s - latest_end_s[start_s] for start_s in sorted(latest_end_s)]
