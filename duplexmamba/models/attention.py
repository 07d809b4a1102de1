"""Names of `duplexmamba.models.mixers.attention` at their earlier path."""

from duplexmamba.models.mixers.attention import SelfAttention

__all__ = ["SelfAttention"]
