"""Names of `duplexmamba.models.language_models.transformer_lm` at their earlier path."""

from duplexmamba.models.language_models.transformer_lm import BLOCK, TransformerLM

__all__ = ["BLOCK", "TransformerLM"]
