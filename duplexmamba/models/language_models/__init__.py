"""Registry of language models, by `lm.kind`.

A language model maps embeddings (B, L, D) and a state to hidden states (B, L, D) and the state after
them: `forward(x, state=None, return_states_at=None)`, with `embed`, `logits` and `embeddings` as in
`duplexmamba.models.lm.MambaLM`. To add one, write its module, and an entry here that builds it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from duplexmamba.config import LMConfig


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A kind of language model."""

    name: str
    build: Callable[[LMConfig], Any]
    """Builds it with random weights."""
    description: str
    own_fields: tuple[str, ...] = ()
    """Fields of the section `lm` that no other kind reads."""


def _mamba(config: LMConfig) -> Any:
    # Imported on demand: the registry serves checks of configurations too.
    from duplexmamba.models.lm import MambaLM

    return MambaLM(config)


def _transformer(config: LMConfig) -> Any:
    from duplexmamba.models.transformer import TransformerLM

    return TransformerLM(config)


LANGUAGE_MODELS = {
    kind.name: kind
    for kind in (
        LanguageModel("mamba", _mamba, "Mamba-1, the published language model"),
        LanguageModel("mamba2", _mamba, "Mamba-2"),
        LanguageModel(
            "transformer",
            _transformer,
            "transformers' GPT-NeoX, or Llama with lm.family=llama",
            ("family", "num_heads", "num_kv_heads", "d_ffn", "rope_theta", "tied"),
        ),
    )
}
"""Every language model by its name."""
