"""One token, and one slice of 15 tokens, on a CPU: ours, transformers' Mamba and a Transformer of the same size.

    python benchmarks/decode.py [--json FILE] [--sizes tiny 130m] [--contexts 256 4096 32768]

Batch 1, float32, random weights. `tiny` is the preset's language model, `130m` that of mamba-130m. The Transformer is
GPT-NeoX with half as many layers of the same width, which makes as many parameters, and a preallocated KV cache.
Contexts of the Mambas are really read; those of the Transformer are a cache filled with random keys and values.
"""

import functools
from collections.abc import Callable

import torch
from measure import arguments, interleave, machine, median, quieten_transformers, ratio, save, show
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
SLICE = 15
REPEATS = {"tiny": 30, "130m": 3}
CHUNK = 1024  # tokens at a time when a context is read


class Ours:
    """Our language model, and its state behind a context."""

    def __init__(self, size: str):
        config = override(
            load_config(["configs/preset/tiny.yaml", "configs/stage/lm.yaml"]), SIZES[size]
        )
        self.config, self.lm = config.lm, MambaLM(config.lm).eval()
        self.state: LMState | None = None
        self.context = 0

    def read(self, context: int) -> None:
        """Go on to this context."""
        while self.context < context:
            ids = torch.randint(self.config.vocab_size, (1, min(CHUNK, context - self.context)))
            _, self.state = self.lm(Padded(self.lm.embed(ids)), self.state)
            self.context += ids.shape[1]

    def step(self, ids: Tensor) -> Tensor:
        """Logits behind (1, L) ids after the context; the state stays as it is."""
        hidden, _ = self.lm(Padded(self.lm.embed(ids)), self.state)
        return self.lm.logits(hidden.values[:, -1])

    def steps(self, ids: Tensor) -> None:
        """The same, one by one."""
        state = self.state
        for i in range(ids.shape[1]):
            hidden, state = self.lm(Padded(self.lm.embed(ids[:, i : i + 1])), state)
            self.lm.logits(hidden.values[:, -1])


def transformers_mamba(ours: Ours) -> Callable[[Tensor], object]:
    """A token after a context: its cache is as large and as fast after any."""
    c = ours.config
    model = MambaForCausalLM(
        MambaConfig(hidden_size=c.d_model, num_hidden_layers=c.num_layers, vocab_size=c.vocab_size)
    ).eval()
    cache = model(torch.randint(c.vocab_size, (1, 16)), use_cache=True).cache_params
    return lambda ids: model(ids, cache_params=cache, use_cache=True).logits


def transformer(ours: Ours, context: int) -> tuple[Callable[[Tensor], object], int]:
    """A token after a context, and the bytes of its cache."""
    c = ours.config
    heads = max(1, c.d_model // 64)
    config = GPTNeoXConfig(
        hidden_size=c.d_model, num_hidden_layers=-(-c.num_layers // 2), num_attention_heads=heads,
        intermediate_size=4 * c.d_model, vocab_size=c.vocab_size, max_position_embeddings=context + SLICE,
        attn_implementation="sdpa",
    )  # fmt: skip
    model = GPTNeoXForCausalLM(config).eval()
    cache = StaticCache(config, max_cache_len=context + 1)
    model(torch.zeros(1, 1, dtype=torch.int64), past_key_values=cache, use_cache=True)
    for layer in cache.layers:
        layer.keys.normal_(), layer.values.normal_()
    size = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)

    def step(ids: Tensor) -> object:
        for layer in cache.layers:
            layer.cumulative_length.fill_(context)
        return model(ids, past_key_values=cache, use_cache=True).logits

    return step, size


def count(model: nn.Module) -> float:
    return sum(p.numel() for p in model.parameters()) / 1e6


@torch.inference_mode()
def bench(size: str, contexts: list[int], rounds: int) -> dict[str, float]:
    """Shows the table of one size; returns its numbers."""
    ours, numbers, rows = Ours(size), {}, []
    one, some = (
        torch.randint(ours.config.vocab_size, (1, 1)),
        torch.randint(ours.config.vocab_size, (1, SLICE)),
    )
    mamba = transformers_mamba(ours)
    for context in sorted(contexts):
        ours.read(context)
        attention, cache_bytes = transformer(ours, context)
        variants = {"ours": ours.step, "transformers_mamba": mamba, "transformer": attention}
        calls = {name: functools.partial(step, one) for name, step in variants.items()}
        times = interleave(calls, rounds, f"{size}, {context}", REPEATS[size])
        for name in variants:
            key = f"decode/{size}" + ("" if name == "ours" else f"_{name}")
            numbers[f"{key}/ctx_{context}_ms"] = median(times, name)
        speedup = ratio(times, "transformers_mamba", "ours")
        numbers[f"decode/{size}/ctx_{context}_speedup_vs_transformers_mamba"] = speedup
        numbers[f"decode/{size}_transformer/ctx_{context}_state_bytes"] = cache_bytes
        speeds = [f"{median(times, name):.2f}" for name in variants]
        rows.append([str(context), *speeds, f"{speedup:.1f}", f"{cache_bytes / 1e6:.1f}"])
    slices = {
        "slice": functools.partial(ours.step, some),
        "steps": functools.partial(ours.steps, some),
    }
    times = interleave(slices, rounds, f"{size}, a slice")
    assert ours.state is not None
    numbers[f"decode/{size}/state_bytes"] = num_bytes(ours.state)
    numbers[f"decode/{size}/slice_{SLICE}_ms"] = median(times, "slice")
    numbers[f"decode/{size}/slice_{SLICE}_over_steps"] = ratio(times, "slice", "steps")
    columns = [
        "context",
        "ours, ms",
        "HF Mamba, ms",
        "Transformer, ms",
        "HF Mamba / ours",
        "KV cache, MB",
    ]
    show(f"{size}, {count(ours.lm):.1f} M parameters: one token", columns, rows)
    print(
        f"state {num_bytes(ours.state) / 1e6:.2f} MB after any context; {SLICE} tokens in one call "
        f"{median(times, 'slice'):.2f} ms, {ratio(times, 'slice', 'steps'):.2f} of {SLICE} single steps\n"
    )
    return numbers


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(threads=1, rounds=15)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--contexts", type=int, nargs="+", default=[256, 4096, 32768])
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    quieten_transformers()
    print(f"{machine()}, {asked.threads} threads")
    numbers: dict[str, float] = {}
    for size in asked.sizes:
        numbers |= bench(size, asked.contexts, asked.rounds)
    save(numbers, asked.json)


if __name__ == "__main__":
    main()
