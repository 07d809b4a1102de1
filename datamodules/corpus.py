"""Interface of a corpus of speech."""

import dataclasses
from typing import Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class Utterance:
    """One spoken sentence."""

    id: str
    samples: np.ndarray
    """(n,) float32 in [-1, 1] at the corpus's sample rate."""
    text: str
    """Transcript, normalised by duplexmamba.text.tokenizer.normalise."""
    answer: str
    """Expected response; empty where the corpus has none."""
    speaker: str
    """Name of the speaker; empty: unknown."""
    features: np.ndarray | None = None
    """(F, M) float32 features of a pretrained encoder, normalised, where they are computed ahead of
    the batch; the samples are zeros then."""
    teacher: np.ndarray | None = None
    """(F, M) float32 normalised features of the pretrained encoder that stage.teacher names, which
    are learnt from the samples."""


class UnusableAudio(Exception):
    """A sound file that cannot be trained on.

    The message names the file and the problem in one sentence.
    """


class Corpus(Protocol):
    """Utterances by index.

    The same index always gives the same utterance, in any process and order.
    """

    # Lengths and texts are separate from the audio: batches are formed from them long before, and
    # in another process than, the audio is read.

    def __len__(self) -> int: ...

    def duration_s(self, index: int) -> float:
        """Length in seconds, exact or estimated, without reading audio."""
        ...

    def qa_pair(self, index: int) -> tuple[str, str]:
        """Text and answer, without reading audio."""
        ...

    def __getitem__(self, index: int) -> Utterance:
        """Read an utterance.

        Raises:
            UnusableAudio: its audio is broken.
        """
        ...
