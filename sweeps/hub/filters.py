"""Filters and order of `wandb.Api().runs(filters=..., order=...)`.

Filters are MongoDB's operators over the record of a run.
"""

import operator
import re
from collections.abc import Callable
from typing import Any

from sweeps.hub.answer import Refused
from sweeps.hub.store import Record

Operator = Callable[[Any, Any], bool]
"""Whether a field's value and the operand of a filter match."""
FIELD_NAMES = {"group": "groupName", "created_at": "createdAt"}
"""Client's name of a field -> name in the record."""
DEFAULT_ORDER = "+created_at"


def _equals(value: Any, operand: Any) -> bool:
    """Equality; as in MongoDB, a list also matches each of its items."""
    if value == operand:
        return True
    return isinstance(value, list) and operand in value


def _is_in(value: Any, operand: Any) -> bool:
    return any(_equals(value, item) for item in operand)


def _is_not_in(value: Any, operand: Any) -> bool:
    return value not in operand


def _contains(value: Any, operand: Any) -> bool:
    """Whether a regular expression is found in a text."""
    return isinstance(value, str) and re.search(operand, value) is not None


def _exists(value: Any, operand: Any) -> bool:
    return (value is not None) == operand


def _comparison(compare: Operator) -> Operator:
    """A comparison that no missing value passes."""

    def passes(value: Any, operand: Any) -> bool:
        return value is not None and compare(value, operand)

    return passes


OPERATORS: dict[str, Operator] = {
    "$eq": _equals,
    "$ne": operator.ne,
    "$in": _is_in,
    "$nin": _is_not_in,
    "$exists": _exists,
    "$regex": _contains,
    "$gt": _comparison(operator.gt),
    "$gte": _comparison(operator.ge),
    "$lt": _comparison(operator.lt),
    "$lte": _comparison(operator.le),
}


def matches(run: Record, filters: dict[str, Any]) -> bool:
    """Whether a run passes all filters.

    Args:
        run: its record.
        filters: field -> value or {operator: operand}; `$and` or `$or` -> list of filters.

    Raises:
        Refused: an operator is not known here.
    """
    return all(_passes(run, name, condition) for name, condition in filters.items())


def _passes(run: Record, name: str, condition: Any) -> bool:
    if name == "$and":
        return all(matches(run, part) for part in condition)
    if name == "$or":
        return any(matches(run, part) for part in condition)
    if not isinstance(condition, dict):
        condition = {"$eq": condition}
    unknown = condition.keys() - OPERATORS.keys()
    if unknown:
        known = ", ".join(OPERATORS)
        raise Refused(f"filter {name}: unknown operator {min(unknown)}; known: {known}")
    value = field(run, name)
    try:
        return all(OPERATORS[symbol](value, operand) for symbol, operand in condition.items())
    except TypeError:
        # A number and a text, for example, have no order.
        return False


def field(run: Record, name: str) -> Any:
    """Value of a field of a run; None if it has none.

    Args:
        run: its record.
        name: as the client calls it: `state`, `config.seed`, `summary_metrics.test/wer`.
    """
    # Names of metrics and parameters have dots of their own.
    section, _, key = name.partition(".")
    if section == "config":
        # The client stores {"value": ...} for each key, and may name that too.
        entry = run["config"].get(key.removesuffix(".value")) or {}
        return entry.get("value")
    if section in ("summary_metrics", "summaryMetrics"):
        return run["summary"].get(key)
    if name == "sweep":
        return run["sweep"].rpartition("/")[2]
    return run.get(FIELD_NAMES.get(name, name))


def ordered(runs: list[Record], order: str | None) -> list[Record]:
    """Sort runs by a field; those without a number there come last.

    Args:
        runs: records, oldest first.
        order: `+field` or `-field` (descending); None for the order of creation.
    """
    order = order or DEFAULT_ORDER
    name = order.lstrip("+-")
    is_descending = order.startswith("-")
    if name in ("created_at", "createdAt"):
        return runs[::-1] if is_descending else runs
    with_number: list[Record] = []
    without_number: list[Record] = []
    for run in runs:
        if isinstance(field(run, name), int | float):
            with_number.append(run)
        else:
            without_number.append(run)
    with_number.sort(key=lambda run: field(run, name), reverse=is_descending)
    return with_number + without_number
