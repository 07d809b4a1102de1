"""Which point of a sweep comes next: grid in order; random, and bayes by Optuna's TPE.

A sweep is a W&B sweep file as a dict. A point is parameter -> value.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

METHODS = ("grid", "random", "bayes")
DISTRIBUTIONS = ("uniform", "int_uniform", "q_uniform", "log_uniform_values")
KEYS = {"value", "values", "min", "max", "distribution", "q"}

Sweep = dict[str, Any]
Point = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Trial:
    """A point handed out before."""

    point: Point
    value: float | None
    """Value of the sweep's metric; None: not known, or the trial failed."""
    running: bool


def check(sweep: Any) -> None:
    """Raises ValueError: a sweep that cannot be searched, and why."""
    if (
        not isinstance(sweep, dict)
        or not isinstance(sweep.get("parameters"), dict)
        or not sweep["parameters"]
    ):
        raise ValueError(
            "parameters: a sweep names at least one; write `parameters: {optim.lr: {values: [...]}}`"
        )
    if sweep.get("method") not in METHODS:
        raise ValueError(f"method={sweep.get('method')!r}: need one of {', '.join(METHODS)}")
    for name, given in sweep["parameters"].items():
        _check_parameter(name, given, sweep["method"])
    if sweep["method"] == "bayes" and "name" not in (sweep.get("metric") or {}):
        raise ValueError("metric.name: bayes needs the name of what it is to improve")
    cap = sweep.get("run_cap")
    if cap is not None and (not isinstance(cap, int) or cap < 1):
        raise ValueError(f"run_cap={cap!r}: need a whole number of runs, at least 1")


def _check_parameter(name: str, given: Any, method: str) -> None:
    if not isinstance(given, dict) or not given or not given.keys() <= KEYS:
        raise ValueError(
            f"parameters.{name}={given}: need value, values, or min and max; dotted names are not nested"
        )
    if "value" in given or isinstance(given.get("values"), list) and given["values"]:
        return
    numbers: list[Any] = [given.get("min"), given.get("max")]
    if (
        method == "grid"
        or not all(isinstance(n, int | float) for n in numbers)
        or numbers[0] > numbers[1]
    ):
        raise ValueError(
            f"parameters.{name}={given}: a grid needs values; random and bayes can also take min <= max"
        )
    kind = given.get("distribution", "uniform")
    if kind not in DISTRIBUTIONS:
        raise ValueError(
            f"parameters.{name}.distribution={kind!r}: need one of {', '.join(DISTRIBUTIONS)}"
        )
    if kind == "log_uniform_values" and numbers[0] <= 0:
        raise ValueError(
            f"parameters.{name}.min={numbers[0]}: log_uniform_values needs more than 0"
        )
    if kind == "q_uniform" and not given.get("q", 1) > 0:
        raise ValueError(f"parameters.{name}.q={given['q']}: a step is more than 0")


def grid(sweep: Sweep) -> Iterator[Point]:
    """All points, the last parameter changing first."""
    axes = [_choices(given) for given in sweep["parameters"].values()]
    return (
        dict(zip(sweep["parameters"], values, strict=True)) for values in itertools.product(*axes)
    )


def suggest(sweep: Sweep, earlier: Sequence[Trial]) -> Point | None:
    """The next point after those handed out; None when there is none."""
    if len(earlier) >= sweep.get("run_cap", float("inf")):
        return None
    if sweep["method"] == "grid":
        seen = [trial.point for trial in earlier]
        return next((point for point in grid(sweep) if point not in seen), None)
    return _ask(sweep, earlier)


def _ask(sweep: Sweep, earlier: Sequence[Trial]) -> Point:
    """Seeded by the number of earlier points: a hub that was killed goes on with the same ones."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = len(earlier)
    bayes = sweep["method"] == "bayes"
    sampler = (
        optuna.samplers.TPESampler(seed=seed) if bayes else optuna.samplers.RandomSampler(seed=seed)
    )
    study = optuna.create_study(
        sampler=sampler, direction=(sweep.get("metric") or {}).get("goal", "minimize")
    )
    space = {name: _distribution(given) for name, given in sweep["parameters"].items()}
    for trial in earlier if bayes else ():
        study.add_trial(_frozen(trial, sweep, space))
    asked = study.ask(space).params
    return {name: _value(given, asked[name]) for name, given in sweep["parameters"].items()}


def _distribution(given: dict[str, Any]) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if "min" not in given:
        return CategoricalDistribution(
            range(len(_choices(given)))
        )  # of places: a choice may be a list
    low, high, kind = given["min"], given["max"], given.get("distribution")
    if kind == "int_uniform" or kind is None and isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high)
    step = given.get("q", 1) if kind == "q_uniform" else None
    return FloatDistribution(low, high, log=kind == "log_uniform_values", step=step)


def _frozen(trial: Trial, sweep: Sweep, space: dict[str, Any]) -> Any:
    from optuna.trial import TrialState, create_trial

    state = TrialState.FAIL if trial.value is None else TrialState.COMPLETE
    places = {
        name: trial.point[name] if "min" in given else _choices(given).index(trial.point[name])
        for name, given in sweep["parameters"].items()
    }
    state = TrialState.RUNNING if trial.running else state
    value = trial.value if state == TrialState.COMPLETE else None
    return create_trial(state=state, value=value, params=places, distributions=space)


def _choices(given: dict[str, Any]) -> list[Any]:
    return [given["value"]] if "value" in given else given["values"]


def _value(given: dict[str, Any], asked: Any) -> Any:
    return asked if "min" in given else _choices(given)[asked]
