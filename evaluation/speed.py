"""How fast a model hears and speaks, one conversation at a time, and how large its memory of one is.

Noise is heard: what is computed does not depend on what is said.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from configs.schema import Config
from duplexmamba.models.language_models import LM, LMState
from duplexmamba.models.speech_lm import SpeechEncoder, SpeechLM, count_parameters
from duplexmamba.models.timing import check_slices
from duplexmamba.streaming.padded import Padded
from duplexmamba.streaming.state import num_bytes
from duplexmamba.text.decoding import greedy
from evaluation.duplex.dialogues import Score

HEARD_S = 20
"""In slices; growth is that of the second half."""
AT_ONCE_S = 10
"""As one piece."""
TOKENS = 64
ROUNDS = 3
NO_END = -1
"""No token's id."""
Memory = tuple[Any, LMState | None]
"""Of what was heard: that of the way to the speech embeddings, and the language model where there is one."""


@torch.inference_mode()
def measure(model: nn.Module, config: Config) -> dict[str, Score]:
    """Times and bytes of what a model has: an encoder alone does not speak, a language model alone does not hear.

    Args:
        model: in eval mode, on any device.
    """
    sizes = count_parameters(model)
    found = {
        f"size/{part}_parameters": Score(count, 1)
        for part, count in {**sizes, "all": sum(sizes.values())}.items()
    }
    if isinstance(model, SpeechEncoder):
        found |= at_once(model, config) | (in_slices(model, config) if hears_slices(config) else {})
    if (lm := getattr(model, "lm", None)) is not None:
        found |= speaking(lm)
    return found


def hears_slices(config: Config) -> bool:
    """Whether the encoder's context lets it hear slice by slice."""
    try:
        check_slices(config.model, config.duplex)
    except ValueError:
        return False
    return True


def hear(
    model: SpeechEncoder, samples: Tensor, memory: Memory = (None, None), final: bool = False
) -> Memory:
    """What is remembered behind (1, n) more samples."""
    ear, lm = memory
    if not isinstance(model, SpeechLM):
        return model.encode(Padded(samples), ear, final)[1], None
    speech, ear = model.embed_speech(Padded(samples), ear, final)
    return ear, model.lm(speech, lm)[1]


def in_slices(model: SpeechEncoder, config: Config) -> dict[str, Score]:
    """Time of a slice, and the memory behind all of them."""
    slice_s = config.duplex.slice_ms / 1000
    pieces = noise(model, config, HEARD_S).split(
        round(slice_s * config.features.sample_rate_hz), dim=1
    )
    memory = hear(model, pieces[0])  # what is built or fetched at first use is
    memory = hear(model, pieces[0], memory)
    memory, spent_ms, sizes = (None, None), [], []
    for piece in pieces:
        begun = time.perf_counter()
        memory = hear(model, piece, memory)
        spent_ms.append(since_ms(begun, piece))
        sizes.append(num_bytes(memory))
    count, half = len(pieces), len(pieces) // 2
    return {
        "slice/median_ms": Score(statistics.median(spent_ms), count),
        "slice/real_time_factor": Score(sum(spent_ms) / 1000 / HEARD_S, count),
        "state/lm_bytes": Score(num_bytes(memory[1]), 1),
        "state/all_bytes": Score(sizes[-1], 1),
        "state/growth_bytes_per_s": Score(
            (sizes[-1] - sizes[half - 1]) / ((count - half) * slice_s), count - half
        ),
    }


def at_once(model: SpeechEncoder, config: Config) -> dict[str, Score]:
    """Time of a recording that is heard as a whole."""
    samples = noise(model, config, AT_ONCE_S)
    spent_ms = rounds_ms(lambda: hear(model, samples, final=True), samples)
    return {"whole/real_time_factor": Score(spent_ms / 1000 / AT_ONCE_S, ROUNDS)}


def speaking(lm: LM) -> dict[str, Score]:
    """Time of a token of an answer."""
    start = torch.zeros(1, 1, dtype=torch.int64, device=lm.embeddings.weight.device)
    hidden, state = lm(Padded(lm.embed(start)))
    logits = lm.logits(hidden.values[:, -1])
    spent_ms = rounds_ms(lambda: greedy(lm, logits, state, NO_END, TOKENS), logits)
    return {"token/median_ms": Score(spent_ms / TOKENS, ROUNDS)}


def noise(model: SpeechEncoder, config: Config, seconds: int) -> Tensor:
    """(1, n)"""
    samples = 0.1 * torch.randn(
        1, seconds * config.features.sample_rate_hz, generator=torch.Generator().manual_seed(0)
    )
    return samples.to(next(model.parameters()).device)


def rounds_ms(run: Callable[[], object], on: Tensor) -> float:
    """The median of a few; one before them does not count."""
    spent_ms = []
    for _ in range(1 + ROUNDS):
        begun = time.perf_counter()
        run()
        spent_ms.append(since_ms(begun, on))
    return statistics.median(spent_ms[1:])


def since_ms(begun: float, on: Tensor) -> float:
    """Milliseconds since then, once the device that holds a tensor has done its work."""
    if on.is_cuda:
        torch.cuda.synchronize(on.device)
    return 1000 * (time.perf_counter() - begun)
