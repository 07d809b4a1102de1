"""Registry of language models, by `lm.kind`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A kind of language model."""

    name: str
    own_fields: tuple[str, ...] = ()
    """Fields of the section `lm` that no other kind reads."""


LANGUAGE_MODELS = {
    "mamba": LanguageModel("mamba"),
    "mamba2": LanguageModel("mamba2"),
    "transformer": LanguageModel(
        "transformer", ("family", "num_heads", "num_kv_heads", "d_ffn", "rope_theta", "tied")
    ),
}
