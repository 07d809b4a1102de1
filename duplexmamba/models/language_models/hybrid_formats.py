"""The layouts of published hybrids: what distinguishes them, and their weights under our names.

Layouts of a layer differ, functions hardly: Granite and Bamba join a mixer and an MLP to one layer,
of which each is one here. Granite's constant factors (of embeddings, attention, residuals and
logits) are multiplied into the weights, which changes nothing but rounding.
"""

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from duplexmamba.config import LMConfig
from duplexmamba.models.language_models.base import check_setting
from duplexmamba.models.language_models.mamba_lm import NORM_EPS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Weights = dict[str, Tensor]
"""Weights by their dotted name."""

LETTERS = "M*-"
"""Letters of `lm.pattern`: Mamba-2, attention, MLP."""
LETTER_OF_TYPE = {"linear_attention": "M", "full_attention": "*", "mlp": "-"}
"""Type of a layer in transformers -> its letter in `lm.pattern`."""
JOINED = (
    (("q_proj", "k_proj", "v_proj"), "in_proj"),
    (("gate_proj", "up_proj"), "in_proj"),
    (("up_proj",), "in_proj"),
    (("input_linear",), "in_proj"),
    (("o_proj",), "out_proj"),
    (("down_proj",), "out_proj"),
    (("output_linear",), "out_proj"),
)
"""Matrices of transformers that are one below the other in one of ours."""


@dataclasses.dataclass(frozen=True)
class HybridFormat:
    """An architecture of transformers that `lm.kind=hybrid` is, by `lm.hybrid_family`."""

    model_type: str
    """Value of `lm.hybrid_family`, and `model_type` in config.json."""
    has_gated_mlp: bool
    """Whether MLPs are gated by a SiLU; otherwise they have a squared ReLU."""
    rotary_share: float
    """Share of the channels of an attention head that rotary positions turn; 0 is no positions."""
    min_time_step: float
    """Lower limit of the time step of Mamba-2."""
    sizes: dict[str, str]
    """Setting of transformers -> field of the section `lm`, beside those that all have."""
    fixed: dict[str, Any]
    """Setting of transformers that changes the function -> its only value here."""
    parts: dict[str, tuple[int, str]]
    """Name of a part of a layer -> index of ours among those that the layer becomes, our name."""
    outer: dict[str, str]
    """Weight outside of the layers -> our name."""

    @property
    def layers_per_layer(self) -> int:
        """Number of our layers that one of transformers becomes."""
        return 1 + max(index for index, _ in self.parts.values())

    def pattern(self, settings: "PreTrainedConfig") -> str:
        """Return the letters of a model's layers, with ? for a type that has none."""
        letters = [LETTER_OF_TYPE.get(each, "?") for each in settings.layers_block_type]
        # where a layer has an MLP of its own, it follows the mixer
        separator = "-" * (self.layers_per_layer - 1)
        return "".join(letter + separator for letter in letters)


MAMBA_SIZES = {
    "mamba_d_state": "d_state",
    "mamba_d_conv": "d_conv",
    "mamba_d_head": "head_dim",
    "mamba_n_groups": "num_groups",
}
MAMBA_FIXED = {
    "rms_norm_eps": NORM_EPS,
    "hidden_act": "silu",
    "attention_bias": False,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "time_step_limit": (0.0, math.inf),
}
FORMATS = {
    each.model_type: each
    for each in (
        HybridFormat(
            "granitemoehybrid",
            has_gated_mlp=True,
            rotary_share=0.0,
            min_time_step=0.0,
            sizes={**MAMBA_SIZES, "mamba_expand": "expand", "shared_intermediate_size": "d_ffn"},
            fixed={**MAMBA_FIXED, "num_local_experts": 0, "position_embedding_type": None},
            parts={
                "input_layernorm": (0, "norm"),
                "mamba": (0, "mixer"),
                "self_attn": (0, "mixer"),
                "post_attention_layernorm": (1, "norm"),
                "shared_mlp": (1, "mixer"),
            },
            outer={"embed_tokens.weight": "embeddings.weight", "norm.weight": "norm_f.weight"},
        ),
        HybridFormat(
            "nemotron_h",
            has_gated_mlp=False,
            rotary_share=0.0,
            min_time_step=0.001,
            sizes={
                "ssm_state_size": "d_state",
                "conv_kernel": "d_conv",
                "mamba_head_dim": "head_dim",
                "n_groups": "num_groups",
                "intermediate_size": "d_ffn",
            },
            fixed={
                "layer_norm_epsilon": NORM_EPS,
                "mamba_hidden_act": "silu",
                "mlp_hidden_act": "relu2",
                "use_bias": False,
                "use_conv_bias": True,
                "attention_bias": False,
                "mlp_bias": False,
                "time_step_min": 0.001,
            },
            parts={"norm": (0, "norm"), "mixer": (0, "mixer")},
            outer={"embeddings.weight": "embeddings.weight", "norm_f.weight": "norm_f.weight"},
        ),
        HybridFormat(
            "bamba",
            has_gated_mlp=True,
            rotary_share=0.5,
            min_time_step=0.0,
            sizes={**MAMBA_SIZES, "mamba_expand": "expand", "intermediate_size": "d_ffn"},
            fixed={**MAMBA_FIXED, "mlp_bias": False},
            parts={
                "input_layernorm": (0, "norm"),
                "mamba": (0, "mixer"),
                "self_attn": (0, "mixer"),
                "pre_ff_layernorm": (1, "norm"),
                "feed_forward": (1, "mixer"),
            },
            outer={
                "embed_tokens.weight": "embeddings.weight",
                "final_layernorm.weight": "norm_f.weight",
            },
        ),
    )
}
"""All architectures of `lm.kind=hybrid` by `lm.hybrid_family`."""


