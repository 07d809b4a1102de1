"""Which architectures of transformers `lm.kind=pretrained` carries exactly, and how.

An architecture is listed where one forward, the same steps in any pieces, forks, and rows in a batch
or alone give the same (tests/test_pretrained_lm.py takes its cases from here). All others are
refused: a cache that is silently wrong shows only as a model that answers badly.
"""

import dataclasses
from collections.abc import Callable

from transformers import PreTrainedConfig


def _unscaled(settings: PreTrainedConfig) -> float:
    return 1.0


def _granite_factor(settings: PreTrainedConfig) -> float:
    return 1.0 / settings.logits_scaling


def _falcon_h1_factor(settings: PreTrainedConfig) -> float:
    return settings.lm_head_multiplier


@dataclasses.dataclass(frozen=True)
class Architecture:
    """An architecture that is carried."""

    model_type: str
    """`model_type` in config.json."""
    continues_in_chunks: bool = True
    """Whether the library runs several steps at once from a state.

    Where it does not, it starts such a chunk from zero without a word; steps after the first call
    are then run one by one.
    """
    logits_factor: Callable[[PreTrainedConfig], float] = _unscaled
    """What the output of the output matrix is multiplied by."""


ARCHITECTURES = {
    architecture.model_type: architecture
    for architecture in (
        Architecture("llama"),
        Architecture("qwen3"),
        Architecture("smollm3"),
        Architecture("gpt_neox"),
        Architecture("mamba", continues_in_chunks=False),
        Architecture("mamba2"),
        Architecture("falcon_mamba", continues_in_chunks=False),
        Architecture("jamba", continues_in_chunks=False),
        Architecture("granitemoehybrid", logits_factor=_granite_factor),
        Architecture("nemotron_h"),
        Architecture("falcon_h1", logits_factor=_falcon_h1_factor),
        Architecture("bamba"),
        Architecture("zamba2"),
        Architecture("lfm2"),
        Architecture("olmo_hybrid"),
        Architecture("qwen3_next"),
    )
}
"""All carried architectures by model_type."""

REFUSED = {
    "rwkv": "its state is a list of its own in place of a cache of the library",
    "xlstm": "its state is a cache of its own in place of one of the library",
    "recurrent_gemma": "its logits are capped, and its windows drop steps",
    "gemma2": "its logits are capped, and its windows drop steps",
    "gemma3_text": "its windows drop steps",
    "gpt_oss": "its windows drop steps",
}
"""Architectures that somebody may ask for, and why they are not carried."""


def find_architecture(model_type: str, source: str) -> Architecture:
    """Return the record of an architecture.

    Args:
        model_type: of config.json.
        source: folder or hub name, for messages.

    Raises:
        ValueError: it is not carried.
    """
    if model_type in ARCHITECTURES:
        return ARCHITECTURES[model_type]
    reason = REFUSED.get(model_type, "it has not been tested that its state is exact")
    raise ValueError(
        f"lm.pretrained={source!r} is a {model_type} model, which lm.kind=pretrained does not carry: "
        f"{reason}; choose one of {', '.join(ARCHITECTURES)}"
    )
