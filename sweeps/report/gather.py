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
from lightning_modules.trainer.sweep_file import file_digest
from sweeps.report.sweep_file import SweepFile, read_sweep_file
from sweeps.trials import parameters_key, read_records


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
    """One trial for each combination of a grid, or for each that was drawn."""
    repeated: list[str]
    """Runs of trials that another run represents."""
    foreign: list[str]
    """Runs of earlier texts of the file: of other parameters, of values that it does not have any
    more, or drawn and not finished."""

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

    Returns:
        Its trials, those of the grid in the order of the grid, and runs that are not counted.

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
    digest = file_digest(path)
    trials = []
    foreign = []
    for folder, record in read_records(runs, name).items():
        if _is_of_file(record, file, digest):
            trials.append(read_trial(folder, record, file))
        else:
            foreign.append(folder.name)
    counted, repeated = _choose_one_run_each(trials)
    return SweepResults(file, _fill_grid(file, counted), repeated, foreign)


def _is_of_file(record: Mapping[str, Any], file: SweepFile, digest: str) -> bool:
    """Whether a run is of a point that the file still has; it may have changed since the run."""
    parameters = record["parameters"]
    if parameters.keys() != file.parameters.keys():
        return False
    if file.method == "grid":
        points = {parameters_key(point) for point in file.grid()}
        return parameters_key(parameters) in points
    return record["state"] == "finished" or record.get("file", digest) == digest


def _fill_grid(file: SweepFile, trials: Iterable[Trial]) -> list[Trial]:
    """Trials of a grid in its order, whether they were run or not; else those that were drawn."""
    table: dict[str, Trial] = {}
    for parameters in file.grid():
        command = file.command_of(parameters)
        table[parameters_key(parameters)] = Trial(parameters, "missing", command)
    for trial in trials:
        # A trial of the grid takes the place of the missing one.
        table[parameters_key(trial.parameters)] = trial
    return list(table.values())


def _nearest_sweep(name: str, folder: Path) -> str:
    """A hint for a name that no sweep has."""
    known = sorted(file.parent.name for file in folder.glob("*/sweep.yaml"))
    nearest = difflib.get_close_matches(name, known, n=1)
    if nearest:
        return f"Did you mean {nearest[0]!r}?"
    listed = ", ".join(known) or "none"
    return f"Known: {listed}."


def read_trial(folder: Path, record: Mapping[str, Any], file: SweepFile) -> Trial:
    """Read a trial from the folder of its run.

    A run that ended without a finite metric has failed.

    Args:
        folder: of the run.
        record: its sweep.json.
        file: of the sweep.
    """
    scores = _read_json(folder / "summary.json", {})
    state = record["state"]
    remark = ""
    if state != "finished":
        remark = _progress(folder, record)
    elif not math.isfinite(scores.get(file.metric, math.nan)):
        state = "failed"
        remark = f"finished with {file.metric}={scores.get(file.metric, 'nothing')}"
    starts = read_complete_lines(folder / "starts.jsonl")
    command = file.command_of(record["parameters"])
    if starts:
        # As it was run, with overrides that the file does not have.
        command = starts[-1]["command"]
    config_file = folder / "config.yaml"
    config = {}
    # A run whose parameters are invalid leaves none.
    if config_file.exists():
        config = flatten(yaml.safe_load(config_file.read_text()))
    commits = [start["git_commit"] for start in starts if start["git_commit"]]
    return Trial(
        parameters={name: record["parameters"][name] for name in file.parameters},
        state=state,
        command=command,
        run=folder.name,
        scores=scores,
        config=config,
        commits=tuple(dict.fromkeys(commits)),
        remark=remark,
    )


def _progress(folder: Path, record: Mapping[str, Any]) -> str:
    """How far an unfinished run got, and its error."""
    lines = read_complete_lines(folder / "metrics.jsonl")
    progress = "logged nothing"
    if lines:
        step = lines[-1].get("step")
        progress = f"last logged at update {step}"
    if "error" in record:
        return f"{progress}; {record['error']}"
    return progress


def differences(trials: Iterable[Trial], file: SweepFile) -> dict[str, dict[str, list[str]]]:
    """Configuration keys in which runs differ although they were not swept.

    Args:
        trials: of the sweep.
        file: of the sweep.

    Returns:
        Key -> value as JSON -> names of runs.
    """
    configs = {trial.run: trial.config for trial in trials if trial.config}
    names: set[str] = set()
    for config in configs.values():
        names.update(config)
    differing = {}
    for name in sorted(names - file.parameters.keys()):
        # Keys that do not change the experiment may differ.
        section = name.split(".")[0]
        if name in EXECUTION_ONLY or section in EXECUTION_ONLY:
            continue
        runs = _runs_by_value(name, configs)
        if len(runs) > 1:
            differing[name] = runs
    return differing


def _runs_by_value(name: str, configs: Mapping[str, dict[str, Any]]) -> dict[str, list[str]]:
    """Value of a configuration key as JSON -> names of runs."""
    runs: dict[str, list[str]] = {}
    for run, config in configs.items():
        # Runs of another version of the code may lack the key.
        value = json.dumps(config[name]) if name in config else "not set"
        runs.setdefault(value, []).append(run)
    return runs


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested maps into one with dotted names.

    Args:
        values: the outer map.
        prefix: of all names.
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        full_name = f"{prefix}{name}"
        if isinstance(value, dict):
            flat |= flatten(value, f"{full_name}.")
        else:
            flat[full_name] = value
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


def _read_json(path: Path, default: Any) -> Any:
    """Content of a JSON file, or a default if there is no file."""
    if not path.exists():
        return default
    return json.loads(path.read_text())
