"""Gold events of TurnBench: what at least two of three annotators agree on."""

import dataclasses
import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from evaluation.duplex.turnbench import SPEAKERS

ANNOTATORS = ("a", "b", "c")
MIN_AGREEING = 2
TOLERANCE_S = 0.2
"""Starts, and ends, of agreeing annotations differ by at most this."""
NEAR_S = 0.5
"""Annotations of the same event start at most this far apart."""
DIGITS = 4
"""Digits to which gold times are rounded."""
TURN_LABELS = (
    "Normal Turn",
    "Regular Turn",
    "Strong Floor Hold",
    "Bounded Response",
    "Filler",
    "Overlap",
)
INTERRUPTION_LABELS = (
    "Floor-taking Competitive Interruption",
    "Floor-taking Cooperative Interruption",
)
ATTEMPT_LABELS = (
    "Non-floor Taking Competitive Interruption",
    "Non-floor Taking Cooperative Interruption",
)
BACKCHANNEL_LABELS = (
    "Acknowledgement Backchannel",
    "Continuer Backchannel",
    "Reaction Backchannel",
)
NON_CONTENT_LABELS = ("Non-Speech Noise", "Channel Bleed", "Speech, Non-Linguistic")
OTHER_LABELS = {"Laughter": "laughter", "Awkward Silence": "silence"}
"""Labels that give no event, but end what would be a pause of their speaker."""
LABEL_VIEW: Mapping[str, str] = {
    **dict.fromkeys(TURN_LABELS, "turn"),
    **dict.fromkeys(INTERRUPTION_LABELS, "interruption"),
    **dict.fromkeys(ATTEMPT_LABELS, "attempt"),
    **dict.fromkeys(BACKCHANNEL_LABELS, "backchannel"),
    **dict.fromkeys(NON_CONTENT_LABELS, "non_content"),
    **OTHER_LABELS,
}
"""Label -> class, for interruptions."""
TURN_VIEW: Mapping[str, str] = dict.fromkeys([*TURN_LABELS, *INTERRUPTION_LABELS], "turn")
"""Label -> class, for ends of turns: whether a span claims the floor."""


class Annotation(NamedTuple):
    """What one annotator says of one stretch of a channel."""

    start_s: float
    end_s: float
    label: str


class Event(NamedTuple):
    """A stretch that most annotators agree on."""

    speaker: int
    start_s: float
    end_s: float
    kind: str


class Instant(NamedTuple):
    """Time of an event that should be predicted."""

    speaker: int
    time_s: float


class Span(NamedTuple):
    """Stretch in which nothing should be predicted, or nothing is known."""

    speaker: int
    start_s: float
    end_s: float


@dataclasses.dataclass(frozen=True)
class TaskGold:
    """Gold of one task in one conversation."""

    positives: Sequence[Instant]
    negatives: Sequence[Span]
    excluded: Sequence[Span]
    """Annotators disagree: predictions in these do not count."""


Gold = Mapping[str, TaskGold]
"""Task -> gold."""
Tracks = Mapping[tuple[int, str], Sequence[Annotation]]
"""(speaker, annotator) -> annotations."""


class Consensus(NamedTuple):
    """Agreed events, and stretches without agreement."""

    events: list[Event]
    excluded: list[Span]


def gold_of(tracks: Tracks) -> Gold:
    """Derive the gold events of a conversation from the tracks of its annotators."""
    turn_view = agreed(tracks, TURN_VIEW)
    label_view = agreed(tracks, LABEL_VIEW)
    attempts = _spans_of(label_view.events, "attempt")
    interruptions = TaskGold(
        positives=[
            Instant(event.speaker, event.start_s)
            for event in label_view.events
            if event.kind == "interruption"
        ],
        negatives=_spans_of(label_view.events, "backchannel", "non_content"),
        # Whether an attempt succeeds cannot be known at its onset.
        excluded=[*label_view.excluded, *attempts],
    )
    return {"eot": _ends_of_turns(turn_view, label_view), "int": interruptions}


def _spans_of(events: Iterable[Event], *kinds: str) -> list[Span]:
    return [
        Span(event.speaker, event.start_s, event.end_s) for event in events if event.kind in kinds
    ]


# ---- agreement of annotators


def agreed(tracks: Tracks, view: Mapping[str, str]) -> Consensus:
    """Events of both speakers that most annotators agree on.

    Args:
        tracks: annotations.
        view: label -> class; other labels are dropped.
    """
    result = Consensus([], [])
    for speaker in SPEAKERS:
        classified: dict[str, list[Annotation]] = {}
        for annotator in ANNOTATORS:
            classified[annotator] = [
                annotation._replace(label=view[annotation.label])
                for annotation in tracks[speaker, annotator]
                if annotation.label in view
            ]
        found = agreed_on_channel(classified, speaker)
        result.events.extend(found.events)
        result.excluded.extend(found.excluded)
    return result


def agreed_on_channel(classified: Mapping[str, Sequence[Annotation]], speaker: int) -> Consensus:
    """Agreed events of one speaker.

    Args:
        classified: annotator -> annotations whose labels are classes.
        speaker: of the channel.
    """
    used: dict[str, set[int]] = {annotator: set() for annotator in ANNOTATORS}
    events: list[Event] = []
    for position, anchor in enumerate(ANNOTATORS):
        for index, annotation in enumerate(classified[anchor]):
            if index in used[anchor]:
                continue
            group = {anchor: index}
            for later in ANNOTATORS[position + 1 :]:
                nearest = _nearest(annotation, classified[later], used[later])
                if nearest is not None:
                    group[later] = nearest
            agreeing = _largest_agreeing(group, anchor, classified)
            if len(agreeing) < MIN_AGREEING:
                continue
            members = [classified[name][group[name]] for name in agreeing]
            start_s = statistics.median(member.start_s for member in members)
            end_s = statistics.median(member.end_s for member in members)
            events.append(
                Event(speaker, round(start_s, DIGITS), round(end_s, DIGITS), annotation.label)
            )
            # What agreed cannot agree with a second event.
            for name in agreeing:
                used[name].add(group[name])
    return Consensus(events, _without_agreement(classified, used, events, speaker))


