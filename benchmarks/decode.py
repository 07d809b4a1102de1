"""One token on a CPU after a context: our model, the Mamba of transformers, and a Transformer.

    python benchmarks/decode.py [--json FILE] [--sizes tiny 130m] [--contexts 256 4096 32768]

Batch 1, float32, random weights. `tiny` is the preset's language model, `130m` has the size of
mamba-130m. The Transformer is GPT-NeoX with half as many layers of the same width, which gives it
as many parameters, and a preallocated KV cache. Our model really processes its contexts; the cache
of the Transformer is filled with random keys and values.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from measure import (
    Times,
    arguments,
    interleave,
    machine,
    median,
    quieten_transformers,
    ratio,
    save,
    show,
)
from torch import Tensor, nn
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    StaticCache,
)

from configs.loading import load_config, override
from duplexmamba.models.language_models import LMState
from duplexmamba.models.language_models.mamba_lm import MambaLM
from duplexmamba.streaming.padded import Padded
from duplexmamba.streaming.state import num_bytes

SIZES = {"tiny": [], "130m": ["lm.d_model=768", "lm.num_layers=24", "lm.vocab_size=50280"]}
"""Size -> configuration overrides of the preset tiny."""

SLICE = 15
"""Tokens that are processed in one call, as in a slice of speech."""

REPEATS = {"tiny": 30, "130m": 3}
"""Size -> calls per measurement."""

CHUNK = 1024
"""Tokens that are processed at once when a context grows."""

# Headings of the table.
COLUMNS = [
    "context",
    "ours, ms",
    "HF Mamba, ms",
    "Transformer, ms",
    "HF Mamba / ours",
    "KV cache, MB",
]

Step = Callable[[Tensor], object]
"""Processes token ids (1, L) after a context."""


class OurModel:
    """Our language model and its state after a context.

    Args:
        size: key of SIZES.
    """

    def __init__(self, size: str):
        files = ["configs/preset/tiny.yaml", "configs/stage/lm.yaml"]
        config = override(load_config(files), SIZES[size])
        self.config = config.lm
        self.lm = MambaLM(config.lm).eval()
        self.state: LMState | None = None
        self.context = 0

    def extend(self, context: int) -> None:
        """Process random tokens until the context has this many."""
        while self.context < context:
            num_tokens = min(CHUNK, context - self.context)
            ids = torch.randint(self.config.vocab_size, (1, num_tokens))
            _, self.state = self.lm(Padded(self.lm.embed(ids)), self.state)
            self.context += num_tokens

    def step(self, ids: Tensor) -> Tensor:
        """Return logits (1, V) after ids (1, L) in one call; the context stays the same."""
        hidden, _ = self.lm(Padded(self.lm.embed(ids)), self.state)
        return self.lm.logits(hidden.values[:, -1])

    def steps(self, ids: Tensor) -> None:
        """Process ids (1, L) one by one, with logits after each."""
        state = self.state
        for token in ids.split(1, dim=1):
            hidden, state = self.lm(Padded(self.lm.embed(token)), state)
            self.lm.logits(hidden.values[:, -1])


def transformers_mamba(config: Any) -> Step:
    """Build the Mamba of transformers after a short context.

    Its cache has the same size after any context, and so its speed is the same.

    Args:
        config: configuration of our language model.
    """
    model = MambaForCausalLM(
        MambaConfig(
            hidden_size=config.d_model,
            num_hidden_layers=config.num_layers,
            vocab_size=config.vocab_size,
        )
    ).eval()
    ids = torch.randint(config.vocab_size, (1, 16))
    # The cache is updated in place by every step.
    cache = model(ids, use_cache=True).cache_params

    def step(ids: Tensor) -> object:
        return model(ids, cache_params=cache, use_cache=True).logits

    return step


def transformer(config: Any, context: int) -> tuple[Step, int]:
    """Build a Transformer after a context.

    Args:
        config: configuration of our language model.
        context: tokens in the cache.

    Returns:
        The step, and the bytes of the cache.
    """
    neox = GPTNeoXConfig(
        hidden_size=config.d_model,
        num_hidden_layers=-(-config.num_layers // 2),
        num_attention_heads=max(1, config.d_model // 64),
        intermediate_size=4 * config.d_model,
        vocab_size=config.vocab_size,
        max_position_embeddings=context + SLICE,
        attn_implementation="sdpa",
    )
    model = GPTNeoXForCausalLM(neox).eval()
    cache = StaticCache(neox, max_cache_len=context + 1)
    # The first call allocates the cache.
    model(torch.zeros(1, 1, dtype=torch.int64), past_key_values=cache, use_cache=True)
    cache_bytes = 0
    for layer in cache.layers:
        layer.keys.normal_()
        layer.values.normal_()
        cache_bytes += layer.keys.nbytes + layer.values.nbytes

    def step(ids: Tensor) -> object:
        # Every call is the token after the context, whatever the calls before it have added.
        for layer in cache.layers:
            layer.cumulative_length.fill_(context)
        return model(ids, past_key_values=cache, use_cache=True).logits

    return step, cache_bytes


def parameters_m(model: nn.Module) -> float:
    """Return the number of parameters in millions."""
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


@torch.inference_mode()
def bench(size: str, contexts: list[int], rounds: int) -> dict[str, float]:
    """Measure one size after each context; print a table.

    Args:
        size: key of SIZES.
        contexts: tokens before the measured one.
        rounds: counted rounds.

    Returns:
        The numbers by key.
    """
    ours = OurModel(size)
    token = torch.randint(ours.config.vocab_size, (1, 1))
    slice_ids = torch.randint(ours.config.vocab_size, (1, SLICE))
    mamba = transformers_mamba(ours.config)
    numbers: dict[str, float] = {}
    rows = []
    for context in sorted(contexts):
        ours.extend(context)
        # Built anew for each context, since its cache has a fixed size.
        attention, cache_bytes = transformer(ours.config, context)
        variants = {"ours": ours.step, "transformers_mamba": mamba, "transformer": attention}
        calls = {name: functools.partial(step, token) for name, step in variants.items()}
        times = interleave(calls, rounds, f"{size}, {context}", REPEATS[size])
        numbers |= context_numbers(size, context, times, cache_bytes)
        rows.append(context_row(context, times, cache_bytes))
    slices = {
        "slice": functools.partial(ours.step, slice_ids),
        "steps": functools.partial(ours.steps, slice_ids),
    }
    times = interleave(slices, rounds, f"{size}, a slice")
    slice_ms = median(times, "slice")
    over_steps = ratio(times, "slice", "steps")
    assert ours.state is not None
    state_bytes = num_bytes(ours.state)
    numbers[f"decode/{size}/state_bytes"] = state_bytes
    numbers[f"decode/{size}/slice_{SLICE}_ms"] = slice_ms
    numbers[f"decode/{size}/slice_{SLICE}_over_steps"] = over_steps
    show(f"{size}, {parameters_m(ours.lm):.1f} M parameters: one token", COLUMNS, rows)
    print(
        f"state {state_bytes / 1e6:.2f} MB after any context; {SLICE} tokens in one call "
        f"{slice_ms:.2f} ms, {over_steps:.2f} of {SLICE} single steps\n"
    )
    return numbers


def context_numbers(size: str, context: int, times: Times, cache_bytes: int) -> dict[str, float]:
    """Return the numbers of one context by key."""
    numbers = {}
    for name in times:
        model = size if name == "ours" else f"{size}_{name}"
        numbers[f"decode/{model}/ctx_{context}_ms"] = median(times, name)
    speedup = ratio(times, "transformers_mamba", "ours")
    numbers[f"decode/{size}/ctx_{context}_speedup_vs_transformers_mamba"] = speedup
    numbers[f"decode/{size}_transformer/ctx_{context}_state_bytes"] = cache_bytes
    return numbers


def context_row(context: int, times: Times, cache_bytes: int) -> list[str]:
    """Return one row of the table."""
    row = [str(context)]
    for name in times:
        row.append(f"{median(times, name):.2f}")
    row.append(f"{ratio(times, 'transformers_mamba', 'ours'):.1f}")
    row.append(f"{cache_bytes / 1e6:.1f}")
    return row


def main() -> None:
    """Measure all sizes, print tables and save the numbers."""
    parser = arguments(__doc__)
    parser.set_defaults(threads=1, rounds=15)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--contexts", type=int, nargs="+", default=[256, 4096, 32768])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    quieten_transformers()
    print(f"{machine()}, {args.threads} threads")
    numbers: dict[str, float] = {}
    for size in args.sizes:
        numbers |= bench(size, args.contexts, args.rounds)
    save(numbers, args.json)


if __name__ == "__main__":
    main()
