"""Registry of language models, by `lm.kind`.

A language model is a module `forward(x, state) -> (y, state)` over embeddings (B, L, D), with the
interface of `LM`. To add one, write a subclass of `LM` and add a `LanguageModel` to
`LANGUAGE_MODELS`.
"""

import dataclasses
from collections.abc import Callable

from duplexmamba.config import LMConfig
from duplexmamba.models.language_models.base import LM, LMState
from duplexmamba.models.language_models.mamba_lm import MambaLM
from duplexmamba.models.language_models.pretrained import load_pretrained

__all__ = [
    "LANGUAGE_MODELS",
    "LM",
    "LMState",
    "LanguageModel",
    "MambaLM",
    "build_lm",
    "load_pretrained",
]


def _build_transformer(config: LMConfig) -> LM:
    # imported here, because transformers takes seconds to import
    from duplexmamba.models.language_models.transformer_lm import TransformerLM

    return TransformerLM(config)


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A kind of language model, selected by `lm.kind`."""

    name: str
    """Value of `lm.kind`."""
    build: Callable[[LMConfig], LM]
    """Build the language model with random weights."""
    description: str
    own_fields: tuple[str, ...] = ()
    """Fields of the section `lm` that no other kind reads."""


LANGUAGE_MODELS = {
    kind.name: kind
    for kind in (
        LanguageModel("mamba", MambaLM, "Mamba-1, as published"),
        LanguageModel("mamba2", MambaLM, "Mamba-2, made for a larger state"),
        LanguageModel(
            "transformer",
            _build_transformer,
            "GPT-NeoX or Llama, the baseline with a KV cache",
            own_fields=("family", "num_heads", "num_kv_heads", "d_ffn", "rope_theta", "tied"),
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
