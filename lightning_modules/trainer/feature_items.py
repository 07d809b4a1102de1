"""Utterances and dialogues with the features of a pretrained encoder in place of their samples.

Training repeats them (`data.train_size`, `data.train_dialogues`). Making the samples again only to
find the features that belong to them would take longer than the training step itself, so everything
but the samples is kept by position as well, for what is a function of the configuration alone:
synthetic speech. Recordings may be replaced by others, so they are read and augmented every time.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import io
import json
import os
import pickle
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from torch.utils.data import Dataset

from configs.schema import Config
from datamodules.batching import TrainingStream, pad_signals
from datamodules.corpus import UnusableAudio, Utterance
from datamodules.dialogue.dialogues import Dialogue, Dialogues
from lightning_modules.trainer.feature_cache import CachedFeatures, StoredFrames

PACKAGES = ("datamodules", "duplexmamba/text")
"""Source code that decides which item is at a position."""
IRRELEVANT = {
    *("batch_s", "batch_texts", "batch_dialogues", "num_workers", "worker_timeout_s", "cache"),
    *("train_size", "train_dialogues", "valid_size", "test_size", "valid_dialogues"),
    *("conversations", "composed_share", "excerpt_s"),
    *(
        "test_dialogues",
        "test_voices",
        "test_people",
        "test_unaddressed",
        "test_effects",
        "max_bad_share",
    ),
}
"""Settings of `data` that do not change the item at a position."""

NUMPY_NAMES = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
}
"""Module and name of what a pickled array consists of."""

AnyItem = TypeVar("AnyItem", bound=Utterance | Dialogue)


class _Stored(NamedTuple):
    """What is kept of an item."""

    item: Utterance | Dialogue
    """Without samples and features."""
    num_samples: int
    feature_file: str
    """Path below the folder of the features."""
    levels_db: np.ndarray | None = None
    """(F,) see `StoredFrames`."""


class _Unpickler(pickle.Unpickler):
    """Reads items and arrays only: any other content of a file could run code."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the class or function of a pickle.

        Raises:
            UnpicklingError: an item does not need it.
        """
        if (module, name) in NUMPY_NAMES:
            return super().find_class(module, name)
        # a dotted name could lead to the imports of a module
        is_ours = module.split(".")[0] == "datamodules" or module == __name__
        if is_ours and "." not in name:
            found = super().find_class(module, name)
            is_record = dataclasses.is_dataclass(found) or hasattr(found, "_fields")
            if is_record and found.__module__ == module:
                return found
        raise pickle.UnpicklingError(f"{module}.{name} is no part of an item")


class FeatureItems(Dataset[Any]):
    """The items of a data set with their features, and with silence in place of their samples.

    Args:
        dataset: utterances or dialogues by position.
        cache: of the features.
        config: that the data set was made from.
    """

    def __init__(self, dataset: Dataset[Any], cache: CachedFeatures, config: Config):
        self.dataset = dataset
        self.cache = cache
        self.embedding_samples = cache.embedding_samples
        self._key = _key(dataset, cache, config)

    def __getitem__(self, position: int) -> Utterance | Dialogue | UnusableAudio:
        """Return an item; what it cannot be read for is returned or raised as the data set does."""
        file = self._file(position)
        stored = self._read(file) if file is not None else None
        if stored is not None:
            return stored
        item = self.dataset[position]
        if isinstance(item, UnusableAudio):
            return item
        padded = pad_signals([item.samples], self.embedding_samples).values[0].numpy()
        # live sessions have the slice of dialogues: a longer one would show what comes next
        frames, features = self.cache.of_signal(padded, isinstance(item, Utterance))
        num_samples = len(item.samples)
        if file is not None:
            name = str(frames.file.relative_to(self.cache.folder))
            without = dataclasses.replace(item, samples=np.zeros(0, np.float32))
            _write(file, _Stored(without, num_samples, name, frames.levels_db))
        return _with_features(item, num_samples, features)

    def _file(self, position: int) -> Path | None:
        """File of the item at a position; None where it is not kept."""
        is_recorded = isinstance(self.dataset, TrainingStream) and not self.dataset.is_synthetic(
            position
        )
        if self._key is None or is_recorded:
            return None
        name = hashlib.blake2b(f"{self._key} {position}".encode(), digest_size=16).hexdigest()
        return self.cache.folder.with_name("items") / name[:2] / f"{name}.pkl"

    def _read(self, file: Path) -> Utterance | Dialogue | None:
        """The item of a file; None: the file or that of its features is missing or broken."""
        try:
            stored: _Stored = _Unpickler(io.BytesIO(file.read_bytes())).load()
        except (OSError, EOFError, ValueError, TypeError, AttributeError, pickle.UnpicklingError):
            return None
        frames = StoredFrames(self.cache.folder / stored.feature_file, stored.levels_db)
        features = self.cache.read(frames)
        if features is None:
            return None
        return _with_features(stored.item, stored.num_samples, features)


def _with_features(item: AnyItem, num_samples: int, features: np.ndarray) -> AnyItem:
    silence = np.zeros(num_samples, np.float32)
    return dataclasses.replace(item, samples=silence, features=features)


def _write(file: Path, stored: _Stored) -> None:
    """Write a file atomically, since other processes may read and write the same one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.stem}.{os.getpid()}.pkl")
    temporary.write_bytes(pickle.dumps(stored))
    os.replace(temporary, file)


def _key(dataset: Dataset[Any], cache: CachedFeatures, config: Config) -> str | None:
    """Everything that the items of a data set depend on; None: they depend on recordings."""
    data = config.data
    augment = data.augment
    if augment.noise_path or augment.rir_path or data.in_domain_text_share:
        return None
    settings: dict[str, Any] = {
        name: value for name, value in dataclasses.asdict(data).items() if name not in IRRELEVANT
    }
    settings["seed"] = config.seed
    settings["rate_hz"] = config.features.sample_rate_hz
    if isinstance(dataset, Dialogues):
        if dataset.has_recordings:
            return None
        settings["dialogue"] = dataclasses.asdict(config.dialogue)
        settings["duplex"] = dataclasses.asdict(config.duplex)
        settings["split"] = dataset.split
    elif not isinstance(dataset, TrainingStream):
        # scored sets are read once in a while, and may be recordings
        return None
    settings["kind"] = type(dataset).__name__
    settings["features"] = cache.encoder.settings(cache.encoder.slice_frames)
    settings["slices"] = [cache.train_slices, cache.embedding_samples]
    if cache.encoder.has_level:
        settings["level"] = True
    return json.dumps([settings, code_version()], sort_keys=True, default=str)


@functools.cache
def code_version() -> str:
    """Digest of the source code that makes the items and of the versions of all installed packages."""
    digest = hashlib.blake2b(digest_size=16)
    root = Path(__file__).parents[2]
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            digest.update(file.read_bytes())
    versions = {f"{dist.name} {dist.version}" for dist in importlib.metadata.distributions()}
    digest.update(" ".join(sorted(versions)).encode())
    return digest.hexdigest()
