"""Names of `duplexmamba.models.mixers.mamba2` at their earlier path."""

from duplexmamba.models.mixers.mamba2 import Mamba2Mixer

__all__ = ["Mamba2Mixer"]
