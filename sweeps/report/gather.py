"""The runs of a sweep as a table of trials."""

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
class Trial:
    """One combination of parameter values, and its run."""

    parameters: dict[str, Any]
    state: str
    """`finished`, or why there is no score: `missing` if there is no run, else the state in which
    the run was left."""
    command: str
    run: str = ""
    """Name of the run's folder."""
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Configuration with dotted keys."""
    commits: tuple[str, ...] = ()
    """Git commits of all starts of the run, as far as they are known."""
    remark: str = ""
    """How far an unfinished run got, and its error."""


@dataclasses.dataclass(frozen=True)
class SweepResults:
    """A sweep: its file, its trials, and runs that are not counted."""

    file: SweepFile
    trials: list[Trial]
    """One trial for each combination of the grid, and one for every other combination that was
    run."""
    repeated: list[str]
    """Runs of trials that another run represents."""
    foreign: list[str]
    """Runs of a sweep with the same name and other parameters."""

    @property
    def points(self) -> list[Trial]:
        """Earlier name of `trials`."""
        return self.trials

    @property
    def finished(self) -> list[Trial]:
        """Trials with a score."""
        return [trial for trial in self.trials if trial.state == "finished"]

    @property
    def unfinished(self) -> list[Trial]:
        """Trials without a score."""
        return [trial for trial in self.trials if trial.state != "finished"]

    def score(self, trial: Trial) -> float:
        """The metric of a finished trial."""
        return trial.scores[self.file.metric]


def gather(name: str, runs: Path) -> SweepResults:
    """Collect the runs of a sweep.

    Args:
        name: of the sweep.
        runs: folder of all runs.

    Raises:
        ValueError: no sweep of this name was run, or its file lacks what a report needs.
    """
    path = runs / "sweeps" / name / "sweep.yaml"
    if not path.is_file():
        hint = _nearest_sweep(name, path.parent.parent)
        raise ValueError(
            f"SWEEP={name}: {path} is not there; a sweep that was run has left it. {hint}"
        )
    file = read_sweep_file(path, name)
    trials = []
    foreign = []
    for folder, member in _read_members(runs, name).items():
        if member["parameters"].keys() == file.parameters.keys():
            trials.append(read_trial(folder, member, file))
        else:
            foreign.append(folder.name)
    counted, repeated = _choose_one_run_each(trials)

    # Trials of the grid come first, in the order of the grid, whether they were run or not.
    table: dict[str, Trial] = {}
    for parameters in file.grid():
        missing = Trial(parameters, "missing", file.command_of(parameters))
        table[parameters_key(parameters)] = missing
    for trial in counted:
        table[parameters_key(trial.parameters)] = trial
    return SweepResults(file, list(table.values()), repeated, foreign)


def _nearest_sweep(name: str, folder: Path) -> str:
    """A hint for a name that no sweep has."""
    known = sorted(file.parent.name for file in folder.glob("*/sweep.yaml"))
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Known: {', '.join(known) or 'none'}."


def _read_members(runs: Path, name: str) -> dict[Path, dict[str, Any]]:
    """Folder -> sweep.json of the runs of a sweep, the last one written at the end."""
    files = sorted(runs.glob("*/sweep.json"), key=lambda file: file.stat().st_mtime)
    members = {}
    for file in files:
        # `runs/latest` is a link to a run that is found under its own name.
        if file.parent.is_symlink():
            continue
        member = json.loads(file.read_text())
        if member["name"] == name:
            members[file.parent] = member
    return members


def parameters_key(parameters: Mapping[str, Any]) -> str:
    """A text that is equal for equal parameters, however their numbers are written."""
    values = [_as_number(parameters[name]) for name in sorted(parameters)]
    return json.dumps(values, sort_keys=True)


def read_trial(folder: Path, member: Mapping[str, Any], file: SweepFile) -> Trial:
    """Read a trial from the folder of its run.

    A run that ended without a finite metric has failed.

    Args:
        folder: of the run.
        member: its sweep.json.
        file: of the sweep.
    """
    scores = _read_json(folder / "summary.json", {})
    state = member["state"]
    remark = ""
    if state != "finished":
        remark = _progress(folder, member)
    elif not math.isfinite(scores.get(file.metric, math.nan)):
        state = "failed"
        remark = f"finished with {file.metric}={scores.get(file.metric, 'nothing')}"
    starts = read_complete_lines(folder / "starts.jsonl")
    command = file.command_of(member["parameters"])
    if starts:
        command = starts[-1]["command"]
    config_file = folder / "config.yaml"
    config = {}
    if config_file.exists():
        config = flatten(yaml.safe_load(config_file.read_text()))
    commits = [start["git_commit"] for start in starts if start["git_commit"]]
    return Trial(
        parameters={name: member["parameters"][name] for name in file.parameters},
        state=state,
        command=command,
        run=folder.name,
        scores=scores,
        config=config,
        commits=tuple(dict.fromkeys(commits)),
        remark=remark,
    )


def _progress(folder: Path, member: Mapping[str, Any]) -> str:
    """How far an unfinished run got, and its error."""
    steps = [line.get("step") for line in read_complete_lines(folder / "metrics.jsonl")]
    progress = f"last logged at update {steps[-1]}" if steps else "logged nothing"
    if "error" in member:
        return f"{progress}; {member['error']}"
    return progress


def differences(trials: Iterable[Trial], file: SweepFile) -> dict[str, dict[str, list[str]]]:
    """Configuration keys in which runs differ although they were not swept.

    Returns:
        Key -> value as JSON -> names of runs.
    """
    configs = {trial.run: trial.config for trial in trials if trial.config}
    names = {name for config in configs.values() for name in config}
    differing: dict[str, dict[str, list[str]]] = {}
    for name in sorted(names - file.parameters.keys()):
        # Keys that do not change the experiment may differ.
        if name in EXECUTION_ONLY or name.split(".")[0] in EXECUTION_ONLY:
            continue
        values: dict[str, list[str]] = {}
        for run, config in configs.items():
            value = json.dumps(config[name]) if name in config else "not set"
            values.setdefault(value, []).append(run)
        if len(values) > 1:
            differing[name] = values
    return differing


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested maps -> dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _choose_one_run_each(trials: Iterable[Trial]) -> tuple[list[Trial], list[str]]:
    """Choose among runs with equal parameters.

    Returns:
        For each combination of parameters the last finished run, or the last run if none has
        finished; and the names of the other runs.
    """
    chosen: dict[str, Trial] = {}
    repeated = []
    for trial in trials:
        key = parameters_key(trial.parameters)
        earlier = chosen.get(key)
        if earlier is None:
            chosen[key] = trial
        elif earlier.state == "finished" and trial.state != "finished":
            repeated.append(trial.run)
        else:
            repeated.append(earlier.run)
            chosen[key] = trial
    return list(chosen.values()), repeated


def _as_number(value: Any) -> Any:
    """1, 1.0 and "1e0" as the same number; other values unchanged."""
    if isinstance(value, bool):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def _read_json(path: Path, default: Any) -> Any:
    """Content of a JSON file, or a default if there is no file."""
    if not path.exists():
        return default
    return json.loads(path.read_text())
