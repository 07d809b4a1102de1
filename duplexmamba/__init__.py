"""DuplexMamba: a speech-to-text language model that listens while it responds, in plain torch.

    from duplexmamba import ModelConfig, Padded, SpeechLM

Every part is `forward(x, state) -> (y, state)`; live sessions are in `duplexmamba.duplex`.
"""

import importlib
from typing import Any

_EXPORTS = {
    "ModelConfig": "duplexmamba.config",
    "Padded": "duplexmamba.streaming.padded",
    "SpeechEncoder": "duplexmamba.models.speech_lm",
    "SpeechLM": "duplexmamba.models.speech_lm",
    "Tokenizer": "duplexmamba.text.tokenizer",
    "ForkSession": "duplexmamba.duplex",
    "MultiplexSession": "duplexmamba.duplex",
}
"""Name -> module that defines it; imported at first use, since some need large libraries."""

__all__ = [*_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
