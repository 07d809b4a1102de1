"""Registry of language models, by `lm.kind`.

A language model is a module `forward(x, state) -> (y, state)` over embeddings (B, L, D), with the
interface of `LM`. To add one, write a subclass of `LM` and add a `LanguageModel` to
`LANGUAGE_MODELS`.
"""

import dataclasses
import itertools
from collections.abc import Callable

from duplexmamba.config import LMConfig
from duplexmamba.models.language_models.base import LM, LMState
from duplexmamba.models.language_models.hybrid_formats import LETTERS, letters_of
from duplexmamba.models.language_models.mamba_lm import MambaLM
from duplexmamba.models.language_models.pretrained import check_pretrained, load_pretrained

__all__ = [
    "LANGUAGE_MODELS",
    "LM",
    "LMState",
    "LanguageModel",
    "MambaLM",
    "build_lm",
    "check_pretrained",
    "load_pretrained",
]


def _build_transformer(config: LMConfig) -> LM:
    # imported here, because transformers takes seconds to import
    from duplexmamba.models.language_models.transformer_lm import TransformerLM

    return TransformerLM(config)


def _build_hybrid(config: LMConfig) -> LM:
    from duplexmamba.models.language_models.hybrid_lm import HybridLM

    return HybridLM(config)


def _build_pretrained(config: LMConfig) -> LM:
    from duplexmamba.models.language_models.pretrained_lm import PretrainedLM

    return PretrainedLM(config)


def _check_nothing(config: LMConfig) -> None:
    """Any sizes fit."""


def _check_mamba2(config: LMConfig) -> None:
    channels = config.expand * config.d_model
    unit = config.head_dim * config.num_groups
    if channels % unit:
        raise ValueError(
            f"lm.expand={config.expand} * lm.d_model={config.d_model} channels do not make heads "
            f"of lm.head_dim={config.head_dim} in lm.num_groups={config.num_groups} equal groups: "
            f"make them a multiple of {unit}"
        )


def _check_transformer(config: LMConfig) -> None:
    num_kv_heads = config.num_kv_heads or config.num_heads
    # Rotary positions turn a quarter of the channels of a head, in pairs.
    sizes = (config.d_model, 8 * config.num_heads, 8 * num_kv_heads)
    is_positive = min(sizes) > 0
    if not is_positive or any(large % small for large, small in itertools.pairwise(sizes)):
        raise ValueError(
            f"lm.d_model={config.d_model}, lm.num_heads={config.num_heads}, "
            f"lm.num_kv_heads={config.num_kv_heads}: d_model must be a multiple of "
            "8 * num_heads, and num_heads one of num_kv_heads"
        )


def _check_hybrid(config: LMConfig) -> None:
    _check_mamba2(config)
    unknown = set(config.pattern) - set(LETTERS)
    if unknown or "M" not in letters_of(config):
        raise ValueError(
            f"lm.pattern={config.pattern!r} with lm.num_layers={config.num_layers}: letters are M "
            "(Mamba-2, at least one), * (attention) and - (MLP), repeated until lm.num_layers"
        )
    num_kv_heads = config.num_kv_heads or config.num_heads
    # Rotary positions turn half of the channels of a head, in pairs.
    sizes = (config.d_model, 4 * config.num_heads, 4 * num_kv_heads)
    if min(sizes) <= 0 or any(large % small for large, small in itertools.pairwise(sizes)):
        raise ValueError(
            f"lm.d_model={config.d_model}, lm.num_heads={config.num_heads}, "
            f"lm.num_kv_heads={config.num_kv_heads}: d_model must be a multiple of "
            "4 * num_heads, and num_heads one of num_kv_heads"
        )
    if config.attention_window is not None and config.attention_window < 1:
        raise ValueError(
            f"lm.attention_window={config.attention_window}: need at least 1 step, or null for all"
        )


def _check_pretrained(config: LMConfig) -> None:
    if config.pretrained is None:
        raise ValueError(
            "lm.pretrained=null and lm.kind=pretrained: name the folder or the hub name of a "
            "causal language model, or choose another lm.kind"
        )


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A kind of language model, selected by `lm.kind`."""

    name: str
    """Value of `lm.kind`."""
    build: Callable[[LMConfig], LM]
    """Build the language model with random weights."""
    description: str
    """For `duplexmamba config --explain lm.kind`."""
    own_fields: tuple[str, ...] = ()
    """Fields of the section `lm` that not every kind reads, but this one does."""
    matches_size: bool = True
    """Whether it has as many parameters as `mamba` in every preset, to 2 %, by the sizes under
    `kinds` there and in base.yaml.

    tests/test_transformer.py checks it where it is true.
    """
    has_own_sizes: bool = True
    """Whether the section `lm` has its sizes, so that it can be trained from nothing."""
    check: Callable[[LMConfig], None] = _check_nothing
    """Raise ValueError, with field, value and remedy, if the sizes do not fit each other."""


SIZES_OF_ATTENTION = ("num_heads", "num_kv_heads", "d_ffn", "rope_theta", "tied")
"""Fields of the section `lm` that all kinds with attention read."""

LANGUAGE_MODELS = {
    kind.name: kind
    for kind in (
        LanguageModel("mamba", MambaLM, "Mamba-1, as published"),
        LanguageModel("mamba2", MambaLM, "Mamba-2, made for a larger state", check=_check_mamba2),
        LanguageModel(
            "transformer",
            _build_transformer,
            "GPT-NeoX or Llama, the baseline, whose state (a KV cache) grows",
            own_fields=("family", *SIZES_OF_ATTENTION),
            check=_check_transformer,
        ),
        LanguageModel(
            "hybrid",
            _build_hybrid,
            "Mamba-2 layers, a few attention layers and MLPs in a pattern",
            own_fields=("pattern", "attention_window", "hybrid_family", *SIZES_OF_ATTENTION),
            check=_check_hybrid,
        ),
        LanguageModel(
            "pretrained",
            _build_pretrained,
            "the model of lm.pretrained, any that transformers carries exactly, hybrids included",
            matches_size=False,
            has_own_sizes=False,
            check=_check_pretrained,
        ),
    )
}
"""All language models by name."""


def build_lm(config: LMConfig) -> LM:
    """Build a language model with random weights.

    Args:
        config: its `kind` selects the language model.
    """
    return LANGUAGE_MODELS[config.kind].build(config)
