"""Which trial of a sweep comes next: a grid in order; random and bayes with Optuna.

A sweep is the content of a W&B sweep file. The parameters of a trial are a dict of their values.
"""

import dataclasses
import itertools
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

METHODS = ("grid", "random", "bayes")
DISTRIBUTIONS = ("uniform", "int_uniform", "q_uniform", "log_uniform_values")
KEYS = {"value", "values", "min", "max", "distribution", "q"}
"""Keys that the entry of a parameter may have."""
LISTED = {"values", "distribution"}
"""Keys of a parameter whose values are listed."""
SWEEP_KEYS = (
    "program",
    "method",
    "metric",
    "parameters",
    "command",
    "run_cap",
    "name",
    "description",
    "project",
    "entity",
    "early_terminate",
)
"""Keys of a sweep that the hub takes; early_terminate only without a value."""
METRIC_KEYS = {"name", "goal"}
GOALS = ("minimize", "maximize")
PLAIN_TYPES = (str, int, float, bool, list, dict, type(None))
"""Types of values that reach the program of a trial as they were written."""
ON_CLOUD = "run the sweep on the W&B cloud (BACKEND=cloud)"
DEFAULT_STEP = 1
"""Step of q_uniform, unless the entry names one."""

Sweep = dict[str, Any]
Entry = dict[str, Any]
"""A parameter in a sweep file: its values, or its range and distribution."""
Parameters = dict[str, Any]
"""Values of a trial's parameters."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial that has been handed out."""

    parameters: Parameters
    value: float | None
    """Value of the sweep's metric; None if it is not known, or the trial failed."""
    is_running: bool


def check(sweep: Any) -> None:
    """Check that a sweep can be searched.

    Args:
        sweep: content of its file.

    Raises:
        ValueError: it cannot be searched; says why.
    """
    if isinstance(sweep, dict):
        _check_keys(sweep)
    parameters = sweep.get("parameters") if isinstance(sweep, dict) else None
    if not isinstance(parameters, dict) or not parameters:
        raise ValueError(
            "parameters: a sweep names at least one; write "
            "`parameters: {optim.lr: {values: [...]}}`"
        )
    method = sweep.get("method")
    if method not in METHODS:
        raise ValueError(f"method={method!r}: need one of {', '.join(METHODS)}")
    for name, entry in parameters.items():
        _check_parameter(name, entry, method)
    _check_metric(sweep.get("metric"), method)
    cap = sweep.get("run_cap")
    if cap is None:
        return
    if not _is_number(cap) or int(cap) != cap or cap < 1:
        raise ValueError(f"run_cap={cap!r}: need a whole number of runs, at least 1")


def _check_keys(sweep: Sweep) -> None:
    """Refuse what W&B's cloud does and the hub does not."""
    for name, value in sweep.items():
        if name == "early_terminate" and value is not None:
            raise ValueError(
                f"early_terminate={value}: the local hub trains every trial to its end; remove it, "
                f"or {ON_CLOUD}"
            )
        if name not in SWEEP_KEYS:
            raise ValueError(
                f"{name}: the local hub has no such key; remove it, or {ON_CLOUD}; known here: "
                f"{', '.join(SWEEP_KEYS)}"
            )


def _check_metric(metric: Any, method: str) -> None:
    if metric is None:
        metric = {}
    if not isinstance(metric, dict):
        raise ValueError(
            f"metric={metric!r}: need name and goal; write `metric: {{name: test/wer, "
            "goal: minimize}`"
        )
    goal = metric.get("goal", "minimize")
    if goal not in GOALS:
        raise ValueError(f"metric.goal={goal!r}: need one of {', '.join(GOALS)}")
    for name in metric.keys() - METRIC_KEYS:
        raise ValueError(
            f"metric.{name}={metric[name]!r}: the local hub does not end a sweep by it; remove it, "
            f"or {ON_CLOUD}"
        )
    if method == "bayes" and "name" not in metric:
        raise ValueError("metric.name: bayes needs the name of what it is to improve")


