"""What the folder of a run holds: a run is only taken up by the configuration it was trained with.

config.yaml in the folder has the settings, inputs.json the checkpoints and files that the run was
trained with. A run that was trained with others is refused by the names of what differs.
"""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from configs.fingerprint import Difference, differences
from configs.loading import from_dict, save_config
from configs.schema import Config
from datamodules.corpus_digest import Contents, contents_of, corpus_contents
from lightning_modules.trainer.callbacks import LAST, PREVIOUS
from lightning_modules.trainer.checkpoint import checkpoint_file
from lightning_modules.trainer.exits import first_line, is_rank_zero
from lightning_modules.trainer.summary import SUMMARY

CONFIG = "config.yaml"
INPUTS = "inputs.json"
FINGERPRINTED = re.compile(r"-[0-9a-f]{8}$")
"""End of the name of a folder that no run.id has named."""
NUM_NAMED = 6
"""Differences that a message names."""
MAX_VALUE_LENGTH = 60
"""Characters of a value in a message."""
SCORED_ONLY = ("data.test_voices", "data.test_people", "data.test_effects")
"""Settings that change the test of a run, but not its training."""


def holds_training(folder: Path) -> bool:
    """Whether a folder holds a run, or the checkpoint of one that was killed."""
    return bool(_held(folder))


def _held(folder: Path) -> str:
    """Names of the files of a finished or killed run in a folder."""
    names = (SUMMARY, LAST, PREVIOUS, checkpoint_file(folder).name)
    return ", ".join(name for name in names if (folder / name).exists())


def inputs_of(config: Config, checkpoints: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Setting -> contents of the files that it names, for everything that a run starts from.

    Args:
        config: configuration of the run.
        checkpoints: stage or folder -> file of the checkpoint to start from.
    """
    contents: dict[str, Contents] = corpus_contents(config)
    augment = config.data.augment
    paths = {
        "lm.pretrained": config.lm.pretrained,
        "tokenizer.source": config.tokenizer.source,
        "lora.start": config.lora.start,
        "data.augment.noise_path": augment.noise_path,
        "data.augment.rir_path": augment.rir_path,
    }
    for source, checkpoint in checkpoints.items():
        # a name with a fingerprint says already what the run was trained with
        if not FINGERPRINTED.search(checkpoint.parent.name):
            paths[f"the checkpoint of {source}"] = str(checkpoint)
    for setting, path in paths.items():
        found = contents_of(path) if path else None
        if found is not None:
            contents[setting] = found
    return {setting: dataclasses.asdict(each) for setting, each in contents.items()}


def save_identity(config: Config, folder: Path, inputs: Mapping[str, Any]) -> None:
    """Write config.yaml and inputs.json."""
    save_config(config, folder / CONFIG)
    # in one step: other ranks may be reading the file
    temporary = folder / f".{INPUTS}.{os.getpid()}"
    temporary.write_text(json.dumps(inputs, indent=1) + "\n")
    temporary.replace(folder / INPUTS)


def check_identity(config: Config, folder: Path, inputs: Mapping[str, Any]) -> None:
    """Check that a folder holds no run of another configuration or other data.

    Settings that do not change the result, such as the number of threads, may differ: the present
    ones are applied, and the first rank prints them.

    Raises:
        ValueError: it does, or its files cannot be read; names what differs, and the remedy.
    """
    if not holds_training(folder):
        return
    earlier = _read_config(folder)
    recorded = _read_inputs(folder)
    same_corpora = [name for name in inputs if _is_same(recorded, inputs, name)]
    result, execution = differences(earlier, config)
    # a corpus that has moved is the same corpus
    result = [each for each in result if each.setting not in same_corpora]
    problems = [_phrase(each) for each in result]
    for name in inputs:
        if name in recorded and not _is_same(recorded, inputs, name):
            problems.append(_input_phrase(name, recorded[name], inputs[name]))
    if problems:
        num_more = len(problems) - NUM_NAMED
        more = f" and {num_more} more" if num_more > 0 else ""
        raise ValueError(
            f"{folder} holds a run that was trained with {', '.join(problems[:NUM_NAMED])}{more}; "
            f"{_remedy(config, folder)}"
        )
    if is_rank_zero():
        _print_notes(folder, execution, recorded, inputs)


def _remedy(config: Config, folder: Path) -> str:
    begin = f"delete {folder} to train anew"
    if config.run.id:
        return f"give another run.id, or {begin}, or set what differs as it was"
    return f"{begin}, or rename it to keep it"


def _read_config(folder: Path) -> Config:
    path = folder / CONFIG
    try:
        return from_dict(yaml.safe_load(path.read_text()))
    # errors of the system, of YAML and of the configuration alike mean an unusable file
    except Exception as error:
        raise ValueError(
            f"{folder} holds {_held(folder)}, but {path} cannot be read ({first_line(error)}), so "
            f"its settings are not known; delete {_held(folder)} to train anew, or give another "
            "run.id"
        ) from None


def _read_inputs(folder: Path) -> dict[str, Any]:
    """Contents of inputs.json; empty for runs of earlier versions, which had none."""
    path = folder / INPUTS
    if not path.exists():
        return {}
    try:
        recorded: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read ({first_line(error)}); delete {folder} to train anew"
        ) from None
    return recorded


def _is_same(recorded: Mapping[str, Any], inputs: Mapping[str, Any], name: str) -> bool:
    return name in recorded and recorded[name]["digest"] == inputs[name]["digest"]


def _phrase(difference: Difference) -> str:
    earlier = _shortened(difference.earlier)
    return f"{difference.setting}={earlier} (now {_shortened(difference.present)})"


def _shortened(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[:MAX_VALUE_LENGTH]}..."


def _input_phrase(name: str, earlier: Mapping[str, Any], present: Mapping[str, Any]) -> str:
    return f"other files of {name}: {_describe(earlier)} (now {_describe(present)})"


def _describe(contents: Mapping[str, Any]) -> str:
    megabytes = contents["num_bytes"] / 1e6
    return f"{contents['num_files']:,} files, {megabytes:.3f} MB, digest {contents['digest']}"


def _print_notes(
    folder: Path,
    execution: list[Difference],
    recorded: Mapping[str, Any],
    inputs: Mapping[str, Any],
) -> None:
    """Say what has changed since without changing the result of the training."""
    is_finished = (folder / SUMMARY).exists()
    for each in execution:
        if not is_finished:
            print(f"{folder}: goes on with {each.setting}={_shortened(each.present)}", flush=True)
        elif each.setting.startswith(SCORED_ONLY):
            print(
                f"{folder}: was not scored with {each.setting}={_shortened(each.present)}; "
                f"make eval-wer RUN={folder} ARGS={each.setting}=... does that",
                flush=True,
            )
    for name in inputs:
        if name not in recorded:
            print(
                f"{folder}: an earlier version trained it and did not note the files of {name}; "
                "delete the folder if they have changed since",
                flush=True,
            )
        elif inputs[name]["newest_s"] > recorded[name]["newest_s"]:
            print(
                f"{folder}: files of {name} were written since it was trained, with the same "
                "names, sizes and texts; delete the folder if their sound has changed",
                flush=True,
            )
