"""The point of a sweep at which a trial trains, by which a later text of the sweep finds its run.

W&B names a run by chance, so another text of the same sweep's file would train every point again.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.fingerprint import flat
from configs.loading import load_config, to_dict
from lightning_modules.trainer.stage_graph import stage_folder
from lightning_modules.trainer.summary import SUMMARY

TRIAL_FILE = "sweep.json"
"""File in which a trial's run says what it is a trial of."""
SCORED = ("lora_drop.", "data.test_")
"""Beginnings of settings that change the scores of a run, but not the name of its folder."""
NUM_HEX_DIGITS = 16


def point_of(args: Sequence[str], parameters: Mapping[str, Any]) -> str | None:
    """Return hex digits that are equal for equal parameters and equal configurations.

    The configurations of the stages that the run starts from count too.

    Args:
        args: configuration files and overrides of the trial.
        parameters: the values that the sweep varies.

    Returns:
        The digits; None for a configuration that is not valid, of which training says why.
    """
    own_args = [*args, "run.id=null"]
    try:
        config = load_config(own_args)
        # The name of the folder of a run is a fingerprint of all that it starts from.
        folder = stage_folder(own_args, config)
    except ValueError:
        return None
    scored = {}
    for name, value in flat(to_dict(config)).items():
        if name.startswith(SCORED):
            scored[name] = value
    content = json.dumps([folder.name, parameters, scored], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:NUM_HEX_DIGITS]


def folder_of_point(runs: Path, name: str, point: str) -> Path | None:
    """Return the folder of an earlier run of a point, finished if there is one; None: none.

    Args:
        runs: folder of all runs.
        name: of the sweep.
        point: as `point_of` gives it.
    """
    found = []
    for file in sorted(runs.glob(f"*/{TRIAL_FILE}")):
        # runs/latest is a link to a run that has a folder of its own
        if file.parent.is_symlink():
            continue
        record = json.loads(file.read_text())
        if record["name"] == name and record.get("point") == point:
            found.append(file.parent)
    finished = [folder for folder in found if (folder / SUMMARY).exists()]
    return next(iter([*finished, *found]), None)
