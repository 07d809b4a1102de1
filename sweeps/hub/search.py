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

from sweeps.hub.distributions import (
    DEFAULT_MU,
    DEFAULT_SIGMA,
    DEFAULT_STEP,
    DERIVED,
    WITHOUT_RANGE,
    Q,
    base_name,
    bounds_of,
    choice_of,
    number_of_choice,
    number_of_value,
    value_of,
)

METHODS = ("grid", "random", "bayes")
OF_OPTUNA = ("uniform", "int_uniform", "q_uniform", "log_uniform_values")
"""Distributions that Optuna has."""
DISTRIBUTIONS = (*OF_OPTUNA, *(name for name in DERIVED if name not in OF_OPTUNA))
"""Distributions of numbers; those that Optuna does not have may also have the mark `q_`."""
KEYS = {"value", "values", "probabilities", "min", "max", "mu", "sigma", "distribution", "q"}
"""Keys that the entry of a parameter may have."""
LISTED = {"values", "probabilities", "distribution"}
"""Keys of a parameter whose values are listed."""
LISTED_DISTRIBUTIONS = (None, "constant", "categorical", "categorical_w_probabilities")
"""Distributions of a parameter whose values are listed."""
PROBABILITY_TOLERANCE = 1e-6
MAX_EXPONENT = 700
"""Largest natural logarithm of a value: beyond it there is no number."""
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
    for name, entry in flat_entries(parameters).items():
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


