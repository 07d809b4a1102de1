"""The trials of a sweep as the folders of their runs tell of them."""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sweeps.hub.search import flat_entries, grid

MISSING = "missing"
"""State of a point of a grid of which there is no run."""

Record = dict[str, Any]
"""Content of a sweep.json."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    parameters: dict[str, Any]
    state: str
    """That of its run, or `missing`."""
    folder: Path | None = None
    """Folder of its run; None if it is missing."""
    error: str = ""


def outcomes(sweep: Mapping[str, Any], digest: str, name: str, runs: Path) -> list[Outcome]:
    """How the trials of a sweep ended.

    Args:
        sweep: content of the sweep's file.
        digest: of the text of the file, as the trials have stored it.
        name: of the sweep.
        runs: folder of all runs.

    Returns:
        For a grid, each of its points, whether it was run or not. For other methods, every finished
        run, and the others of the present text of the file. Runs of points that the file does not
        have any more are left out.
    """
    found: dict[str, Outcome] = {}
    for folder, record in read_records(runs, name).items():
        is_finished = record["state"] == "finished"
        is_present = record.get("file", digest) == digest
        if sweep["method"] != "grid" and not (is_finished or is_present):
            continue
        if record["parameters"].keys() != flat_entries(sweep["parameters"]).keys():
            continue
        key = parameters_key(record["parameters"])
        # The last run counts, unless an earlier one has finished.
        if key not in found or is_finished or found[key].state != "finished":
            error = record.get("error", "")
            found[key] = Outcome(record["parameters"], record["state"], folder, error)
    if sweep["method"] == "grid":
        return list(_of_grid(sweep, found))
    return list(found.values())


def _of_grid(sweep: Mapping[str, Any], found: Mapping[str, Outcome]) -> Iterator[Outcome]:
    """The outcomes of the points of a grid; beyond `run_cap` those alone that were run."""
    points = list(grid(dict(sweep)))
    num_expected = min(len(points), sweep.get("run_cap") or math.inf)
    num_found = sum(parameters_key(point) in found for point in points)
    num_missing = max(0, num_expected - num_found)
    for point in points:
        key = parameters_key(point)
        if key in found:
            yield found[key]
        elif num_missing:
            num_missing -= 1
            yield Outcome(point, MISSING)


def read_records(runs: Path, name: str) -> dict[Path, Record]:
    """Read sweep.json of the runs of a sweep.

    Args:
        runs: folder of all runs.
        name: of the sweep.

    Returns:
        Folder -> content, the last one written at the end.
    """
    files = sorted(runs.glob("*/sweep.json"), key=lambda file: file.stat().st_mtime)
    records = {}
    for file in files:
        # `runs/latest` is a link to a run that is found under its own name.
        if file.parent.is_symlink():
            continue
        record = json.loads(file.read_text())
        if record["name"] == name:
            records[file.parent] = record
    return records


def parameters_key(parameters: Mapping[str, Any]) -> str:
    """A text that is equal for equal parameters, however their numbers are written.

    Args:
        parameters: name -> value, in any order.
    """
    values = []
    for name in sorted(parameters):
        values.append(_as_number(parameters[name]))
    return json.dumps(values, sort_keys=True)


def _as_number(value: Any) -> Any:
    """1, 1.0 and "1e0" as the same number; other values unchanged."""
    if isinstance(value, bool):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return value
