"""The checkpoint of a finished stage: averaged weights, configuration and tokenizer in one file."""

import dataclasses
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn

from configs.loading import from_dict, to_dict
from configs.schema import Config
from duplexmamba.models.speech_lm import part_of
from duplexmamba.text.tokenizer import Tokenizer
from lightning_modules.finite import not_finite

FILE = "checkpoint.pt"
EARLIER_FILE = "handover.pt"
"""Name of the file in runs of earlier versions."""


PUBLISHED_FILE = "model.safetensors"
"""Weights of a published model; CONFIG_FILE and TOKENIZER_FILE lie beside it."""
CONFIG_FILE = "config.yaml"
TOKENIZER_FILE = "tokenizer.json"
DEMO = "demo"
"""Name by which commands find the model that comes with the project."""
DEMO_FOLDER = Path(__file__).resolve().parents[2] / "models" / DEMO


def checkpoint_file(folder: Path) -> Path:
    """Return the checkpoint in a run's folder, under its present or its earlier name.

    The folder of a published model has its weights in PUBLISHED_FILE. The file under the present
    name need not exist; `StageCheckpoint.load` says what to do about it.
    """
    if not (folder / FILE).exists():
        for name in (EARLIER_FILE, PUBLISHED_FILE):
            if (folder / name).exists():
                return folder / name
    return folder / FILE


def run_path(name: str) -> Path:
    """Return the folder of a run that a command names; `demo` is the model of the project.

    A folder of that name in the current one comes first.
    """
    path = Path(name)
    if name == DEMO and not path.exists():
        return DEMO_FOLDER
    return path


@dataclasses.dataclass(frozen=True)
class StageCheckpoint:
    """A trained stage with everything that is needed to use it."""

    config: Config
    """The configuration it was trained with."""
    tokenizer: Tokenizer | None
    """None for a stage without text ids."""
    weights: dict[str, Tensor]
    """State dict of the model."""

    def save(self, path: Path) -> None:
        """Write the file atomically: a reader sees the old or the new file, never a part."""
        tokenizer = None
        if self.tokenizer is not None:
            tokenizer = self.tokenizer.to_json()
        content = {
            "config": to_dict(self.config),
            "tokenizer": tokenizer,
            "weights": self.weights,
        }
        write_atomically(content, path)

    @classmethod
    def load(cls, path: Path) -> "StageCheckpoint":
        """Read a checkpoint from its file or from the run's folder.

        A missing checkpoint.pt is replaced by the handover.pt in the same folder, which earlier
        versions wrote.

        Raises:
            ValueError: the file is missing, not a checkpoint, or of a training that has diverged.
        """
        if path.is_dir():
            path = checkpoint_file(path)
        elif path.name == FILE:
            path = checkpoint_file(path.parent)
        try:
            checkpoint = cls._read(path)
        except FileNotFoundError:
            message = (
                f"no checkpoint at {path}; train one with `make train`, "
                "or name a run that has finished"
            )
            raise ValueError(message) from None
        # torch, zip, pickle and config errors alike mean an unreadable file
        except Exception as error:
            message = (
                f"{path} is not a readable checkpoint ({error}); "
                "delete it and train that stage again"
            )
            raise ValueError(message) from error
        name = not_finite(checkpoint.weights)
        if name is not None:
            raise ValueError(
                f"{path}: weight {name} is not finite, its training has diverged; delete it and "
                "train that stage again with a lower optim.lr"
            )
        return checkpoint

    @classmethod
    def _read(cls, path: Path) -> "StageCheckpoint":
        if path.name == PUBLISHED_FILE:
            config = yaml.safe_load(path.with_name(CONFIG_FILE).read_text())
            published_tokenizer = path.with_name(TOKENIZER_FILE).read_text()
            return cls(
                from_dict(config),
                Tokenizer.from_json(published_tokenizer),
                safetensors.torch.load_file(path),
            )
        # weights_only: the file may come from elsewhere, and pickle could run code
        content = torch.load(path, map_location="cpu", weights_only=True)
        tokenizer = None
        if content["tokenizer"] is not None:
            tokenizer = Tokenizer.from_json(content["tokenizer"])
        return cls(from_dict(content["config"]), tokenizer, content["weights"])


def write_atomically(value: Any, path: Path) -> None:
    """Like torch.save, but the previous file stays intact if writing fails."""
    # on the same file system, so that os.replace is atomic; several processes may write
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            torch.save(value, file)
            file.flush()
            # without fsync the rename may reach the disk before the content does
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class AtomicCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints, written atomically."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint of a training in progress."""
        write_atomically(checkpoint, Path(path))


def load_parts(
    model: nn.Module, checkpoint: StageCheckpoint, parts: Collection[str], source: str
) -> None:
    """Copy all weights of some parts of a checkpoint into a model.

    Args:
        model: the model whose weights are replaced.
        checkpoint: the checkpoint to copy from.
        parts: first components of the weights' names: encoder, connector, lm, ...
        source: stage or folder of the checkpoint, for the error message.

    Raises:
        ValueError: weights are missing, unknown or of another shape; says how many, and the first.
    """
    expected = _weights_of(model.state_dict(), parts)
    available = _weights_of(checkpoint.weights, parts)
    problems = _differences(expected, available)
    if problems:
        raise ValueError(
            f"the checkpoint of {source} does not fit this configuration "
            f"in {len(problems)} weights ({problems[0]}, ...); "
            "use the configuration it was trained with"
        )
    # strict=False: the model's other parts have other sources
    model.load_state_dict(available, strict=False)


def _weights_of(weights: dict[str, Tensor], parts: Collection[str]) -> dict[str, Tensor]:
    return {name: weight for name, weight in weights.items() if part_of(name) in parts}


def _differences(expected: dict[str, Tensor], available: dict[str, Tensor]) -> list[str]:
    """One phrase for every weight that does not fit."""
    problems = []
    for name in sorted(expected.keys() - available.keys()):
        problems.append(f"{name} is missing there")
    for name in sorted(available.keys() - expected.keys()):
        problems.append(f"{name} is unknown here")
    for name in sorted(expected.keys() & available.keys()):
        here = tuple(expected[name].shape)
        there = tuple(available[name].shape)
        if here != there:
            problems.append(f"{name} is {there} there and {here} here")
    return problems


def load_ctc_head(model: nn.Module, checkpoint: StageCheckpoint, source: str) -> None:
    """Initialise a connector's CTC head with the CTC head of an encoder's checkpoint.

    Raises:
        ValueError: the checkpoint has no CTC head.
    """
    head = {}
    for name, weight in checkpoint.weights.items():
        if part_of(name) == "ctc":
            head[f"connector.head.{name.removeprefix('ctc.')}"] = weight
    if not head:
        raise ValueError(
            f"the checkpoint of {source} has no CTC head, from which connector.kind=ctc starts: "
            "set stage.init.encoder to a run of stage encoder, or connector.kind=stack"
        )
    model.load_state_dict(head, strict=False)
