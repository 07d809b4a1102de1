"""Scores, figure and files of the comparison of a model with baselines."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from configs.schema import Config
from evaluation.console import wide_console
from evaluation.duplex.comparison import HeardTurn, Point, curve, findings, point
from evaluation.duplex.systems import BASELINES, setting_key
from evaluation.duplex.systems.own import NAME
from reporting.takeovers import draw_takeovers

DPI = 120
FILE = "duplex_systems"
"""Stem of the figure and of the JSON file in the folder of scores."""


def report_systems(
    heard: Mapping[str, Sequence[HeardTurn]], config: Config, folder: Path, title: str
) -> dict[str, float]:
    """Print, draw and write how systems take over.

    Args:
        heard: system -> turns with its scores; the model is one of them.
        config: has the threshold of the model.
        folder: of the run; its scores/ receives duplex_systems.json and duplex_systems.png.
        title: of the figure and of the table.

    Returns:
        Scores by key; none if no turn has a pause.
    """
    if not any(turn.pause_s for turn in heard[NAME]):
        print("no question has a pause, so the baselines are not compared: raise dialogue.shares")
        return {}
    curves = {}
    settings = {}
    for system, turns in heard.items():
        curves[system] = curve(turns)
        settings[system] = _settings(system, turns, config)
    # In words, so that nobody has to read where a baseline is better off a figure.
    sentences = findings(curves, settings, NAME)
    content = {
        "num_turns": len(heard[NAME]),
        "num_pauses": sum(turn.pause_s is not None for turn in heard[NAME]),
        "findings": sentences,
        "settings": {system: _json(points) for system, points in settings.items()},
        "curves": {
            system: [each._asdict() for each in points] for system, points in curves.items()
        },
    }
    file = folder / "scores" / f"{FILE}.json"
    file.write_text(json.dumps(content, indent=1) + "\n")
    figure = draw_takeovers(_lines(curves), _marks(settings), title)
    figure.savefig(file.with_suffix(".png"), dpi=DPI)
    _print_table(settings, sentences, title)
    return _flat(settings)


def _settings(system: str, turns: Sequence[HeardTurn], config: Config) -> dict[str, Point]:
    """The settings of a system that people use, and what it does there."""
    if system == NAME:
        thresholds: Mapping[str, float] = {"": config.duplex.response_threshold}
    else:
        thresholds = BASELINES[system].operating_points
    return {setting: point(turns, threshold) for setting, threshold in thresholds.items()}


def _json(points: Mapping[str, Point]) -> dict[str, Any]:
    return {setting: each._asdict() for setting, each in points.items()}


def _lines(curves: Mapping[str, Sequence[Point]]) -> dict[str, list[tuple[float, float]]]:
    """System -> (latency, false take-overs) of its curve."""
    return {system: [_xy(each) for each in points] for system, points in curves.items()}


def _marks(
    settings: Mapping[str, Mapping[str, Point]],
) -> dict[str, dict[str, tuple[float, float]]]:
    """System -> setting -> (latency, false take-overs)."""
    marks = {}
    for system, points in settings.items():
        marks[system] = {setting: _xy(each) for setting, each in points.items()}
    return marks


def _xy(point: Point) -> tuple[float, float]:
    return point.latency_s, point.false_takeover_rate


def _flat(settings: Mapping[str, Mapping[str, Point]]) -> dict[str, float]:
    values = {}
    for system, points in settings.items():
        for setting, each in points.items():
            for name, value in each._asdict().items():
                if name != "threshold":
                    values[f"{setting_key(system, setting)}/{name}"] = value
    return values


def _print_table(
    settings: Mapping[str, Mapping[str, Point]], sentences: Sequence[str], title: str
) -> None:
    console = wide_console()
    console.rule(f"{title}: beside baselines", align="left")
    columns = ("false take-overs in pauses", "latency", "premature", "missed")
    table = Table("system", *columns, box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for system, points in settings.items():
        for setting, each in points.items():
            table.add_row(
                f"{system} {setting}",
                f"{each.false_takeover_rate:.1%}",
                f"{each.latency_s:.2f} s",
                f"{each.premature_rate:.1%}",
                f"{each.missed_rate:.1%}",
            )
    console.print(table)
    for sentence in sentences:
        console.print(sentence)
