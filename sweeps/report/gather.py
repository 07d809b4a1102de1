"""The runs of a sweep as a table of points."""

import dataclasses
import difflib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from configs.fingerprint import EXECUTION_ONLY
from duplexmamba.text.jsonl import read_complete_lines
from sweeps.report.sweep_file import SweepFile, read_sweep_file


@dataclasses.dataclass(frozen=True)
class Point:
    """One combination of the parameters' values, and its run."""

    parameters: dict[str, Any]
    state: str
    """finished, or why there is no score: missing (it has no run), or the state its run was left in."""
    command: str
    run: str = ""
    """Name of the run's folder."""
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Flat."""
    commits: tuple[str, ...] = ()
    """Of every start that git knew the code of."""
    remark: str = ""


@dataclasses.dataclass(frozen=True)
class Gathered:
    """A sweep: its file, a point for each place of its grid and each further run, and what was not counted."""

    file: SweepFile
    points: list[Point]
    repeated: list[str]
    """Runs of points that another run stands for."""
    foreign: list[str]
    """Runs of a sweep of this name that had other parameters."""

    @property
    def finished(self) -> list[Point]:
        return [point for point in self.points if point.state == "finished"]

    @property
    def unfinished(self) -> list[Point]:
        return [point for point in self.points if point.state != "finished"]

    def score(self, point: Point) -> float:
        return point.scores[self.file.metric]


def gather(name: str, runs: Path) -> Gathered:
    """All that a folder of runs knows of a sweep.

    Raises:
        ValueError: the folder knows no sweep of this name, or its file lacks what a report needs.
    """
    path = runs / "sweeps" / name / "sweep.yaml"
    if not path.is_file():
        known = sorted(found.parent.name for found in path.parent.parent.glob("*/sweep.yaml"))
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known) or 'none'}."
        raise ValueError(
            f"SWEEP={name}: {path} is not there; a sweep that was run has left it. {hint}"
        )
    file = read_sweep_file(path, name)
    left = sorted(runs.glob("*/sweep.json"), key=lambda found: found.stat().st_mtime)
    members = {
        f.parent: json.loads(f.read_text()) for f in left if not f.parent.is_symlink()
    }  # runs/latest
    members = {folder: member for folder, member in members.items() if member["name"] == name}
    own = {f: m for f, m in members.items() if m["parameters"].keys() == file.parameters.keys()}
    points, repeated = _one_each(read_point(folder, member, file) for folder, member in own.items())
    missing = {
        key(values): Point(values, "missing", file.command_of(values)) for values in file.grid()
    }
    table = {**missing, **{key(point.parameters): point for point in points}}
    return Gathered(file, list(table.values()), repeated, [f.name for f in members if f not in own])


def key(parameters: Mapping[str, Any]) -> str:
    """Equal for equal points, however their numbers are written."""
    return json.dumps([_number(parameters[name]) for name in sorted(parameters)], sort_keys=True)


def read_point(folder: Path, member: Mapping[str, Any], file: SweepFile) -> Point:
    """A point from the folder of its run. A run that ended without a number for the metric has failed."""
    scores, state, remark = _json(folder / "summary.json", {}), member["state"], ""
    if state == "finished" and not math.isfinite(scores.get(file.metric, math.nan)):
        state, remark = (
            "failed",
            f"finished with {file.metric}={scores.get(file.metric, 'nothing')}",
        )
    elif state != "finished":
        steps = [line.get("step") for line in read_complete_lines(folder / "metrics.jsonl")]
        reached = f"last logged at update {steps[-1]}" if steps else "logged nothing"
        remark = f"{reached}; {member['error']}" if "error" in member else reached
    starts = read_complete_lines(folder / "starts.jsonl")
    config = folder / "config.yaml"
    return Point(
        {name: member["parameters"][name] for name in file.parameters},
        state,
        starts[-1]["command"] if starts else file.command_of(member["parameters"]),
        folder.name,
        scores,
        flat(yaml.safe_load(config.read_text())) if config.exists() else {},
        tuple(dict.fromkeys(start["git_commit"] for start in starts if start["git_commit"])),
        remark,
    )


def differences(points: Iterable[Point], file: SweepFile) -> dict[str, dict[str, list[str]]]:
    """Configuration key -> value -> runs, for all keys but the swept ones in which runs differ."""
    configs = {point.run: point.config for point in points if point.config}
    names = sorted(
        {name for config in configs.values() for name in config} - file.parameters.keys()
    )
    found: dict[str, dict[str, list[str]]] = {}
    for name in names:
        if name in EXECUTION_ONLY or name.split(".")[0] in EXECUTION_ONLY:
            continue
        values: dict[str, list[str]] = {}
        for run, config in configs.items():
            values.setdefault(json.dumps(config[name]) if name in config else "not set", []).append(
                run
            )
        if len(values) > 1:
            found[name] = values
    return found


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested maps -> dotted names."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        out |= (
            flat(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else {f"{prefix}{name}": value}
        )
    return out


def _one_each(points: Iterable[Point]) -> tuple[list[Point], list[str]]:
    """Of runs of the same point the last finished one, or the last; and the names of the others."""
    kept: dict[str, Point] = {}
    repeated = []
    for point in points:
        other = kept.get(key(point.parameters))
        if other is not None and other.state == "finished" != point.state:
            other, point = point, other
        kept[key(point.parameters)] = point
        repeated += [other.run] if other else []
    return list(kept.values()), repeated


def _number(value: Any) -> Any:
    """1, 1.0 and "1e0" are one value."""
    try:
        return float(value) if not isinstance(value, bool) else value
    except (TypeError, ValueError):
        return value


def _json(path: Path, default: Any) -> Any:
    return json.loads(path.read_text()) if path.exists() else default
