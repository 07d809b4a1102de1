"""Which speech encoders of transformers can be used, their sizes, and how they stream.

An encoder is listed where tests show what it does: its number of frames, and for those that stream
by caches that any pieces give what one forward gives. All others are refused by name.
"""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoFeatureExtractor, PreTrainedConfig

from duplexmamba.models.pretrained_encoders import PretrainedEncoderInfo

MEL_HOP = 160
"""Samples between two log-mel frames, of all encoders on log-mel frames."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the clock needs to know of an encoder; fields as in `PretrainedEncoderInfo`."""

    width: int
    frame_samples: int
    edge_frames: int = 0
    min_samples: int = MEL_HOP
    max_samples: int | None = None


@dataclasses.dataclass(frozen=True)
class EncoderArchitecture:
    """A speech encoder of transformers."""

    model_type: str
    """`model_type` in config.json."""
    path: str
    """Dotted name of the encoder in the model that AutoModel makes; empty: the model itself."""
    sizes: Callable[[Any], Sizes]
    """Sizes by the configuration."""
    has_mask: bool = False
    """Whether it is called with a mask of its input, even where all of it counts."""
    contexts: tuple[str, ...] = ("full", "window")
    """Values of `encoder.context` that it can be used with."""
    bare_layers: tuple[str, ...] = ()
    """Ends of the names of linear layers of which the library reads the weights without calling them:
    an adapter there would have no effect."""


def _whisper_sizes(settings: Any) -> Sizes:
    frame_samples = 2 * MEL_HOP
    longest = settings.max_source_positions * frame_samples
    return Sizes(settings.d_model, frame_samples, max_samples=longest)


def _wav2vec2_sizes(settings: Any) -> Sizes:
    # hubert knows no adapters
    if getattr(settings, "add_adapter", False):
        raise ValueError("add_adapter=true gives it another clock; set it to false in config.json")
    frame_samples = math.prod(settings.conv_stride)
    # from the last convolution to the first
    receptive_field = 1
    for kernel, stride in zip(
        reversed(settings.conv_kernel), reversed(settings.conv_stride), strict=True
    ):
        receptive_field = (receptive_field - 1) * stride + kernel
    edge_frames = math.ceil((receptive_field - frame_samples) / frame_samples)
    return Sizes(settings.hidden_size, frame_samples, edge_frames, receptive_field)


def _wav2vec2_bert_sizes(settings: Any) -> Sizes:
    if settings.add_adapter:
        raise ValueError("add_adapter=true gives it another clock; set it to false in config.json")
    # windows of 400 samples, two of which are one frame
    return Sizes(settings.hidden_size, 2 * MEL_HOP, edge_frames=1, min_samples=400 + MEL_HOP)


def _parakeet_sizes(settings: Any) -> Sizes:
    encoder = getattr(settings, "encoder_config", settings)
    frame_samples = encoder.subsampling_factor * MEL_HOP
    return Sizes(encoder.hidden_size, frame_samples, min_samples=frame_samples)


def _moonshine_sizes(settings: Any) -> Sizes:
    # convolutions of strides 64, 3, 2 and widths 127, 7, 3: arXiv 2410.15608
    return Sizes(settings.hidden_size, 384, edge_frames=2, min_samples=895)


def _moonshine_streaming_sizes(settings: Any) -> Sizes:
    encoder = getattr(settings, "encoder_config", settings)
    # two convolutions of stride 2
    frame_samples = 4 * round(encoder.sample_rate * encoder.frame_ms / 1000)
    # what all layers together look ahead; a window counts the frame itself
    lookahead = sum(max(right - 1, 0) for _, right in encoder.sliding_windows)
    return Sizes(encoder.hidden_size, frame_samples, lookahead, frame_samples)


def _voxtral_sizes(settings: Any) -> Sizes:
    encoder = getattr(settings, "audio_config", settings)
    return Sizes(encoder.hidden_size, 2 * MEL_HOP)


def _mimi_sizes(settings: Any) -> Sizes:
    if not settings.use_causal_conv:
        raise ValueError("use_causal_conv=false: its convolutions look ahead and have no cache")
    return Sizes(settings.hidden_size, settings.frame_size, min_samples=settings.frame_size)


