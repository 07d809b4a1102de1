"""Which runs `wandb.Api().runs(filters=..., order=...)` means: MongoDB's operators over a run's record."""

from collections.abc import Callable
from typing import Any

from sweeps.hub.answer import Refused
from sweeps.hub.store import Record

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": lambda found, wanted: found == wanted or isinstance(found, list) and wanted in found,
    "$ne": lambda found, wanted: found != wanted,
    "$in": lambda found, wanted: any(OPERATORS["$eq"](found, one) for one in wanted),
    "$nin": lambda found, wanted: found not in wanted,
    "$exists": lambda found, wanted: (found is not None) == wanted,
    "$gt": lambda found, wanted: found is not None and found > wanted,
    "$gte": lambda found, wanted: found is not None and found >= wanted,
    "$lt": lambda found, wanted: found is not None and found < wanted,
    "$lte": lambda found, wanted: found is not None and found <= wanted,
}
NAMES = {"group": "groupName", "created_at": "createdAt"}
"""Client's name of a field -> name in the record."""


def matches(run: Record, filters: dict[str, Any]) -> bool:
    """Raises Refused: an operator that is not known here."""
    return all(_holds(run, name, wanted) for name, wanted in filters.items())


def _holds(run: Record, name: str, wanted: Any) -> bool:
    if name in ("$and", "$or"):
        return (all if name == "$and" else any)(matches(run, part) for part in wanted)
    asked = wanted if isinstance(wanted, dict) else {"$eq": wanted}
    unknown = asked.keys() - OPERATORS.keys()
    if unknown:
        raise Refused(
            f"filter {name}: unknown operator {min(unknown)}; known: {', '.join(OPERATORS)}"
        )
    try:
        return all(
            OPERATORS[operator](field(run, name), value) for operator, value in asked.items()
        )
    except TypeError:  # a number against a word
        return False


def field(run: Record, name: str) -> Any:
    """`state`, `config.seed`, `summary_metrics.test/wer` of a run."""
    section, _, key = name.partition(".")
    if section == "config":
        return (run["config"].get(key.removesuffix(".value")) or {}).get("value")
    if section in ("summary_metrics", "summaryMetrics"):
        return run["summary"].get(key)
    if name == "sweep":
        return run["sweep"].rpartition("/")[2]
    return run.get(NAMES.get(name, name))


def ordered(runs: list[Record], order: str | None) -> list[Record]:
    """By `+field` or `-field`, runs without a number there last."""
    order = order or "+created_at"
    name, falling = order.lstrip("+-"), order.startswith("-")
    if name in ("created_at", "createdAt"):
        return runs[::-1] if falling else runs
    numbered = [run for run in runs if isinstance(field(run, name), int | float)]
    rest = [run for run in runs if run not in numbered]
    return sorted(numbered, key=lambda run: field(run, name), reverse=falling) + rest