def _check_parameter(name: str, entry: Any, method: str) -> None:
    if not isinstance(entry, dict) or not entry or "parameters" in entry:
        raise ValueError(
            f"parameters.{name}={entry}: need value, values, or min and max; dotted names are not "
            "nested"
        )
    for key in entry.keys() - KEYS:
        raise ValueError(
            f"parameters.{name}.{key}={entry[key]!r}: the local hub has no such key; remove it, or "
            f"{ON_CLOUD}; known here: {', '.join(sorted(KEYS))}"
        )
    if "value" in entry or "values" in entry:
        _check_values(name, entry)
        return
    if method == "grid":
        raise ValueError(
            f"parameters.{name}={entry}: a grid needs values; random and bayes can also take "
            "min <= max"
        )
    _check_range(name, entry)
    _check_distribution(name, entry)


def _check_values(name: str, entry: Entry) -> None:
    """Check a parameter whose values are listed."""
    values = [entry["value"]] if "value" in entry else entry["values"]
    others = entry.keys() - {"value", "distribution"} if "value" in entry else entry.keys() - LISTED
    if others:
        raise ValueError(
            f"parameters.{name}: has listed values and {', '.join(sorted(others))}; keep one of them"
        )
    if not isinstance(values, list) or not values:
        raise ValueError(f"parameters.{name}.values={values!r}: need a list of one value or more")
    distribution = entry.get("distribution")
    if distribution not in (None, "constant", "categorical"):
        raise ValueError(
            f"parameters.{name}.distribution={distribution!r}: belongs to min and max; remove it, "
            "or the values"
        )
    for value in values:
        if not isinstance(value, PLAIN_TYPES) or value in (math.inf, -math.inf) or value != value:
            raise ValueError(
                f"parameters.{name}: {value!r} is no text, finite number, list or map; put it in "
                "quotes"
            )


def _check_range(name: str, entry: Entry) -> None:
    for key in ("min", "max"):
        bound = entry.get(key)
        if isinstance(bound, str):
            raise ValueError(
                f"parameters.{name}.{key}={bound!r}: is text in YAML; write a number with a point "
                "and a sign, such as 1.0e-4"
            )
        if not _is_number(bound):
            raise ValueError(
                f"parameters.{name}.{key}={bound!r}: need a number, min <= max; write "
                f"`{name}: {{min: 0.1, max: 1.0}}`, or values"
            )
    if entry["min"] > entry["max"]:
        raise ValueError(
            f"parameters.{name}: min={entry['min']}, max={entry['max']}: need min <= max"
        )


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_distribution(name: str, entry: Entry) -> None:
    distribution = entry.get("distribution", "uniform")
    field = f"parameters.{name}.distribution={distribution!r}"
    if distribution not in DISTRIBUTIONS:
        known = ", ".join(DISTRIBUTIONS)
        raise ValueError(f"{field}: the local hub needs one of {known}; or {ON_CLOUD}")
    low = entry["min"]
    high = entry["max"]
    if distribution == "int_uniform" and (int(low) != low or int(high) != high):
        raise ValueError(f"{field}: min={low}, max={high}: need whole numbers")
    if distribution == "log_uniform_values" and low <= 0:
        raise ValueError(f"parameters.{name}.min={low}: log_uniform_values needs more than 0")
    if "q" in entry and distribution != "q_uniform":
        raise ValueError(f"parameters.{name}.q={entry['q']}: only distribution=q_uniform has steps")
    step = entry.get("q", DEFAULT_STEP)
    if not _is_number(step) or step <= 0:
        raise ValueError(f"parameters.{name}.q={step!r}: a step is a number of more than 0")


def grid(sweep: Sweep) -> Iterator[Parameters]:
    """Parameters of all trials of a grid; the last parameter changes first."""
    names = list(sweep["parameters"])
    axes = [_choices(entry) for entry in sweep["parameters"].values()]
    for values in itertools.product(*axes):
        yield dict(zip(names, values, strict=True))


