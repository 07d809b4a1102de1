"""What a judge says: how the model behaves in an overlap, and whether it answers an interruption.

The judge is that of VoiceBench, and the wording of the questions is this project's own: neither
score is official.
"""

import collections
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluation.duplex.full_duplex_bench.items import Item
from evaluation.duplex.full_duplex_bench.rules import answer_to_interruption, means, took_over
from evaluation.duplex.full_duplex_bench.words import Word, transcript
from evaluation.record import ScoreValue
from evaluation.voicebench.judge import BEHAVIOURS, Judge, Replies, ask_all, behaviour, relevance
from evaluation.voicebench.responses import Response

Texts = Mapping[str, Sequence[Word]]
"""output_noisy, output_clean -> words of the model."""


def rate_interruptions(
    answered: Sequence[tuple[Item, Sequence[Word]]], judge: Judge, file: Path
) -> tuple[dict[str, ScoreValue], list[str]]:
    """Mean rating from 0 to 5 of the answers to interruptions that were answered.

    Args:
        answered: items and the model's words.
        judge: to be asked.
        file: of its raw replies.

    Returns:
        Scores by <kind>/<group>/num_rating, and descriptions of problems.
    """
    responses = []
    groups = {}
    for item, words in answered:
        answer = answer_to_interruption(item, words)
        fields = item.annotation[0]
        # Items without the texts cannot be rated, such as those of another version.
        if took_over(answer) and "context" in fields and "interrupt" in fields:
            text = " ".join(word.text for word in answer)
            known = {"context": fields["context"], "interrupt": fields["interrupt"]}
            responses.append(Response(str(item.folder), known, text))
            groups[str(item.folder)] = f"{item.kind}/{item.group}"
    replies, problems = ask_all("interruption", responses, judge, file)
    cases: dict[str, list[float]] = collections.defaultdict(list)
    for name, texts in replies.items():
        ratings = [rating for rating in map(relevance, texts) if rating is not None]
        if ratings:
            cases[f"{groups[name]}/num_rating"].append(statistics.fmean(ratings))
    return means(cases), problems


def judge_behaviour(
    overlaps: Sequence[tuple[Item, Texts]], judge: Judge, file: Path
) -> tuple[dict[str, ScoreValue], list[str]]:
    """Shares of the behaviours in overlaps, by <kind>/<group>/<behaviour>.

    Args:
        overlaps: items of v1.5 and the model's words with and without the event.
        judge: to be asked.
        file: of its raw replies.

    Returns:
        Scores, and descriptions of problems.
    """
    responses = []
    groups = {}
    for item, texts in overlaps:
        name = str(item.folder)
        groups[name] = f"{item.kind}/{item.group}"
        responses.append(Response(name, behaviour_fields(item, texts), ""))
    # The transcripts hold all that the judge sees; there is no single response to quote.
    replies, problems = ask_all("behaviour", responses, judge, file)
    cases: dict[str, list[float]] = collections.defaultdict(list)
    for name, chosen in behaviours_of(replies).items():
        for tag in BEHAVIOURS:
            cases[f"{groups[name]}/{tag}"].append(tag == chosen)
    return means(cases), problems


def behaviour_fields(item: Item, texts: Texts) -> dict[str, str]:
    """The four transcripts that a judge of behaviour sees.

    Raises:
        ValueError: the annotation lacks the user's words.
    """
    annotation = item.annotation
    missing = [key for key in ("context_text", "current_turn_text") if key not in annotation]
    if missing:
        raise ValueError(f"{item.file} has no {', '.join(missing)}; fetch it again")
    event = {"text": annotation["current_turn_text"], "timestamp": annotation["timestamps"]}
    return {
        "input_clean": annotation["context_text"],
        "input_noisy": f"{annotation['context_text']} {json.dumps(event)}",
        "output_clean": json.dumps(transcript(texts["output_clean"])),
        "output_noisy": json.dumps(transcript(texts["output_noisy"])),
    }


def behaviours_of(replies: Replies) -> dict[str, str]:
    """Name of the item -> the behaviour that most replies name, the first one of equals."""
    chosen = {}
    for name, texts in replies.items():
        named = [tag for tag in map(behaviour, texts) if tag is not None]
        # Unreadable replies are listed among the problems.
        if named:
            [(tag, _)] = collections.Counter(named).most_common(1)
            chosen[name] = tag
    return chosen
