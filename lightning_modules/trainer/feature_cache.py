"""Features of a pretrained encoder, computed once for each utterance and kept on disk.

A file is named by a hash of the samples and of everything that they depend on, so that stages,
runs and sweeps share it, and a change of data or settings never meets a wrong one.
"""

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from configs.schema import Config
from datamodules.batching import SpeechBatch
from datamodules.dialogue.data import DialogueBatch
from duplexmamba.models.encoders.pretrained import PretrainedEncoder, pad_frames
from duplexmamba.models.pretrained_encoders import FRAMES_PER_STEP
from duplexmamba.models.timing import FrameTiming


class CachedFeatures:
    """Adds the features of a pretrained encoder to a batch of speech or of dialogues.

    Args:
        encoder: with its normalisation.
        folder: of the cache.
        train_slices: shortest and longest slice, in speech embeddings, of which one is drawn for
            each utterance; None: the slice of live sessions. Features of long slices have seen more
            of what comes next, as those of whole utterances have. Dialogues always have the slice
            of live sessions.
        embedding_frames: frames of the pretrained encoder in one speech embedding.
    """

    def __init__(
        self,
        encoder: PretrainedEncoder,
        folder: Path,
        train_slices: tuple[int, int] | None,
        embedding_frames: int,
    ):
        self.encoder = encoder
        self.folder = folder
        self.train_slices = train_slices
        self.embedding_frames = embedding_frames

    @classmethod
    def of(cls, encoder: PretrainedEncoder, config: Config, training: bool) -> "CachedFeatures":
        """Return the cache for a configuration, for training or for scoring."""
        timing = FrameTiming.of(config.model)
        embedding_frames = FRAMES_PER_STEP * config.connector.stack
        train_slices = None
        if training and config.encoder.context == "window":
            shortest, longest = (
                timing.encoder_frames("encoder.train_slice_ms", ms) // config.connector.stack
                for ms in config.encoder.train_slice_ms
            )
            train_slices = (shortest, longest)
        folder = Path(config.data.cache).expanduser() / "features"
        return cls(encoder, folder, train_slices, embedding_frames)

    def __call__(self, batch: Any) -> Any:
        """Return the batch with its features (B, F, M); an empty batch is returned as it is."""
        if isinstance(batch, DialogueBatch):
            batch = dataclasses.replace(batch, utterances=self(batch.utterances))
        if not len(batch):
            return batch
        draws_slices = isinstance(batch, SpeechBatch) and self.train_slices is not None
        rows = []
        lengths = batch.samples.row_lengths().tolist()
        for signal, length in zip(batch.samples.values.numpy(), lengths, strict=True):
            features = self.features(signal[:length], draws_slices)
            rows.append(self.encoder.normalise(features).cpu())
        return dataclasses.replace(batch, features=pad_frames(rows))

    def features(self, samples: np.ndarray, draws_slice: bool) -> np.ndarray:
        """Features (F, M) of (n,) samples, from the cache or computed and stored."""
        digest = hashlib.blake2b(samples.tobytes(), digest_size=16)
        slice_frames = self.encoder.slice_frames
        if draws_slice:
            slice_frames = self._draw_slice(digest.digest())
        digest.update(self._settings(slice_frames).encode())
        name = digest.hexdigest()
        file = self.folder / name[:2] / f"{name}.npy"
        stored = _read(file)
        if stored is not None:
            return stored.astype(np.float32)
        if self.encoder.context == "window":
            features = self.encoder.encode_in_windows(samples, slice_frames)
        else:
            features = self.encoder.encode_utterance(samples)
        rounded = features.astype(np.float16)
        _write(file, rounded)
        # rounded as the stored ones are, so that a second run gets the same numbers
        return rounded.astype(np.float32)

    def _draw_slice(self, digest: bytes) -> int:
        """Draw a slice length in frames; the same samples always get the same one."""
        assert self.train_slices is not None
        shortest, longest = self.train_slices
        number = int.from_bytes(digest[:4], "big")
        return (shortest + number % (longest - shortest + 1)) * self.embedding_frames

    def _settings(self, slice_frames: int) -> str:
        """Everything besides the samples that the features depend on."""
        encoder = self.encoder
        if encoder.context == "full":
            return f"{encoder.info.name} full"
        return (
            f"{encoder.info.name} window {encoder.past_frames} {slice_frames} "
            f"{encoder.lookahead_frames}"
        )


def cached_features_of(
    model: torch.nn.Module, config: Config, training: bool
) -> CachedFeatures | None:
    """Return the cache for a model with a pretrained encoder; None for another model."""
    features = getattr(model, "features", None)
    if not isinstance(features, PretrainedEncoder):
        return None
    return CachedFeatures.of(features, config, training)


def _read(file: Path) -> np.ndarray | None:
    """Features of a file; None if there is none, or if it is broken."""
    try:
        return np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        # a file that was cut off by a full disk is computed again
        return None


def _write(file: Path, features: np.ndarray) -> None:
    """Write a file atomically, since other processes may read and write the same one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.stem}.{os.getpid()}.npy")
    np.save(temporary, features)
    os.replace(temporary, file)
