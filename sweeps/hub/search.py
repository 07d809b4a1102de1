"""Which trial of a sweep comes next: a grid in order; random and bayes with Optuna.

A sweep is the content of a W&B sweep file. The parameters of a trial are a dict of their values.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

METHODS = ("grid", "random", "bayes")
DISTRIBUTIONS = ("uniform", "int_uniform", "q_uniform", "log_uniform_values")
KEYS = {"value", "values", "min", "max", "distribution", "q"}
"""Keys that the entry of a parameter may have."""
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
    if method == "bayes" and "name" not in (sweep.get("metric") or {}):
        raise ValueError("metric.name: bayes needs the name of what it is to improve")
    cap = sweep.get("run_cap")
    if cap is None:
        return
    if not isinstance(cap, int) or cap < 1:
        raise ValueError(f"run_cap={cap!r}: need a whole number of runs, at least 1")


def _check_parameter(name: str, entry: Any, method: str) -> None:
    is_entry = isinstance(entry, dict) and entry and entry.keys() <= KEYS
    if not is_entry:
        raise ValueError(
            f"parameters.{name}={entry}: need value, values, or min and max; dotted names are not "
            "nested"
        )
    has_values = isinstance(entry.get("values"), list) and entry["values"]
    if "value" in entry or has_values:
        return
    if method == "grid" or not _has_range(entry):
        raise ValueError(
            f"parameters.{name}={entry}: a grid needs values; random and bayes can also take "
            "min <= max"
        )
    _check_distribution(name, entry)


def _has_range(entry: Entry) -> bool:
    low = entry.get("min")
    high = entry.get("max")
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        return False
    return low <= high


def _check_distribution(name: str, entry: Entry) -> None:
    distribution = entry.get("distribution", "uniform")
    if distribution not in DISTRIBUTIONS:
        known = ", ".join(DISTRIBUTIONS)
        raise ValueError(f"parameters.{name}.distribution={distribution!r}: need one of {known}")
    low = entry["min"]
    if distribution == "log_uniform_values" and low <= 0:
        raise ValueError(f"parameters.{name}.min={low}: log_uniform_values needs more than 0")
    step = entry.get("q", DEFAULT_STEP)
    if distribution == "q_uniform" and not step > 0:
        raise ValueError(f"parameters.{name}.q={step}: a step is more than 0")


def grid(sweep: Sweep) -> Iterator[Parameters]:
    """Parameters of all trials of a grid; the last parameter changes first."""
    names = list(sweep["parameters"])
    axes = [_choices(entry) for entry in sweep["parameters"].values()]
    for values in itertools.product(*axes):
        yield dict(zip(names, values, strict=True))


def suggest(sweep: Sweep, trials: Sequence[Trial]) -> Parameters | None:
    """Parameters of the next trial.

    Args:
        sweep: content of a sweep file that `check` accepts.
        trials: all that have been handed out.

    Returns:
        The parameters; None if the search is at its end.
    """
    if len(trials) >= (sweep.get("run_cap") or math.inf):
        return None
    if sweep["method"] != "grid":
        return _sample(sweep, trials)
    known = [trial.parameters for trial in trials]
    for parameters in grid(sweep):
        if parameters not in known:
            return parameters
    return None


def _sample(sweep: Sweep, trials: Sequence[Trial]) -> Parameters:
    """Parameters drawn by Optuna: independently for random, by TPE for bayes."""
    # Imported here, since a grid does not need it and it is slow to import.
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # A hub that was killed continues with the same parameters.
    seed = len(trials)
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
