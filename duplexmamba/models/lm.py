"""Names of `duplexmamba.models.language_models` at their earlier path."""

from duplexmamba.models.language_models import LM, LMState, build_lm, load_pretrained
from duplexmamba.models.language_models.mamba_lm import MambaBlock, MambaLM

__all__ = ["LM", "LMState", "MambaBlock", "MambaLM", "build_lm", "load_pretrained"]
