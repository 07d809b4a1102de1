"""The file of the sweep that a trial belongs to."""

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

SWEEP_VARIABLE = "DUPLEXMAMBA_SWEEP"
"""Environment variable with the path of the sweep's file, where that is not sweeps/<name>.yaml."""
SAVED_SWEEP = "sweep.yaml"
"""Name of the copy of the sweep's file."""
NUM_HEX_DIGITS = 8


def sweep_file(name: str) -> Path | None:
    """Return the path of a trial's sweep file; None if it is not on this machine.

    Args:
        name: of the sweep.
    """
    file = Path(os.environ.get(SWEEP_VARIABLE, f"sweeps/{name}.yaml"))
    return file if file.is_file() else None


def file_digest(file: Path) -> str:
    """Return a few hex digits that are equal for equal texts of a sweep file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:NUM_HEX_DIGITS]


def flat_parameters(values: Mapping[str, Any], file: Path | None) -> dict[str, Any]:
    """Return the parameters of a trial by dotted names.

    Args:
        values: as W&B gives them, nested where the file nests them.
        file: of the sweep; None if it is not on this machine.
    """
    if file is None:
        return dict(values)
    return _flat(values, yaml.safe_load(file.read_text()).get("parameters") or {})


def _flat(values: Mapping[str, Any], entries: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        section = entries.get(name, {}).get("parameters")
        # A value may be a map of its own, which is no section.
        if section is None:
            flat[name] = value
            continue
        for inner_name, inner_value in _flat(value, section).items():
            flat[f"{name}.{inner_name}"] = inner_value
    return flat


def metric_name(file: Path) -> str | None:
    """Return the metric that a sweep file names; None if it names none."""
    metric = yaml.safe_load(file.read_text()).get("metric") or {}
    return metric.get("name")


def save_copy(file: Path, copy: Path) -> None:
    """Copy a sweep's file to where its report will be."""
    if file.resolve() != copy.resolve():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
