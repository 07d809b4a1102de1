"""Speech encoders of transformers: opening them, and encoding a whole signal.

Frozen weights are opened once in a process and are not part of a model's state dict; those that are
trained are built for a model of their own.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers.utils import logging as library_logging

from duplexmamba.models.pretrained_architectures import (
    EncoderArchitecture,
    find_architecture,
    read_extractor,
    read_info,
    read_settings,
    unreadable,
)

NUM_NAMED = 10
"""Weights of each sort that a message names."""
UNUSED = ("masked_spec_embed",)
"""Weights that only training uses; some checkpoints lack them."""


@dataclasses.dataclass(frozen=True)
class LibraryEncoder:
    """An encoder of transformers with its feature extractor."""

    model: PreTrainedModel
    """The encoder alone."""
    extractor: Any
    """Feature extractor of the same folder."""
    architecture: EncoderArchitecture
    """Its record in the table of architectures."""
    frame_samples: int
    """Samples between two frames."""

    @torch.no_grad()
    def encode(self, samples: np.ndarray) -> np.ndarray:
        """Encode a whole signal without gradients: (n,) float32 -> (T, D) float32."""
        return self.frames(samples).cpu().numpy()

    def frames(self, samples: np.ndarray) -> Tensor:
        """Encode a whole signal: (n,) float32 -> (T, D) float32, on the model's device."""
        # some encoders take whole periods alone
        missing = -len(samples) % self.frame_samples
        padded = np.pad(samples.astype(np.float32), (0, missing))
        inputs = self.extract(padded, return_attention_mask=self.architecture.has_mask)
        frames = self.model(**inputs).last_hidden_state
        return frames[0].float()

    def extract(self, samples: np.ndarray, **settings: Any) -> dict[str, Tensor]:
        """Features of a signal (n,), named as the model's arguments, on the model's device."""
        features = self.extractor(
            samples, sampling_rate=self.extractor.sampling_rate, return_tensors="pt", **settings
        )
        names = [self.model.main_input_name]
        if self.architecture.has_mask:
            names.append("attention_mask")
        return {name: features[name].to(self.model.device) for name in names}


@functools.lru_cache(maxsize=4)
def open_library_encoder(source: str, device: str) -> LibraryEncoder:
    """Open an encoder with its weights, once in a process and those that are forked from it.

    Args:
        source: folder, or name of a model on the hub.
        device: that it runs on.

    Raises:
        ValueError: there is no such encoder, or its weights do not fit its config.json.
    """
    settings = read_settings(source)
    architecture = find_architecture(settings.model_type, source)
    # a live session opens it in inference mode, of which training could not use the weights
    with quiet(), torch.inference_mode(False):
        try:
            loaded: Any = AutoModel.from_pretrained(
                source, dtype="auto", output_loading_info=True, ignore_mismatched_sizes=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise unreadable(source, "the weights", error) from None
    whole_model, report = loaded
    encoder = whole_model.get_submodule(architecture.path)
    _check_weights(report, whole_model.base_model_prefix, encoder, architecture.path, source)
    # the rest of the model, such as a decoder, is freed
    encoder = encoder.float().to(device).eval().requires_grad_(False)
    info = read_info(source)
    return LibraryEncoder(encoder, read_extractor(source), architecture, info.frame_samples)


def build_library_encoder(source: str) -> LibraryEncoder:
    """Build an encoder with random weights, for those of a checkpoint or of `open_library_encoder`.

    Weights that the library does not train, such as sinusoidal positions, are buffers.

    Args:
        source: folder, or name of a model on the hub; its weights are not read.

    Raises:
        ValueError: there is no such encoder.
    """
    settings = read_settings(source)
    architecture = find_architecture(settings.model_type, source)
    # the whole model takes no memory: its encoder alone is made
    with torch.device("meta"):
        whole_model: Any = AutoModel.from_config(settings)
    template = whole_model.get_submodule(architecture.path)
    encoder = type(template)(template.config).eval()
    _keep_constants(encoder)
    info = read_info(source)
    return LibraryEncoder(encoder, read_extractor(source), architecture, info.frame_samples)


def _keep_constants(encoder: nn.Module) -> None:
    """Make buffers of the weights that are not trained."""
    for module in encoder.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if not weight.requires_grad or name in UNUSED:
                delattr(module, name)
                module.register_buffer(name, weight.detach())


def _check_weights(
    report: Mapping[str, Collection[Any]], prefix: str, encoder: nn.Module, path: str, source: str
) -> None:
    """Check that every weight of the encoder was in the files, and none that it does not know.

    Args:
        report: what `from_pretrained` says about loading the whole model.
        prefix: that the names of a model with a head begin with.
        encoder: the part that is used.
        path: dotted name of that part.
        source: folder or hub name, for the message.

    Raises:
        ValueError: a weight is missing, unknown or of another shape; names the first ones.
    """
    parts = {name.split(".")[0] for name in encoder.state_dict()}
    problems = []
    for kind in ("missing", "mismatched", "unexpected"):
        names = []
        for entry in report[f"{kind}_keys"]:
            # mismatched weights come with their two shapes
            name = entry if isinstance(entry, str) else entry[0]
            if _is_part_of(name, prefix, path, parts) and not name.endswith(UNUSED):
                names.append(name)
        if names:
            problems.append(f"{len(names)} {kind} ({', '.join(sorted(names)[:NUM_NAMED])})")
    if problems:
        raise ValueError(
            f"encoder.pretrained={source!r}: its weights do not fit its config.json: "
            f"{'; '.join(problems)}; copy or download it anew, or choose another model"
        )


def _is_part_of(name: str, prefix: str, path: str, parts: set[str]) -> bool:
    """Whether a weight of the whole model belongs to its encoder."""
    inside = name.removeprefix(f"{prefix}.") if prefix else name
    if path:
        if not inside.startswith(f"{path}."):
            return False
        inside = inside.removeprefix(f"{path}.")
    return inside.split(".")[0] in parts


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the library from printing progress, and weights that are not used here."""
    verbosity = library_logging.get_verbosity()
    had_bar = library_logging.is_progress_bar_enabled()
    library_logging.set_verbosity_error()
    library_logging.disable_progress_bar()
    try:
        yield
    finally:
        library_logging.set_verbosity(verbosity)
        if had_bar:
            library_logging.enable_progress_bar()