def flat_entries(parameters: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Entries of all parameters by their dotted names; nested ones are named after their section.

    Args:
        parameters: of a sweep file, or of a section of it.
        prefix: of all names.
    """
    entries: dict[str, Any] = {}
    for name, entry in parameters.items():
        full_name = f"{prefix}{name}"
        section = entry.get("parameters") if isinstance(entry, dict) else None
        if isinstance(section, dict) and section:
            entries |= flat_entries(section, f"{full_name}.")
        else:
            entries[full_name] = entry
    return entries


def nested_values(values: Parameters, parameters: dict[str, Any], prefix: str = "") -> Parameters:
    """Values by the names of a sweep file, nested as they are there: inverse of `flat_entries`.

    Args:
        values: dotted name -> value.
        parameters: of a sweep file, or of a section of it.
        prefix: of the names of that section.
    """
    nested: Parameters = {}
    for name, entry in parameters.items():
        full_name = f"{prefix}{name}"
        if full_name in values:
            nested[name] = values[full_name]
        # The file may have got other parameters since the run was drawn.
        elif "parameters" in entry:
            nested[name] = nested_values(values, entry["parameters"], f"{full_name}.")
    return nested


def _check_parameter(name: str, entry: Any, method: str) -> None:
    if not isinstance(entry, dict) or not entry or "parameters" in entry:
        raise ValueError(
            f"parameters.{name}={entry}: need value, values, min and max, or a section `parameters`"
        )
    for key in entry.keys() - KEYS:
        raise ValueError(
            f"parameters.{name}.{key}={entry[key]!r}: the local hub has no such key; remove it, or "
            f"{ON_CLOUD}; known here: {', '.join(sorted(KEYS))}"
        )
    if "value" in entry or "values" in entry:
        _check_values(name, entry)
        return
    distribution = _distribution_name(entry)
    if method == "grid" and distribution != "int_uniform":
        raise ValueError(
            f"parameters.{name}={entry}: a grid needs values, or whole numbers min <= max; random "
            "and bayes can also draw from a range"
        )
    if base_name(distribution) in WITHOUT_RANGE:
        _check_normal(name, entry)
    else:
        _check_range(name, entry)
    _check_distribution(name, entry, distribution)


def _distribution_name(entry: Entry) -> str:
    """Distribution of a parameter that is no list; W&B infers whole numbers from whole bounds."""
    if "distribution" in entry:
        return str(entry["distribution"])
    if "mu" in entry or "sigma" in entry:
        return "normal"
    bounds = (entry.get("min"), entry.get("max"))
    are_whole = all(isinstance(bound, int) and not isinstance(bound, bool) for bound in bounds)
    return "int_uniform" if are_whole and "q" not in entry else "uniform"


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
    if distribution not in LISTED_DISTRIBUTIONS:
        raise ValueError(
            f"parameters.{name}.distribution={distribution!r}: belongs to min and max, or mu and "
            "sigma; remove it, or the values"
        )
    for value in values:
        if not isinstance(value, PLAIN_TYPES) or value in (math.inf, -math.inf) or value != value:
            raise ValueError(
                f"parameters.{name}: {value!r} is no text, finite number, list or map; put it in "
                "quotes"
            )
    if "probabilities" in entry:
        _check_probabilities(name, entry)


def _check_probabilities(name: str, entry: Entry) -> None:
    probabilities = entry["probabilities"]
    field = f"parameters.{name}.probabilities={probabilities!r}"
    is_list = isinstance(probabilities, list) and all(map(_is_number, probabilities))
    if not is_list or len(probabilities) != len(entry["values"]) or min(probabilities) < 0:
        raise ValueError(f"{field}: need a list of one number, 0 or more, for each value")
    if abs(sum(probabilities) - 1) > PROBABILITY_TOLERANCE:
        raise ValueError(f"{field}: their sum is {sum(probabilities)}; need 1")


def _check_range(name: str, entry: Entry) -> None:
    for key in ("min", "max"):
        _check_number(name, key, entry.get(key))
    if entry["min"] > entry["max"]:
        raise ValueError(
            f"parameters.{name}: min={entry['min']}, max={entry['max']}: need min <= max"
        )


def _check_number(name: str, key: str, value: Any) -> None:
    if isinstance(value, str):
        raise ValueError(
            f"parameters.{name}.{key}={value!r}: is text in YAML; write a number with a point "
            "and a sign, such as 1.0e-4"
        )
    if not _is_number(value):
        raise ValueError(
            f"parameters.{name}.{key}={value!r}: need a number; write "
            f"`{name}: {{min: 0.1, max: 1.0}}` with min <= max, or values"
        )


def _check_normal(name: str, entry: Entry) -> None:
    """Check mu and sigma."""
    for key, default in (("mu", DEFAULT_MU), ("sigma", DEFAULT_SIGMA)):
        _check_number(name, key, entry.get(key, default))
    sigma = entry.get("sigma", DEFAULT_SIGMA)
    if sigma <= 0:
        raise ValueError(f"parameters.{name}.sigma={sigma}: need more than 0")
    others = entry.keys() & {"min", "max"}
    if others:
        raise ValueError(
            f"parameters.{name}: has mu and sigma, and {', '.join(sorted(others))}; keep one of them"
        )


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_distribution(name: str, entry: Entry, distribution: str) -> None:
    field = f"parameters.{name}.distribution={distribution!r}"
    is_rounded = distribution.startswith(Q)
    if distribution not in OF_OPTUNA and base_name(distribution) not in DERIVED:
        known = ", ".join(DISTRIBUTIONS)
        raise ValueError(f"{field}: the local hub needs one of {known}; or {ON_CLOUD}")
    if "q" in entry and not is_rounded:
        raise ValueError(
            f"parameters.{name}.q={entry['q']}: only distributions that begin with q_ have steps, "
            "such as distribution=q_uniform"
        )
    step = entry.get("q", DEFAULT_STEP)
    if not _is_number(step) or step <= 0:
        raise ValueError(f"parameters.{name}.q={step!r}: a step is a number of more than 0")
    if base_name(distribution) in WITHOUT_RANGE:
        return
    low = entry["min"]
    high = entry["max"]
    if distribution == "int_uniform" and (int(low) != low or int(high) != high):
        raise ValueError(f"{field}: min={low}, max={high}: need whole numbers")
    if distribution.endswith("_values") and low <= 0:
        raise ValueError(f"parameters.{name}.min={low}: {distribution} needs more than 0")
    is_exponent = base_name(distribution) in ("log_uniform", "inv_log_uniform")
    if is_exponent and max(abs(low), abs(high)) > MAX_EXPONENT:
        raise ValueError(
            f"{field}: min={low}, max={high} are natural logarithms of the values, at most "
            f"{MAX_EXPONENT}; for the values themselves write {distribution}_values"
        )


def grid(sweep: Sweep) -> Iterator[Parameters]:
    """Parameters of all trials of a grid; the last parameter changes first."""
    entries = flat_entries(sweep["parameters"])
    axes = [choices(entry) for entry in entries.values()]
    for values in itertools.product(*axes):
        yield dict(zip(entries, values, strict=True))


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
    entries = flat_entries(sweep["parameters"])
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
    """Optuna's distribution of a parameter, or of the number from which its value is computed."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if "probabilities" in entry:
        return FloatDistribution(0, 1)
    if _is_listed(entry):
        # Indices instead of the values, which may be lists.
        return CategoricalDistribution(range(len(choices(entry))))
    name = _distribution_name(entry)
    if name not in OF_OPTUNA:
        low, high = bounds_of(entry | {"distribution": name})
        return FloatDistribution(low, high)
    low = entry["min"]
    high = entry["max"]
    if name == "int_uniform":
        return IntDistribution(int(low), int(high))
    step = None
    if name == "q_uniform":
        step = entry.get("q", DEFAULT_STEP)
    is_log = name == "log_uniform_values"
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
    """What Optuna has drawn for a value of a parameter: the value, an index, or another number."""
    if "probabilities" in entry:
        return number_of_choice(entry["probabilities"], entry["values"].index(value))
    if _is_listed(entry):
        return choices(entry).index(value)
    name = _distribution_name(entry)
    if name in OF_OPTUNA:
        return value
    return number_of_value(entry | {"distribution": name}, value)


def _from_optuna(entry: Entry, drawn: Any) -> Any:
    """Inverse of `_to_optuna`."""
    if "probabilities" in entry:
        return entry["values"][choice_of(entry["probabilities"], drawn)]
    if _is_listed(entry):
        return choices(entry)[drawn]
    name = _distribution_name(entry)
    if name in OF_OPTUNA:
        return drawn
    return value_of(entry | {"distribution": name}, drawn)


def _is_listed(entry: Entry) -> bool:
    return "value" in entry or "values" in entry


def choices(entry: Entry) -> list[Any]:
    """Values of a parameter that are listed, or all whole numbers of its range.

    Args:
        entry: of the parameter in the sweep file.
    """
    if "value" in entry:
        return [entry["value"]]
    if "values" in entry:
        return entry["values"]
    return list(range(int(entry["min"]), int(entry["max"]) + 1))