def suggest(sweep: Sweep, trials: Sequence[Trial], name: str = "") -> Parameters | None:
    """Parameters of the next trial.

    Args:
        sweep: content of a sweep file that `check` accepts.
        trials: all that have been handed out.
        name: of the sweep; others draw other values.

    Returns:
        The parameters; None if the search is at its end.
    """
    if len(trials) >= (sweep.get("run_cap") or math.inf):
        return None
    if sweep["method"] != "grid":
        return _sample(sweep, trials, name)
    # as text, since in Python 1, 1.0 and true are equal
    known = {json.dumps(trial.parameters, sort_keys=True) for trial in trials}
    for parameters in grid(sweep):
        if json.dumps(parameters, sort_keys=True) not in known:
            return parameters
    return None


def _sample(sweep: Sweep, trials: Sequence[Trial], name: str) -> Parameters:
    """Parameters drawn by Optuna: independently for random, by TPE for bayes."""
    # Imported here, since a grid does not need it and it is slow to import.
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # A hub that was killed continues with the same parameters.
    seed = zlib.crc32(f"{name} {len(trials)}".encode())
    sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=seed)
    if sweep["method"] == "bayes":
        sampler = optuna.samplers.TPESampler(seed=seed)
    goal = (sweep.get("metric") or {}).get("goal", "minimize")
    study = optuna.create_study(sampler=sampler, direction=goal)
    entries: dict[str, Entry] = sweep["parameters"]
    space = {name: _distribution(entry) for name, entry in entries.items()}
    if sweep["method"] == "bayes":
        for trial in trials:
            study.add_trial(_optuna_trial(trial, entries, space))
    drawn = study.ask(space).params
    parameters = {}
    for name, entry in entries.items():
        parameters[name] = _from_optuna(entry, drawn[name])
    return parameters


def _distribution(entry: Entry) -> Any:
    """Optuna's distribution of a parameter."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if "min" not in entry:
        # Indices instead of the values, which may be lists.
        return CategoricalDistribution(range(len(_choices(entry))))
    low = entry["min"]
    high = entry["max"]
    distribution = entry.get("distribution")
    if distribution is None and isinstance(low, int) and isinstance(high, int):
        # W&B infers whole numbers from whole bounds.
        distribution = "int_uniform"
    if distribution == "int_uniform":
        return IntDistribution(low, high)
    step = None
    if distribution == "q_uniform":
        step = entry.get("q", DEFAULT_STEP)
    is_log = distribution == "log_uniform_values"
    return FloatDistribution(low, high, log=is_log, step=step)


def _optuna_trial(trial: Trial, entries: dict[str, Entry], space: dict[str, Any]) -> Any:
    """A trial in Optuna's format."""
    from optuna.trial import TrialState, create_trial

    params = {}
    for name, entry in entries.items():
        params[name] = _to_optuna(entry, trial.parameters[name])
    state = TrialState.COMPLETE
    if trial.is_running:
        state = TrialState.RUNNING
    elif trial.value is None:
        state = TrialState.FAIL
    # Optuna accepts a value for complete trials only.
    value = trial.value if state == TrialState.COMPLETE else None
    return create_trial(state=state, value=value, params=params, distributions=space)


def _to_optuna(entry: Entry, value: Any) -> Any:
    """A value of a parameter, or its index among the choices."""
    if "min" in entry:
        return value
    return _choices(entry).index(value)


def _from_optuna(entry: Entry, drawn: Any) -> Any:
    """Inverse of `_to_optuna`."""
    if "min" in entry:
        return drawn
    return _choices(entry)[drawn]


def _choices(entry: Entry) -> list[Any]:
    """Values of a parameter that has no range."""
    if "value" in entry:
        return [entry["value"]]
    return entry["values"]
