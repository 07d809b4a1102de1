"""The file of the sweep that a trial belongs to."""

import hashlib
import os
import shutil
from pathlib import Path

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


def metric_name(file: Path) -> str | None:
    """Return the metric that a sweep file names; None if it names none."""
    metric = yaml.safe_load(file.read_text()).get("metric") or {}
    return metric.get("name")


def save_copy(file: Path, copy: Path) -> None:
    """Copy a sweep's file to where its report will be."""
    if file.resolve() != copy.resolve():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