CACHE = ("cache",)
ARCHITECTURES = {
    architecture.model_type: architecture
    for architecture in (
        EncoderArchitecture("whisper", "encoder", _whisper_sizes),
        EncoderArchitecture("wav2vec2", "", _wav2vec2_sizes),
        EncoderArchitecture("hubert", "", _wav2vec2_sizes),
        EncoderArchitecture(
            "wavlm",
            "",
            _wav2vec2_sizes,
            bare_layers=tuple(f"attention.{name}_proj" for name in ("q", "k", "v", "out")),
        ),
        EncoderArchitecture("wav2vec2-bert", "", _wav2vec2_bert_sizes, has_mask=True),
        EncoderArchitecture("parakeet_ctc", "encoder", _parakeet_sizes, has_mask=True),
        EncoderArchitecture("parakeet_rnnt", "encoder", _parakeet_sizes, has_mask=True),
        EncoderArchitecture("parakeet_tdt", "encoder", _parakeet_sizes, has_mask=True),
        EncoderArchitecture("parakeet_encoder", "", _parakeet_sizes, has_mask=True),
        EncoderArchitecture("moonshine", "encoder", _moonshine_sizes),
        # without a mask the library leaves out its windows
        EncoderArchitecture(
            "moonshine_streaming", "encoder", _moonshine_streaming_sizes, has_mask=True
        ),
        EncoderArchitecture("nemotron_asr_streaming", "encoder", _parakeet_sizes, contexts=CACHE),
        EncoderArchitecture("nemotron_asr_streaming_encoder", "", _parakeet_sizes, contexts=CACHE),
        EncoderArchitecture("voxtral_realtime", "audio_tower", _voxtral_sizes, contexts=CACHE),
        EncoderArchitecture("voxtral_realtime_encoder", "", _voxtral_sizes, contexts=CACHE),
        EncoderArchitecture("mimi", "encoder", _mimi_sizes, contexts=CACHE),
    )
}
"""All encoders by model_type."""

NO_CACHE = {
    "moonshine_streaming": (
        "the library gives its encoder no cache; its attention is bounded, so that "
        "encoder.context=window is exact where encoder.left_context_ms covers it"
    ),
}
"""Encoders that one may expect to stream by caches, and why they do not."""


@functools.lru_cache(maxsize=8)
def read_info(source: str) -> PretrainedEncoderInfo:
    """Read the sizes of an encoder from its configuration files; weights are not read.

    Args:
        source: folder, or name of a model on the hub.

    Raises:
        ValueError: there is no such model, or it is no encoder that can be used.
    """
    settings = read_settings(source)
    architecture = find_architecture(settings.model_type, source)
    extractor = read_extractor(source)
    try:
        sizes = architecture.sizes(settings)
    except ValueError as error:
        raise ValueError(f"encoder.pretrained={source!r}: {error}") from None
    return PretrainedEncoderInfo(
        name=source,
        sample_rate_hz=extractor.sampling_rate,
        contexts=architecture.contexts,
        lookaheads=_read_lookaheads(source),
        no_cache=NO_CACHE.get(settings.model_type),
        revision=_revision(settings, source),
        **dataclasses.asdict(sizes),
    )


def find_architecture(model_type: str, source: str) -> EncoderArchitecture:
    """Return the record of an architecture.

    Args:
        model_type: of config.json.
        source: folder or hub name, for messages.

    Raises:
        ValueError: it is not known as a speech encoder.
    """
    if model_type not in ARCHITECTURES:
        raise ValueError(
            f"encoder.pretrained={source!r} is a {model_type} model, which is no speech encoder "
            f"that encoder.kind=pretrained knows; choose one of {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[model_type]


def read_settings(source: str) -> PreTrainedConfig:
    """Read config.json.

    Raises:
        ValueError: there is none that can be read.
    """
    try:
        return AutoConfig.from_pretrained(source)
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise unreadable(source, "config.json", error) from None


def read_extractor(source: str) -> Any:
    """Open the feature extractor, which has the sample rate.

    Raises:
        ValueError: there is none that can be opened.
    """
    try:
        return AutoFeatureExtractor.from_pretrained(source)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise unreadable(source, "preprocessor_config.json", error) from None


def unreadable(source: str, what: str, error: Exception) -> ValueError:
    """The error of a model of which something cannot be opened."""
    reason = str(error).strip().split("\n")[0][:200]
    if Path(source).is_dir():
        remedy = "copy or download the whole model, or choose another one"
    else:
        remedy = (
            "check the name, the network, and whether the model asks for a login (hf auth login), "
            "or name a folder"
        )
    return ValueError(f"encoder.pretrained={source!r}: {what} cannot be read ({reason}); {remedy}")


def _read_lookaheads(source: str) -> tuple[int, ...] | None:
    """Look-aheads that an encoder was trained with, if its processor names some."""
    file = Path(source) / "processor_config.json"
    if not file.is_file():
        return None
    frames = json.loads(file.read_text()).get("supported_num_lookahead_tokens")
    return None if frames is None else tuple(frames)


def _revision(settings: PreTrainedConfig, source: str) -> str:
    """Digest of the files of a folder, or the commit of a model of the hub."""
    folder = Path(source)
    if not folder.is_dir():
        return str(settings._commit_hash)
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".safetensors", ".bin"):
            digest.update(file.name.encode())
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "blake2b").digest())
    return digest.hexdigest()
