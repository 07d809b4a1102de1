"""Reads the folders in which state-spaces published Mamba: those of the package mamba_ssm.

Such a folder has a config.json without a model_type, whose `ssm_cfg` names the kind of layer, and
the weights in pytorch_model.bin. They become a model of transformers without a copy of the file:
the weights stay in the file until they are copied into the language model.

Source: mamba_ssm.models.config_mamba and mamba_ssm.models.mixer_seq_simple, for the fields and
their defaults.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import cached_file

WEIGHTS = "pytorch_model.bin"
"""File of the weights."""
NORM_EPS = 1e-5
"""Term in the denominator of all norms, which config.json does not have."""


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A kind of layer of mamba_ssm."""

    settings: type[PreTrainedConfig]
    model: type[PreTrainedModel]
    fields: dict[str, str]
    """Key of ssm_cfg -> setting of transformers."""
    defaults: dict[str, Any]
    """Settings of transformers, for keys that ssm_cfg leaves out."""


LAYERS = {
    "Mamba1": _Layer(
        MambaConfig,
        MambaForCausalLM,
        {
            "d_state": "state_size",
            "d_conv": "conv_kernel",
            "expand": "expand",
            "dt_rank": "time_step_rank",
            "bias": "use_bias",
            "conv_bias": "use_conv_bias",
        },
        {"state_size": 16, "conv_kernel": 4, "expand": 2, "time_step_rank": "auto"},
    ),
    "Mamba2": _Layer(
        Mamba2Config,
        Mamba2ForCausalLM,
        {
            "d_state": "state_size",
            "d_conv": "conv_kernel",
            "expand": "expand",
            "headdim": "head_dim",
            "ngroups": "n_groups",
            "chunk_size": "chunk_size",
            "bias": "use_bias",
            "conv_bias": "use_conv_bias",
        },
        {"state_size": 128, "conv_kernel": 4, "expand": 2, "head_dim": 64, "n_groups": 1},
    ),
}
"""Layers by their name in ssm_cfg."""

ONLY_VALUES = {
    "rms_norm": True,
    "tie_embeddings": True,
    "d_intermediate": 0,
    "attn_layer_idx": [],
    "attn_cfg": {},
}
"""Keys of config.json of which only one value, the published models', is read."""


def read_mamba_ssm_config(source: str) -> dict[str, Any] | None:
    """Return config.json of a folder of mamba_ssm; None if it is no such folder.

    Args:
        source: folder, or name of a model on the hub.
    """
    try:
        file = cached_file(source, "config.json")
    except (OSError, ValueError):
        return None
    if file is None:
        return None
    values = json.loads(Path(file).read_text())
    is_mamba_ssm = "ssm_cfg" in values and "model_type" not in values
    return values if is_mamba_ssm else None


def mamba_ssm_settings(values: dict[str, Any], source: str) -> PreTrainedConfig:
    """Return the configuration of transformers for the same model.

    Args:
        values: of `read_mamba_ssm_config`.
        source: folder or hub name, for messages.

    Raises:
        ValueError: a value has no counterpart.
    """
    layer_values = dict(values["ssm_cfg"])
    layer = _layer(layer_values.pop("layer", "Mamba1"), source)
    for key, only_value in ONLY_VALUES.items():
        if values.get(key, only_value) != only_value:
            raise ValueError(
                f"lm.pretrained={source!r} has {key}={values[key]}; of models of mamba_ssm only "
                f"those with {key}={only_value} can be read: choose one of these"
            )
    settings = dict(layer.defaults)
    for key, value in layer_values.items():
        if key not in layer.fields:
            raise ValueError(
                f"lm.pretrained={source!r} has ssm_cfg.{key}={value}, which has no counterpart "
                f"here; known are {', '.join(layer.fields)}: choose another model"
            )
        settings[layer.fields[key]] = value
    multiple = values.get("pad_vocab_size_multiple", 8)
    num_rows = -(-values["vocab_size"] // multiple) * multiple
    d_model = values["d_model"]
    if layer.settings is Mamba2Config:
        settings["num_heads"] = settings["expand"] * d_model // settings["head_dim"]
    sizes = {
        "hidden_size": d_model,
        "num_hidden_layers": values["n_layer"],
        "vocab_size": num_rows,
        "layer_norm_epsilon": NORM_EPS,
        "tie_word_embeddings": True,
    }
    return layer.settings(**sizes, **settings)


def _layer(name: str, source: str) -> _Layer:
    if name not in LAYERS:
        raise ValueError(
            f"lm.pretrained={source!r} has ssm_cfg.layer={name}; "
            f"known are {', '.join(LAYERS)}: choose another model"
        )
    return LAYERS[name]


def open_mamba_ssm(values: dict[str, Any], source: str) -> PreTrainedModel:
    """Return a model of transformers whose weights are those in the file, in its precision.

    Args:
        values: of `read_mamba_ssm_config`.
        source: folder or hub name.

    Raises:
        ValueError: the file of the weights is missing, or does not fit config.json.
    """
    settings = mamba_ssm_settings(values, source)
    try:
        file = cached_file(source, WEIGHTS)
    except OSError as error:
        raise ValueError(
            f"lm.pretrained={source!r} has no {WEIGHTS} ({str(error)[:200]}); copy the whole folder"
        ) from None
    assert file is not None
    stored = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    weights = {}
    for name, weight in stored.items():
        weights[name.replace("backbone.embedding.", "backbone.embeddings.")] = weight
    with torch.device("meta"):
        model = LAYERS[values["ssm_cfg"].get("layer", "Mamba1")].model(settings)
    try:
        # assigned, not copied: memory is used only where the caller copies them
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        details = " ".join(str(error).split())[:500]
        raise ValueError(
            f"lm.pretrained={source!r}: {WEIGHTS} does not fit its config.json ({details}); "
            "copy the whole folder again"
        ) from None
    return model.eval()
