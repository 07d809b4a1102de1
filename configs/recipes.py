"""The stages that have a recipe, `configs/stage/<name>.yaml`, in the order of their training."""

import difflib
import functools
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import yaml

CONFIGS = Path(__file__).resolve().parent
"""Folder of base.yaml, preset/, stage/ and data/; installed with the package."""


@functools.cache
def _recipes() -> dict[str, dict[str, Any]]:
    """Stage -> section `stage` of its file."""
    recipes = {}
    for file in sorted((CONFIGS / "stage").glob("*.yaml")):
        # Plain YAML: the configuration cannot be loaded without knowing the stages.
        content = yaml.safe_load(file.read_text())
        recipes[file.stem] = content["stage"]
    return recipes


def _depth(stage: str) -> int:
    """Number of stages that must be trained before this one, along the longest chain."""
    recipes = _recipes()
    depths = [0]
    for source in recipes[stage]["init"].values():
        # Parts of the model may also start from a folder, which needs no training.
        if source in recipes:
            depths.append(_depth(source) + 1)
    return max(depths)


STAGES = tuple(sorted(_recipes(), key=lambda stage: (_depth(stage), stage)))
"""Every stage after those that it starts from."""

DIALOGUE_STAGES = tuple(stage for stage in STAGES if _recipes()[stage]["data"] == "dialogues")
"""Stages that train on dialogues and so learn when to respond."""


def stage_file(stage: str) -> Path:
    """Path of a stage's recipe. Raises ValueError that names the nearest stage."""
    check_names([stage], STAGES, "stage", "STAGE")
    return CONFIGS / "stage" / f"{stage}.yaml"


def check_names(names: Iterable[Any], known: Collection[str], what: str, where: str) -> None:
    """Check that names are known.

    Args:
        names: to be checked.
        known: allowed names.
        what: kind of thing that they name, for the message.
        where: field that holds them, for the message.

    Raises:
        ValueError: a name is unknown; the message suggests the nearest one.
    """
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), list(known), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{where}: unknown {what} {name!r}.{hint} Known: {', '.join(known)}.")