def letters_of(config: LMConfig) -> str:
    """Return the letter of every layer: `lm.pattern`, repeated until `lm.num_layers`."""
    return "".join(itertools.islice(itertools.cycle(config.pattern), config.num_layers))


def check_hybrid_settings(
    config: LMConfig, layout: HybridFormat, settings: "PreTrainedConfig", source: str
) -> None:
    """Check that a hybrid of transformers computes the same function as one of `config`.

    Args:
        config: section lm.
        layout: that of `lm.hybrid_family`.
        settings: configuration of a model of that family.
        source: folder or hub name it comes from, for messages.

    Raises:
        ValueError: a size differs from the section `lm`, or a setting is not supported.
    """
    # the layers first: most other sizes mean nothing if these differ
    pattern = layout.pattern(settings)
    if "?" in pattern:
        raise ValueError(
            f"lm.pretrained={source!r} has layers of {', '.join(set(settings.layers_block_type))}; "
            "lm.kind=hybrid has no mixtures of experts: take lm.kind=pretrained"
        )
    if letters_of(config) != pattern:
        raise ValueError(
            f"lm.pretrained={source!r} has the layers {pattern}, lm.pattern={config.pattern!r} and "
            f"lm.num_layers={config.num_layers} make {letters_of(config)}; set "
            f"lm.pattern='{pattern}' lm.num_layers={len(pattern)}"
        )
    for setting, own_value in _fixed(config, layout).items():
        value = getattr(settings, setting, own_value)
        if isinstance(value, list):
            # read from JSON, which has no tuples
            value = tuple(value)
        if value == "nope":
            # another word for no positions
            value = None
        if value != own_value:
            raise ValueError(
                f"lm.pretrained={source!r} has {setting}={value}; lm.kind=hybrid is only made for "
                f"{own_value}: take lm.kind=pretrained, or choose another model"
            )
    sizes = {
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "tie_word_embeddings": "tied",
        **layout.sizes,
    }
    for setting, field in sizes.items():
        own_value = getattr(config, field)
        check_setting(
            source, setting, getattr(settings, setting), f"lm.{field} asks for", own_value
        )
    own_heads = config.num_kv_heads or config.num_heads
    num_heads = settings.num_key_value_heads
    check_setting(source, "num_key_value_heads", num_heads, "lm.num_kv_heads asks for", own_heads)


def _fixed(config: LMConfig, layout: HybridFormat) -> dict[str, Any]:
    """Settings and their only values for this section lm."""
    fixed = {**layout.fixed, "head_dim": config.d_model // config.num_heads}
    if layout.model_type == "nemotron_h":
        fixed["mamba_num_heads"] = config.expand * config.d_model // config.head_dim
    if layout.rotary_share:
        fixed["rope_parameters"] = {
            "rope_type": "default",
            "rope_theta": config.rope_theta,
            "partial_rotary_factor": layout.rotary_share,
        }
    return fixed


def own_weights(layout: HybridFormat, weights: Weights, settings: "PreTrainedConfig") -> Weights:
    """Return the weights of a hybrid of transformers under our names.

    Args:
        layout: of the model.
        weights: of its base model.
        settings: its configuration.
    """
    renamed = {}
    for name, weight in weights.items():
        renamed[_own_name(layout, name)] = weight
    # gate and up before up alone, which another family has
    for parts, joined in JOINED:
        _join(renamed, parts, joined)
    if layout.model_type == "granitemoehybrid":
        _multiply_factors(renamed, settings)
    return renamed


def _own_name(layout: HybridFormat, name: str) -> str:
    if name in layout.outer:
        return layout.outer[name]
    if not name.startswith("layers."):
        return name
    _, index, part, rest = name.split(".", 3)
    offset, own_part = layout.parts[part]
    own_index = layout.layers_per_layer * int(index) + offset
    return f"layers.{own_index}.{own_part}.{rest}"


def _join(weights: Weights, parts: tuple[str, ...], joined: str) -> None:
    """Put matrices one below the other, in every layer that has all of them, in place."""
    first = f".{parts[0]}.weight"
    prefixes = [name.removesuffix(first) for name in weights if name.endswith(first)]
    for prefix in prefixes:
        matrices = [weights.pop(f"{prefix}.{part}.weight") for part in parts]
        weights[f"{prefix}.{joined}.weight"] = torch.cat(matrices)


def _multiply_factors(weights: Weights, settings: "PreTrainedConfig") -> None:
    """Multiply the constant factors of Granite into the weights, in place.

    The output matrix is scaled through the norm before it, since it may be the embedding matrix.
    """
    is_tied = settings.tie_word_embeddings
    of_embeddings = settings.embedding_multiplier
    of_hidden = 1 / settings.logits_scaling
    if is_tied:
        of_hidden /= of_embeddings
    weights["embeddings.weight"] = of_embeddings * weights["embeddings.weight"]
    weights["norm_f.weight"] = of_hidden * weights["norm_f.weight"]
    head_dim = settings.hidden_size // settings.num_attention_heads
    # the library multiplies scores by the factor, attention here by head_dim ** -0.5
    of_queries = settings.attention_multiplier * head_dim**0.5
    for index, layer_type in enumerate(settings.layers_block_type):
        mixer = f"layers.{2 * index}.mixer"
        mlp = f"layers.{2 * index + 1}.mixer"
        for part in (mixer, mlp):
            name = f"{part}.out_proj.weight"
            weights[name] = settings.residual_multiplier * weights[name]
        if LETTER_OF_TYPE[layer_type] == "*":
            projection = weights[f"{mixer}.in_proj.weight"].clone()
            projection[: settings.hidden_size] *= of_queries
            weights[f"{mixer}.in_proj.weight"] = projection
