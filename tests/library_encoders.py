"""Folders of tiny speech encoders with random weights, and configurations that use them."""

import functools
import tempfile
from pathlib import Path

from configs.loading import load_config
from configs.schema import Config
from duplexmamba.models.pretrained_encoders import find_encoder
from duplexmamba.models.pretrained_folders import FAMILIES, write_random_weights
from duplexmamba.models.speech_lm import SpeechEncoder

WINDOW_FAMILIES = (
    "whisper", "wav2vec2", "hubert", "wavlm", "wav2vec2-bert", "parakeet_ctc", "moonshine",
    "moonshine_streaming",
)  # fmt: skip
CACHE_FAMILIES = ("nemotron_asr_streaming", "voxtral_realtime", "mimi")
PRESET = "configs/preset/tiny_pretrained.yaml"


@functools.cache
def _root() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory()


@functools.cache
def folder_of(family: str) -> Path:
    """The folder of a tiny encoder or language model, made once in a test process."""
    folder = Path(_root().name) / family
    write_random_weights(family, folder)
    return folder


def config_of(family: str, context: str, *overrides: str, stage: str = "asr") -> Config:
    """A small model behind a tiny encoder: embeddings of 160 ms, or 192 behind moonshine."""
    info = find_encoder(str(folder_of(family)))
    embedding_ms = 192 if family == "moonshine" else 160
    stack = embedding_ms / (info.frame_ms if info.frame_ms >= 40 else 2 * info.frame_ms)
    slice_ms = f"slice_ms={embedding_ms}"
    return load_config([
        PRESET, f"configs/stage/{stage}.yaml",
        f"encoder.pretrained={folder_of(family)}", f"encoder.context={context}",
        f"features.sample_rate_hz={info.sample_rate_hz}", f"connector.stack={int(stack)}",
        f"encoder.{slice_ms}", f"duplex.{slice_ms}", f"encoder.lookahead_ms={embedding_ms}",
        f"encoder.left_context_ms={3 * embedding_ms}",
        f"encoder.train_slice_ms=[{embedding_ms},{2 * embedding_ms}]",
        "encoder.d_model=16", "encoder.d_ffn=16", "encoder.num_layers=1", "connector.d_hidden=8",
        "lm.d_model=16", "lm.num_layers=1", *overrides,
    ])  # fmt: skip


def encoder_of(family: str, context: str, *overrides: str) -> SpeechEncoder:
    """The speech encoder of `config_of`, in the mode for use."""
    return SpeechEncoder(config_of(family, context, *overrides).model).eval()


assert set(WINDOW_FAMILIES) | set(CACHE_FAMILIES) <= set(FAMILIES)
