"""VoiceBench on a scorecard: a cell for each subset, and what is missing."""

from collections.abc import Iterator, Sequence

from evaluation.scorecard.card import Card, Cell, Gap, Scores, Section
from evaluation.voicebench.subsets import LEADERBOARD, SUBSETS

COMMAND = "voicebench"
JUDGE = "JUDGE_URL=https://.../v1 JUDGE_MODEL=gpt-4o-mini"
JUDGED_SCORERS = ("open", "qa")
PUBLISHED_OVERALL = {
    "GPT-4o-Audio": 86.75,
    "Qwen2-Audio": 55.80,
    "Freeze-Omni": 55.20,
    "Mini-Omni": 30.42,
    "Moshi": 29.51,
}
"""Overall scores of the leaderboard."""
WARNING = (
    "Answers to the project's own few questions, spoken by a synthesiser: these numbers are not "
    "VoiceBench's."
)
NOTE = (
    "Large: the official score, which includes guesses for answers that the scorer cannot read. "
    "Small: the strict score without guesses, the shares of unreadable and of empty answers, and "
    "the number of answers. Percent; 1 to 5 where a judge rates."
)


def make_section(cards: Sequence[Card]) -> Section:
    """Table of the subsets that some run has scores of, in the order of the leaderboard."""
    scores_of_cards = [_scores_of(card) for card in cards]
    cells: dict[str, list[Cell]] = {}
    for name in SUBSETS:
        if any(f"{name}/official" in scores for scores in scores_of_cards):
            cells[name] = [subset_cell(name, scores) for scores in scores_of_cards]
    if cells:
        cells["overall"] = [overall_cell(scores) for scores in scores_of_cards]
    # The project's own items are not VoiceBench's, so published numbers would mislead.
    if any(scores.get("data/embedded") for scores in scores_of_cards):
        return Section(
            "VoiceBench", cells=cells, first_column="subset", warning_html=WARNING, note_html=NOTE
        )
    published = [f"{name} {value:.2f}" for name, value in PUBLISHED_OVERALL.items()]
    note = f"{NOTE} Published overall: {', '.join(published)}."
    return Section("VoiceBench", cells=cells, first_column="subset", note_html=note)


def _scores_of(card: Card) -> Scores:
    return card.saved[COMMAND].scores if COMMAND in card.saved else {}


def subset_cell(name: str, scores: Scores) -> Cell:
    """Cell of one subset.

    The large number is the official score. The details are the strict score, those of other
    judges, the rates of unreadable and empty answers, and the number of answers.
    """
    if f"{name}/official" not in scores:
        return Cell("", "")
    details = []
    for key in (f"{name}/strict", *_other_judges(name, scores)):
        value = scores[key]
        if value is not None:
            column = key.removeprefix(f"{name}/")
            details.append(f"{column} {value:.2f}")
    rates = {
        "not parsed": scores[f"{name}/parse_failure_rate"],
        "empty": scores[f"{name}/empty_rate"],
    }
    # None before a judge has been asked, or without any response.
    for label, rate in rates.items():
        if rate is not None:
            percent = 100 * rate
            details.append(f"{percent:.0f} % {label}")
    # The number of answers shows whether the score is one of the whole subset.
    num_responses = scores[f"count/{name}/responses"] or 0
    details.append(f"of {num_responses:,.0f}")
    return Cell(two_decimals(scores[f"{name}/official"]), ", ".join(details))


def _other_judges(name: str, scores: Scores) -> list[str]:
    """Score keys of judges that are not the official one."""
    return [key for key in scores if key.startswith(f"{name}/by/")]


def overall_cell(scores: Scores) -> Cell:
    """Cell with the mean of the leaderboard; the details say how the questions were answered."""
    details = []
    for key, value in scores.items():
        if key.startswith("overall/") and value is not None:
            details.append(f"{key.removeprefix('overall/')} {value:.2f}")
    streaming = scores.get("data/streaming")
    # None for responses of another system, whose mode is not known.
    if streaming is not None:
        details.append("answered live" if streaming else "each question encoded as a whole")
    return Cell(two_decimals(scores.get("overall")), ", ".join(details))


def two_decimals(value: float | None) -> str:
    """A number with two decimals; empty for None."""
    return "" if value is None else f"{value:.2f}"


def headline(scores: Scores) -> str:
    """Phrase for the summary at the top of the scorecard."""
    overall = scores.get("overall")
    return "" if overall is None else f"{overall:.2f} overall on VoiceBench"


def gaps(scores: Scores, command: str, complete_command: str) -> Iterator[Gap]:
    """List what is missing from the scores of a run.

    Args:
        scores: of the run.
        command: computes the subsets that were scored.
        complete_command: computes all items of all subsets.
    """
    names = [name for name in SUBSETS if f"{name}/official" in scores]
    if scores["data/embedded"]:
        command_with_data = f"{complete_command} --data FOLDER"
        yield Gap("VoiceBench's own questions", "no copy of them was available", command_with_data)
    else:
        incomplete = _incomplete_subsets(names, scores)
        if incomplete:
            yield Gap("VoiceBench, responses", ", ".join(incomplete), complete_command)
    absent = [name for name in LEADERBOARD if name not in names]
    if absent:
        yield Gap(f"VoiceBench: {', '.join(absent)}", "not scored", complete_command)
    unjudged = []
    for name in names:
        if SUBSETS[name].scorer in JUDGED_SCORERS and not is_judged(name, scores):
            unjudged.append(name)
    if unjudged:
        title = f"VoiceBench: {', '.join(unjudged)}"
        yield Gap(title, "no judge has rated all answers", f"{JUDGE} {command}")
    # A subset that PEDANT does not score has no such key.
    if any(scores.get(f"{name}/panda", 0.0) is None for name in names):
        yield Gap(
            "VoiceBench: PEDANT",
            "qa_metrics or its model is not installed",
            f"pip install qa_metrics; {command}",
        )


def _incomplete_subsets(names: Sequence[str], scores: Scores) -> list[str]:
    """Subsets with fewer responses than items, with both numbers."""
    incomplete = []
    for name in names:
        num_responses = scores[f"count/{name}/responses"] or 0
        size = SUBSETS[name].size
        if num_responses < size:
            incomplete.append(f"{name} {num_responses:,.0f} of {size:,}")
    return incomplete


def is_judged(name: str, scores: Scores) -> bool:
    """Whether a subset has a score from a judge, the official one or another."""
    keys = [f"{name}/official", f"{name}/gpt", *_other_judges(name, scores)]
    return any(scores.get(key) is not None for key in keys)
