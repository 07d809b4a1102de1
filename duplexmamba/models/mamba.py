"""The module `duplexmamba.models.mixers.mamba` at its earlier path.

Tests and benchmarks replace functions of this module, so that it has to be the same object.
"""

import sys

from duplexmamba.models.mixers import mamba
from duplexmamba.models.mixers.mamba import MambaMixer, MambaState

__all__ = ["MambaMixer", "MambaState"]

sys.modules[__name__] = mamba
