"""DuplexMamba: speech language models that listen while they respond, in plain PyTorch.

The main names can be imported from here, for instance `from duplexmamba import SpeechLM`; each is
loaded when it is first used, so that importing a part of the package stays cheap.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from duplexmamba.config import (
        ConnectorConfig,
        DuplexConfig,
        EncoderConfig,
        FeaturesConfig,
        FrontendConfig,
        LMConfig,
        ModelConfig,
    )
    from duplexmamba.models.connectors import CONNECTORS
    from duplexmamba.models.language_models import LANGUAGE_MODELS
    from duplexmamba.models.mixers import MIXERS
    from duplexmamba.models.speech_lm import (
        SpeechEncoder,
        SpeechEncoderState,
        SpeechLM,
        SpeechState,
    )
    from duplexmamba.models.timing import FrameTiming
    from duplexmamba.streaming.padded import Padded
    from duplexmamba.text.tokenizer import Tokenizer

__all__ = [
    "CONNECTORS",
    "LANGUAGE_MODELS",
    "MIXERS",
    "ConnectorConfig",
    "DuplexConfig",
    "EncoderConfig",
    "FeaturesConfig",
    "FrameTiming",
    "FrontendConfig",
    "LMConfig",
    "ModelConfig",
    "Padded",
    "SpeechEncoder",
    "SpeechEncoderState",
    "SpeechLM",
    "SpeechState",
    "Tokenizer",
]

_MODULES = {
    "CONNECTORS": "models.connectors",
    "LANGUAGE_MODELS": "models.language_models",
    "MIXERS": "models.mixers",
    "FrameTiming": "models.timing",
    "Padded": "streaming.padded",
    "SpeechEncoder": "models.speech_lm",
    "SpeechEncoderState": "models.speech_lm",
    "SpeechLM": "models.speech_lm",
    "SpeechState": "models.speech_lm",
    "Tokenizer": "text.tokenizer",
}
"""Module of each exported name; the others are in `config`."""


def __getattr__(name: str) -> Any:
    """Import an exported name when it is first used.

    Raises:
        AttributeError: the package exports no such name.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES.get(name, 'config')}")
    return getattr(module, name)
