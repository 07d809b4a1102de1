"""Scores of live sessions on one screen and in files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from duplexmamba.text.tokenizer import TURN_STATE_MARKERS
from evaluation.console import score_table, wide_console, write_lines
from evaluation.duplex.dialogues import PlayedDialogue, cases_of, confusion, curve, invented, scores
from evaluation.duplex.unaddressed import answers_to_unaddressed
from evaluation.record import ScoreValue
from evaluation.saved_scores import save_lines
from reporting.confusion import draw_confusion

LEFT_COLUMN = ("state/", "answer/", "slice/", "memory/")
"""Beginnings of score keys in the left column of the screen; the right one shows turn-taking."""
DPI = 120


def report(
    dialogues: Sequence[PlayedDialogue],
    utterances: Sequence[PlayedDialogue],
    unaddressed: Sequence[PlayedDialogue],
    run: Path,
    title: str,
) -> dict[str, float]:
    """Print, draw and write the scores of dialogues.

    Args:
        dialogues: with the behaviour of a session.
        utterances: the same, each with a single turn that is outside the grammar.
        unaddressed: recordings of talk that is not meant for the model; may be empty.
        run: folder of the run; its scores/ receives duplex.jsonl (a line for each dialogue),
            out_of_grammar.jsonl (one for each utterance), unaddressed.jsonl (one for each
            recording, if there are any), duplex_curve.json and duplex.png.
        title: of the screen and of the figure.

    Returns:
        The scores and the cells of the confusion matrix, by score key.

    Raises:
        ValueError: no slice is labelled `response`, or every slice is.
    """
    # First, since it fails if the labels are unsuitable: then no file is written.
    points = curve(dialogues)
    matrix = confusion(dialogues)
    values = scores(dialogues) | invented(utterances) | answers_to_unaddressed(unaddressed)
    save_lines(run, "duplex", map(_line, dialogues))
    folder = run / "scores"
    write_lines(folder / "out_of_grammar.jsonl", map(_line, utterances))
    if unaddressed:
        write_lines(folder / "unaddressed.jsonl", map(_line, unaddressed))
    curve_values = [point._asdict() for point in points]
    (folder / "duplex_curve.json").write_text(json.dumps(curve_values, indent=1) + "\n")
    draw_confusion(matrix, points, title).savefig(folder / "duplex.png", dpi=DPI)
    print_screen(values, matrix, title)
    flat = {name: score.value for name, score in values.items()}
    for (label, predicted), count in matrix.items():
        flat[f"state/confusion/{label}/{predicted}"] = count
    flat["count/dialogues"] = len(dialogues)
    return flat


def _line(dialogue: PlayedDialogue) -> dict[str, Any]:
    """One dialogue for duplex.jsonl; the cases of each score are in the order of the turns."""
    turns = []
    for turn in dialogue.turns:
        # JSON has no ranges.
        window = [turn.window.start, turn.window.stop]
        turns.append(turn._asdict() | {"window": window})
    responses = []
    for response in dialogue.responses:
        responses.append(
            {
                "decided_s": dialogue.end_s(response.start_slice),
                "begun": response.start_slice,
                "stopped": response.stop_slice,
                "text": response.text,
            }
        )
    pairs = zip(dialogue.labels, dialogue.predicted, strict=True)
    return {
        "id": dialogue.id,
        "findings": cases_of(dialogue),
        "replies": responses,
        "turns": turns,
        "label/named": [f"{label}/{predicted}" for label, predicted in pairs],
    }


def print_screen(
    values: Mapping[str, ScoreValue], matrix: Mapping[tuple[str, str], int], title: str
) -> None:
    """Print scores in two columns, with the confusion matrix at the lower right."""
    console = wide_console()
    console.rule(title, align="left")
    left = {key: score for key, score in values.items() if key.startswith(LEFT_COLUMN)}
    right = {key: score for key, score in values.items() if key not in left}
    # The scores of turn-taking leave enough space for the matrix below them.
    right_column = Table.grid()
    right_column.add_row(score_table(right))
    right_column.add_row("")
    right_column.add_row(matrix_table(matrix))
    columns_table = Table.grid(padding=(0, 4))
    columns_table.add_row(score_table(left), right_column)
    console.print(columns_table)


def matrix_table(matrix: Mapping[tuple[str, str], int]) -> Table:
    """Numbers of slices, with a row for each label and a column for each predicted state."""
    states = predicted_states(matrix)
    table = Table("label, predicted", *states, box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for label in TURN_STATE_MARKERS:
        counts = [f"{matrix[label, state]:,}" for state in states]
        table.add_row(label, *counts)
    return table


def predicted_states(matrix: Mapping[tuple[str, str], int]) -> list[str]:
    """States that a session can predict, in the order of the matrix."""
    return list(dict.fromkeys(predicted for _, predicted in matrix))
