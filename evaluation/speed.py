"""Speed of encoding and answering for a single conversation, and size of its streaming state.

The input is noise: the amount of computation does not depend on the content of the audio.
"""

import argparse
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
from evaluation.console import print_scores
from evaluation.finished_run import open_run
from evaluation.record import ScoreValue
from lightning_modules.stages import STAGE_REGISTRY
from lightning_modules.trainer.hardware import set_up_torch

SLICED_AUDIO_S = 20
"""Seconds that are encoded slice by slice; state growth is measured over the second half."""
WHOLE_AUDIO_S = 10
"""Seconds that are encoded in one call."""
NUM_TOKENS = 64
NUM_ROUNDS = 3
NO_END_ID = -1
"""An id that no token has, so that decoding does not stop early."""
StreamState = tuple[Any, LMState | None]
"""State of the speech encoder and connector, and state of the language model if there is one."""


def score(args: argparse.Namespace) -> dict[str, float]:
    """Measure a run of any stage, on the GPU if there is one, else on one CPU thread."""
    run = open_run(args.run, args.overrides)
    set_up_torch(run.config)
    # A slice is too little work to gain from several threads.
    torch.set_num_threads(1)
    model = STAGE_REGISTRY[run.config.stage.name].model(run.config.model)
    model.load_state_dict(run.checkpoint.weights)
    use_gpu = torch.cuda.is_available() and run.config.trainer.accelerator != "cpu"
    device = "cuda" if use_gpu else "cpu"
    scores = measure(model.eval().to(device), run.config)
    return print_scores(scores, run.titled(f"speed and size, on {device}"))


@torch.inference_mode()
def measure(model: nn.Module, config: Config) -> dict[str, ScoreValue]:
    """Measure the parts that a model has.

    A speech encoder alone emits no tokens, and a language model alone takes no audio.

    Args:
        model: in eval mode, on any device.
        config: gives the length of a slice and the sample rate.

    Returns:
        Milliseconds, shares of real time, bytes and numbers of parameters, by score key.
    """
    sizes = count_parameters(model)
    scores = {}
    for part, count in sizes.items():
        scores[f"size/{part}_parameters"] = ScoreValue(count, 1)
    scores["size/all_parameters"] = ScoreValue(sum(sizes.values()), 1)
    if isinstance(model, SpeechEncoder):
        scores |= measure_whole(model, config)
        if supports_slices(config):
            scores |= measure_slices(model, config)
    lm = getattr(model, "lm", None)
    if lm is not None:
        scores |= measure_decoding(lm)
    return scores


def supports_slices(config: Config) -> bool:
    """Whether the context of the encoder allows encoding slice by slice."""
    try:
        check_slices(config.model, config.duplex)
    except ValueError:
        return False
    return True


def process(
    model: SpeechEncoder,
    samples: Tensor,
    state: StreamState = (None, None),
    final: bool = False,
) -> StreamState:
    """Feed (1, n) samples to a model and return its state after them."""
    speech_state, lm_state = state
    if not isinstance(model, SpeechLM):
        _, speech_state = model.encode(Padded(samples), speech_state, final)
        return speech_state, None
    # (1, S, E)
    embeddings, speech_state = model.embed_speech(Padded(samples), speech_state, final)
    _, lm_state = model.lm(embeddings, lm_state)
    return speech_state, lm_state


def measure_slices(model: SpeechEncoder, config: Config) -> dict[str, ScoreValue]:
    """Measure the time per slice, and the size of the state after all slices."""
    slice_s = config.duplex.slice_ms / 1000
    slice_samples = round(slice_s * config.features.sample_rate_hz)
    slices = noise(model, config, SLICED_AUDIO_S).split(slice_samples, dim=1)
    # Two slices before timing starts: kernels are built and memory is allocated at first use.
    state = process(model, slices[0])
    process(model, slices[0], state)

    state = (None, None)
    times_ms = []
    sizes = []
    for samples in slices:
        start_s = time.perf_counter()
        state = process(model, samples, state)
        times_ms.append(elapsed_ms(start_s, samples))
        sizes.append(num_bytes(state))

    count = len(slices)
    real_time_factor = sum(times_ms) / 1000 / SLICED_AUDIO_S
    # In the first half, buffers of bounded size still fill up.
    half = count // 2
    growth = sizes[-1] - sizes[half - 1]
    growth_per_s = growth / ((count - half) * slice_s)
    return {
        "slice/median_ms": ScoreValue(statistics.median(times_ms), count),
        "slice/real_time_factor": ScoreValue(real_time_factor, count),
        "state/lm_bytes": ScoreValue(num_bytes(state[1]), 1),
        "state/all_bytes": ScoreValue(sizes[-1], 1),
        "state/growth_bytes_per_s": ScoreValue(growth_per_s, count - half),
    }


def measure_whole(model: SpeechEncoder, config: Config) -> dict[str, ScoreValue]:
    """Measure the time of a recording that is encoded in one call."""
    samples = noise(model, config, WHOLE_AUDIO_S)
    time_ms = median_ms(lambda: process(model, samples, final=True), samples)
    real_time_factor = time_ms / 1000 / WHOLE_AUDIO_S
    return {"whole/real_time_factor": ScoreValue(real_time_factor, NUM_ROUNDS)}


def measure_decoding(lm: LM) -> dict[str, ScoreValue]:
    """Measure the time per token of a response."""
    start = torch.zeros(1, 1, dtype=torch.int64, device=lm.embeddings.weight.device)
    hidden, state = lm(Padded(lm.embed(start)))  # (1, 1, E)
    logits = lm.logits(hidden.values[:, -1])  # (1, V)
    time_ms = median_ms(lambda: greedy(lm, logits, state, NO_END_ID, NUM_TOKENS), logits)
    return {"token/median_ms": ScoreValue(time_ms / NUM_TOKENS, NUM_ROUNDS)}


def noise(model: SpeechEncoder, config: Config, seconds: int) -> Tensor:
    """White noise (1, n), always the same, on the device of the model."""
    generator = torch.Generator().manual_seed(0)
    num_samples = seconds * config.features.sample_rate_hz
    samples = 0.1 * torch.randn(1, num_samples, generator=generator)
    return samples.to(next(model.parameters()).device)


def median_ms(run: Callable[[], object], on: Tensor) -> float:
    """Median time of `NUM_ROUNDS` calls, after one call that is not timed.

    Args:
        run: the call.
        on: a tensor on the device that does the work.
    """
    times_ms = []
    for _ in range(1 + NUM_ROUNDS):
        start_s = time.perf_counter()
        run()
        times_ms.append(elapsed_ms(start_s, on))
    return statistics.median(times_ms[1:])


def elapsed_ms(start_s: float, tensor: Tensor) -> float:
    """Milliseconds since `start_s`, once the device of a tensor has finished its work."""
    # Calls on a GPU return before the work is done.
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return 1000 * (time.perf_counter() - start_s)
