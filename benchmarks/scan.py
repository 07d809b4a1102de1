"""Training speed on a CPU, each peer side by side in one run: the scan alone, then whole models.

    python benchmarks/scan.py [--json FILE] [--lengths 128 512]

Shape: batch 8, d_model 256, 8 layers, 16 states; one training step is forward and backward. Peers: the same model with
the scan left out (the floor), with mambapy's parallel scan, transformers' Mamba (L 128 and below: its backward pass
grows with the square of L), a Transformer (GPT-NeoX) of as many layers, and one of as many parameters.

Everything is timed twice: with the system's allocator, as who installs a library has it, and with freed memory kept, as
our trainer has it, which spares the others most of their page faults. Keys cpu/l<L>/... are float32 with the system's
allocator, all but train_over_floor, which is about our trainer; the other half is under cpu/l<L>/memory_kept/... and
cpu/l<L>/system_allocator/. memory_kept/medium and memory_kept/bf16 are torch's matmul precision and autocast.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from mambapy.mamba import MambaBlock
from mambapy.mamba import MambaConfig as MambapyConfig
from measure import arguments, interleave, machine, median, quieten_transformers, ratio, save, show
from torch import Tensor, nn
from transformers import GPTNeoXConfig, GPTNeoXModel, MambaConfig, MambaModel

from duplexmamba.models.mixers import mamba
from duplexmamba.models.mixers.mamba import MambaMixer
from duplexmamba.ops.scan import selective_scan
from duplexmamba.streaming.padded import Padded
from lightning_modules.trainer.hardware import keep_freed_memory

BATCH, D_MODEL, LAYERS, D_STATE = 8, 256, 8, 16
ALLOCATOR = {False: "the system's allocator", True: "freed memory kept"}
PEERS = {
    "mambapy": "mambapy", "transformer": "transformer_layers", "equal": "transformer_parameters",
    "transformers": "transformers",
}  # fmt: skip
SLOW_ROUNDS = 1  # of transformers' Mamba, four seconds a layer


class Stack(nn.Module):
    """Layers of our mixer, as in the language model."""

    def __init__(self, layers: int = LAYERS) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(D_MODEL) for _ in range(layers))
        self.mixers = nn.ModuleList(MambaMixer(D_MODEL, D_STATE, 4, 2) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            x = x + mixer(Padded(norm(x)))[0].values
        return x


class MambapyStack(nn.Module):
    """As many layers of mambapy's."""

    def __init__(self) -> None:
        super().__init__()
        config = MambapyConfig(d_model=D_MODEL, n_layers=LAYERS, d_state=D_STATE, pscan=True)
        self.norms = nn.ModuleList(nn.RMSNorm(D_MODEL) for _ in range(LAYERS))
        self.mixers = nn.ModuleList(MambaBlock(config) for _ in range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            x = x + mixer(norm(x))
        return x


class Theirs(nn.Module):
    """A model of transformers, embeddings in, hidden states out."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(inputs_embeds=x, use_cache=False).last_hidden_state


def transformer(layers: int) -> Theirs:
    """GPT-NeoX with the attention that torch runs fastest; parameters per layer 12 d^2, of our mixer's 6.5 d^2."""
    config = GPTNeoXConfig(
        hidden_size=D_MODEL, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=4 * D_MODEL,
        vocab_size=8, attn_implementation="sdpa",
    )  # fmt: skip
    return Theirs(GPTNeoXModel(config))


def transformers_mamba() -> Theirs:
    """Its plain path, which is what it has on a CPU."""
    return Theirs(
        MambaModel(MambaConfig(hidden_size=D_MODEL, num_hidden_layers=LAYERS, vocab_size=8))
    )


@contextmanager
def without_scan() -> Iterator[None]:
    """The floor: the model with u * dt in the scan's place."""

    def cheap(
        u: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        h0: Tensor | None,
        return_states_at: None,
    ):
        return u * dt, h0

    mamba.selective_scan, kept = cheap, mamba.selective_scan
    try:
        yield
    finally:
        mamba.selective_scan = kept


def train_step(model: nn.Module, x: Tensor, bf16: bool) -> None:
    """Forward and backward."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = model(x).square().mean()
    loss.backward()
    model.zero_grad()


def floor_step(model: nn.Module, x: Tensor, bf16: bool) -> None:
    """The same with the scan left out."""
    with without_scan():
        train_step(model, x, bf16)


def scan_operands(length: int) -> list[Tensor]:
    """u, dt, A, B, C, D as a layer has them, gradients asked for."""
    e = 2 * D_MODEL
    u, dt = torch.randn(BATCH, length, e), torch.rand(BATCH, length, e) * 0.1
    A = -torch.arange(1.0, D_STATE + 1).repeat(e, 1)
    B, C = torch.randn(2, BATCH, length, D_STATE)
    return [x.clone().requires_grad_() for x in (u, dt, A, B, C, torch.ones(e))]


def scan_steps(length: int) -> dict[str, Callable[[], object]]:
    """The scan alone, forward and backward."""
    theirs = MambaBlock(MambapyConfig(d_model=D_MODEL, n_layers=1, d_state=D_STATE, pscan=True))

    operands, dy = scan_operands(length), torch.randn(BATCH, length, 2 * D_MODEL)
    scans = {
        "cpp": lambda: selective_scan(*operands, path="cpp")[0],
        "torch": lambda: selective_scan(*operands, path="torch")[0],
        "mambapy": lambda: theirs.selective_scan(*operands),
    }
    return {
        name: lambda scan=scan: torch.autograd.grad(scan(), operands, dy)
        for name, scan in scans.items()
    }


def bench_scan(length: int, rounds: int, kept: bool) -> dict[str, float]:
    """Shows the table of one length, with freed memory kept or not; returns its numbers."""
    times = interleave(scan_steps(length), rounds, f"scan, L {length}")
    rows = [
        [name, f"{median(times, name):.1f}", f"{ratio(times, name, 'cpp'):.1f}"] for name in times
    ]
    show(
        f"scan alone, L {length}, forward + backward, {ALLOCATOR[kept]}",
        ["", "ms", "times cpp's"],
        rows,
    )
    prefix = f"cpu/l{length}/" + ("memory_kept/" if kept else "")
    return {
        f"{prefix}scan_speedup_vs_mambapy": ratio(times, "mambapy", "cpp"),
        f"{prefix}scan_torch_speedup_vs_mambapy": ratio(times, "mambapy", "torch"),
    }


def bench_models(
    length: int, rounds: int, precision: str, kept: bool, peers: list[str]
) -> dict[str, float]:
    """Shows the table of one length and precision; returns its numbers."""
    torch.set_float32_matmul_precision("medium" if precision == "medium" else "highest")
    bf16, x = precision == "bf16", torch.randn(BATCH, length, D_MODEL)
    ours, count = Stack(), sum(p.numel() for p in Stack().parameters())
    equal = round(count / sum(p.numel() for p in transformer(1).parameters()))
    build = {
        "mambapy": MambapyStack, "transformer": functools.partial(transformer, LAYERS),
        "equal": functools.partial(transformer, equal),
    }  # fmt: skip
    variants = {
        name: functools.partial(train_step, build[name](), x, bf16)
        for name in build
        if name in peers
    }
    pair = {
        "ours": functools.partial(train_step, ours, x, bf16),
        "floor": functools.partial(floor_step, ours, x, bf16),
    }
    times = interleave(variants | pair, rounds, f"models, L {length}, {precision}")
    close = interleave(pair, 2 * rounds, f"with and without the scan, L {length}, {precision}")
    prefix = (
        f"cpu/l{length}/"
        + ("memory_kept/" if kept else "")
        + ("" if precision == "float32" else f"{precision}/")
    )
    floor = {
        (False, "float32"): f"cpu/l{length}/system_allocator/",
        (True, "float32"): f"cpu/l{length}/",
    }
    numbers = {
        f"{floor.get((kept, precision), prefix)}train_over_floor": ratio(close, "ours", "floor"),
        **{
            f"{prefix}train_speedup_vs_{PEERS[name]}": ratio(times, name, "ours")
            for name in variants
        },
    }
    if "transformers" in peers and length <= 128 and precision == "float32":
        model = transformers_mamba()
        step = functools.partial(train_step, model, x, bf16)
        slow = interleave(
            {"transformers": step, "ours": pair["ours"]}, SLOW_ROUNDS, "transformers' Mamba"
        )
        times["transformers"] = slow["transformers"]
        numbers[f"{prefix}train_speedup_vs_transformers"] = ratio(slow, "transformers", "ours")
    labels = {
        "ours": f"ours, {count / 1e6:.1f} M parameters", "floor": "ours without the scan", "mambapy": "mambapy",
        "transformer": f"Transformer, {LAYERS} layers", "equal": f"Transformer, {equal} layers: as many parameters",
        "transformers": "transformers' Mamba",
    }  # fmt: skip
    rows = [[labels[name], f"{median(times, name):.0f}", f"{median(times, name) / median(times, 'ours'):.2f}"]
            for name in sorted(times, key=lambda name: median(times, name))]  # fmt: skip
    title = f"{LAYERS} layers, L {length}, {precision}, training step, {ALLOCATOR[kept]}"
    show(
        f"{title}; {ratio(close, 'ours', 'floor'):.2f} times the floor",
        ["", "ms", "times ours"],
        rows,
    )
    return numbers


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--precisions", nargs="+", default=["float32", "medium", "bf16"])
    parser.add_argument(
        "--peers", nargs="+", choices=PEERS, default=list(PEERS), help="mambapy needs 4 GB at L 512"
    )
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    quieten_transformers()
    print(f"{machine()}, {asked.threads} threads")
    numbers: dict[str, float] = {}
    for kept in (False, True):
        if kept:
            keep_freed_memory()
        for length in asked.lengths if "mambapy" in asked.peers else []:
            numbers |= bench_scan(length, asked.rounds, kept)
        for length, precision in itertools.product(
            asked.lengths, asked.precisions if kept else ["float32"]
        ):
            numbers |= bench_models(length, asked.rounds, precision, kept, asked.peers)
    save(numbers, asked.json)


if __name__ == "__main__":
    main()
