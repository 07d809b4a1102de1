"""Features of a pretrained encoder, computed once for each utterance and kept on disk.

A file is named by a hash of the samples and of everything that they depend on, so that stages,
runs and sweeps share it, and a change of data or settings never meets a wrong one.
"""

import copy
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from configs.schema import Config
from duplexmamba.models.encoders.pretrained import PretrainedEncoder
from duplexmamba.models.pretrained_encoders import num_joined
from duplexmamba.models.timing import FrameTiming


class StoredFrames(NamedTuple):
    """What is kept of the features of a signal."""

    file: Path
    """Holds the frames of the encoder."""
    levels_db: np.ndarray | None
    """(F,) float16 levels, where features.level=channel.

    They are not in the file, whose frames are the same with and without them.
    """


class CachedFeatures:
    """Features of a pretrained encoder by the signals that they were computed from.

    Args:
        encoder: with its normalisation.
        folder: of the cache.
        train_slices: shortest and longest slice, in speech embeddings, of which one is drawn for
            each utterance; None: the slice of live sessions. Features of long slices have seen more
            of what comes next, as those of whole utterances have.
        embedding_frames: frames of the pretrained encoder in one speech embedding.
        embedding_samples: samples of one speech embedding.
    """

    def __init__(
        self,
        encoder: PretrainedEncoder,
        folder: Path,
        train_slices: tuple[int, int] | None,
        embedding_frames: int,
        embedding_samples: int,
    ):
        self.encoder = encoder
        self.folder = folder
        self.train_slices = train_slices
        self.embedding_frames = embedding_frames
        self.embedding_samples = embedding_samples

    @classmethod
    def of(cls, encoder: PretrainedEncoder, config: Config, training: bool) -> "CachedFeatures":
        """Return the cache for a configuration, for training or for scoring."""
        timing = FrameTiming.of(config.model)
        embedding_frames = num_joined(encoder.config) * config.connector.stack
        train_slices = None
        if training and config.encoder.context == "window":
            shortest, longest = (
                timing.encoder_frames("encoder.train_slice_ms", ms) // config.connector.stack
                for ms in config.encoder.train_slice_ms
            )
            train_slices = (shortest, longest)
        folder = Path(config.data.cache).expanduser() / "features"
        return cls(encoder, folder, train_slices, embedding_frames, timing.samples_per_token)

    def of_signal(self, samples: np.ndarray, draws_slice: bool) -> tuple[StoredFrames, np.ndarray]:
        """Features of a signal, from the cache or computed and stored.

        Args:
            samples: (n,) float32, padded to whole speech embeddings.
            draws_slice: whether the slice is drawn from `train_slices`, where there are some.

        Returns:
            What is kept, and the normalised features (F, M) float32.
        """
        digest = hashlib.blake2b(samples.tobytes(), digest_size=16)
        slice_frames = self.encoder.slice_frames
        if draws_slice and self.train_slices is not None:
            slice_frames = self._draw_slice(digest.digest())
        digest.update(self.encoder.settings(slice_frames).encode())
        name = digest.hexdigest()
        file = self.folder / name[:2] / f"{name}.npy"
        levels_db = None
        if self.encoder.has_level:
            levels_db = self.encoder.levels_db(samples).astype(np.float16)
        stored = StoredFrames(file, levels_db)
        features = self.read(stored)
        if features is not None:
            return stored, features
        frames = self.encoder.encode_signal(samples, slice_frames)
        rounded = frames[:, : self.encoder.info.width].astype(np.float16)
        _write(file, rounded)
        # rounded as the stored ones are, so that a second run gets the same numbers
        return stored, self._normalise(rounded, levels_db)

    def read(self, stored: StoredFrames) -> np.ndarray | None:
        """Normalised features (F, M) float32; None if there is no file, or if it is broken."""
        try:
            frames = np.load(stored.file, allow_pickle=False)
            return self._normalise(frames, stored.levels_db)
        except (OSError, ValueError, EOFError):
            # a file that was cut off by a full disk is computed again
            return None

    def _normalise(self, frames: np.ndarray, levels_db: np.ndarray | None) -> np.ndarray:
        features = frames if levels_db is None else np.column_stack([frames, levels_db])
        return self.encoder.normalise(features.astype(np.float32)).cpu().numpy()

    def _draw_slice(self, digest: bytes) -> int:
        """Draw a slice length in frames; the same samples always get the same one."""
        assert self.train_slices is not None
        shortest, longest = self.train_slices
        number = int.from_bytes(digest[:4], "big")
        return (shortest + number % (longest - shortest + 1)) * self.embedding_frames


def cached_features_of(
    model: torch.nn.Module, config: Config, training: bool
) -> CachedFeatures | None:
    """Return the cache for a model with a frozen pretrained encoder; None for another model."""
    features = getattr(model, "features", None)
    # frames of an encoder in training are never the same twice
    if not isinstance(features, PretrainedEncoder) or config.encoder.trainable:
        return None
    # a copy stays on the CPU, where the data workers are, when the model moves to a GPU
    return CachedFeatures.of(copy.deepcopy(features), config, training)


def _write(file: Path, features: np.ndarray) -> None:
    """Write a file atomically, since other processes may read and write the same one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.stem}.{os.getpid()}.npy")
    np.save(temporary, features)
    os.replace(temporary, file)