def _nearest(anchor: Annotation, annotations: Sequence[Annotation], used: set[int]) -> int | None:
    """Index of the unused annotation of the same class whose start is nearest to another's."""
    best = None
    best_s = float("inf")
    for index, annotation in enumerate(annotations):
        distance_s = abs(annotation.start_s - anchor.start_s)
        is_candidate = index not in used and annotation.label == anchor.label
        if is_candidate and distance_s <= NEAR_S and distance_s < best_s:
            best = index
            best_s = distance_s
    return best


def _largest_agreeing(
    group: Mapping[str, int], anchor: str, classified: Mapping[str, Sequence[Annotation]]
) -> tuple[str, ...]:
    """The largest part of a group that holds the anchor and whose times agree."""
    for size in range(len(group), 0, -1):
        for names in itertools.combinations(group, size):
            members = [classified[name][group[name]] for name in names]
            starts_s = [member.start_s for member in members]
            ends_s = [member.end_s for member in members]
            agree = _spread(starts_s) <= TOLERANCE_S and _spread(ends_s) <= TOLERANCE_S
            if anchor in names and agree:
                return names
    return ()


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values)


def _without_agreement(
    classified: Mapping[str, Sequence[Annotation]],
    used: Mapping[str, set[int]],
    events: Sequence[Event],
    speaker: int,
) -> list[Span]:
    """Annotations without a partner, joined where they overlap.

    One that overlaps an agreed event is outvoted, not undecided.
    """
    alone = []
    for annotator in ANNOTATORS:
        for index, annotation in enumerate(classified[annotator]):
            if index not in used[annotator] and not _is_outvoted(annotation, events):
                alone.append((annotation.start_s, annotation.end_s))
    joined: list[tuple[float, float]] = []
    for start_s, end_s in sorted(alone):
        if joined and start_s <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end_s))
        else:
            joined.append((start_s, end_s))
    return [
        Span(speaker, round(start_s, DIGITS), round(end_s, DIGITS)) for start_s, end_s in joined
    ]


def _is_outvoted(annotation: Annotation, events: Sequence[Event]) -> bool:
    """Whether an annotation overlaps an agreed event."""
    start_s, end_s, _ = annotation
    return any(event.start_s < end_s and start_s < event.end_s for event in events)


# ---- ends of turns


def _ends_of_turns(turn_view: Consensus, label_view: Consensus) -> TaskGold:
    """Ends at which the floor passes on, and pauses at which it does not."""
    segments: dict[int, list[Event]] = {}
    for speaker in SPEAKERS:
        # Agreed events come in the order of the annotators who anchor them, not of time.
        own = [event for event in turn_view.events if event.speaker == speaker]
        segments[speaker] = sorted(own, key=lambda event: event.start_s)
    # Dicts as ordered sets: two segments may end at the same time.
    positives: dict[Instant, None] = {}
    negatives: dict[Span, None] = {}
    for speaker in SPEAKERS:
        other = segments[3 - speaker]
        for segment in segments[speaker]:
            if _is_inside_another(segment, segments[speaker]):
                continue
            next_own_s = _next_start_s(segments[speaker], segment.end_s)
            next_other_s = _next_start_s(other, segment.end_s)
            other_speaks = any(each.start_s < segment.end_s < each.end_s for each in other)
            # Nobody can tell a pause from an end if the speaker never speaks again.
            never_again = next_own_s == float("inf")
            if never_again or next_other_s < next_own_s or other_speaks:
                positives[Instant(speaker, segment.end_s)] = None
                continue
            pause = _quiet_part(
                Span(speaker, segment.end_s, next_own_s), turn_view.excluded, label_view
            )
            if pause is not None:
                negatives[pause] = None
    return TaskGold(list(positives), list(negatives), turn_view.excluded)


def _is_inside_another(segment: Event, own: Sequence[Event]) -> bool:
    """Whether a segment ends strictly inside another one of the same speaker."""
    return any(each is not segment and each.start_s < segment.end_s < each.end_s for each in own)


def _next_start_s(segments: Sequence[Event], time_s: float) -> float:
    """First start strictly later than a time; infinity if there is none."""
    starts_s = [segment.start_s for segment in segments if segment.start_s > time_s]
    return min(starts_s, default=float("inf"))


def _quiet_part(pause: Span, turn_excluded: Sequence[Span], label_view: Consensus) -> Span | None:
    """A pause up to the first sign that it is none; None if nothing is left.

    Such signs are stretches without agreement of either speaker, other sounds of the speaker, and
    interruptions and attempts of the other. Back-channels of the other are no sign.
    """
    cuts_s = [pause.end_s]
    for span in [*turn_excluded, *label_view.excluded]:
        if span.start_s < pause.end_s and span.end_s > pause.start_s:
            cuts_s.append(span.start_s)
    for event in label_view.events:
        if event.speaker == pause.speaker:
            is_sign = event.kind != "turn"
        else:
            is_sign = event.kind in ("interruption", "attempt")
        if is_sign and pause.start_s < event.start_s < pause.end_s:
            cuts_s.append(event.start_s)
    end_s = min(cuts_s)
    return pause._replace(end_s=end_s) if end_s > pause.start_s else None
