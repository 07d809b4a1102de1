"""Training speed on a CPU against other implementations: the scan by itself, then whole models.

    python benchmarks/scan.py [--json FILE] [--lengths 128 512]

Batch 8, d_model 256, 8 layers, 16 states; one training step is forward and backward. Peers are: the
same model without the scan (the floor); the same layers with mambapy's parallel scan; the Mamba of
transformers (only up to L 128, since its backward pass grows with the square of L); a Transformer
(GPT-NeoX) with as many layers; and a Transformer with as many parameters.

Everything is measured twice: with the system's allocator, as after installing a library, and with
freed memory kept, as in our trainer, which saves the peers most of their page faults. Keys
cpu/l<L>/... are float32 with the system's allocator, except for train_over_floor, which is measured
as in our trainer. The other halves are cpu/l<L>/memory_kept/... and cpu/l<L>/system_allocator/...
Keys memory_kept/medium and memory_kept/bf16 are torch's matmul precision and autocast.
"""

import argparse
import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from mambapy.mamba import MambaBlock
from mambapy.mamba import MambaConfig as MambapyConfig
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
from transformers import GPTNeoXConfig, GPTNeoXModel, MambaConfig, MambaModel

from duplexmamba.models.mixers import mamba
from duplexmamba.models.mixers.mamba import MambaMixer
from duplexmamba.ops.scan import selective_scan
from duplexmamba.streaming.padded import Padded
from lightning_modules.trainer.hardware import keep_freed_memory

BATCH = 8
D_MODEL = 256
LAYERS = 8
D_STATE = 16
ALLOCATOR = {False: "the system's allocator", True: "freed memory kept"}
"""Whether freed memory is kept -> name of that in titles."""

PEERS = {
    "mambapy": "mambapy",
    "transformer": "transformer_layers",
    "equal": "transformer_parameters",
    "transformers": "transformers",
}
"""Peer -> its name in keys."""

SLOW_ROUNDS = 1
"""Rounds of the Mamba of transformers, which takes four seconds a layer."""

SLOW_LENGTH = 128
"""Largest L of the Mamba of transformers."""

Variants = dict[str, Callable[[], object]]


class Stack(nn.Module):
    """Layers of our Mamba-1 mixer with norms and residuals, as in the language model."""

    def __init__(self, layers: int = LAYERS) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(D_MODEL) for _ in range(layers))
        self.mixers = nn.ModuleList(MambaMixer(D_MODEL, D_STATE, 4, 2) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            y, _ = mixer(Padded(norm(x)))
            x = x + y.values
        return x


class MambapyStack(nn.Module):
    """As many layers of mambapy's mixer, which runs a parallel scan."""

    def __init__(self) -> None:
        super().__init__()
        config = MambapyConfig(d_model=D_MODEL, n_layers=LAYERS, d_state=D_STATE, pscan=True)
        self.norms = nn.ModuleList(nn.RMSNorm(D_MODEL) for _ in range(LAYERS))
        self.mixers = nn.ModuleList(MambaBlock(config) for _ in range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            x = x + mixer(norm(x))
        return x


class TransformersModel(nn.Module):
    """A model of the library transformers, from embeddings to hidden states."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        return self.model(inputs_embeds=x, use_cache=False).last_hidden_state


def transformer(layers: int) -> TransformersModel:
    """Build a GPT-NeoX with the attention that torch runs fastest.

    It has 12 d^2 parameters per layer; our mixer has 6.5 d^2.
    """
    config = GPTNeoXConfig(
        hidden_size=D_MODEL,
        num_hidden_layers=layers,
        num_attention_heads=4,  # 64 channels each
        intermediate_size=4 * D_MODEL,
        vocab_size=8,  # unused: inputs are embeddings
        attn_implementation="sdpa",
    )
    return TransformersModel(GPTNeoXModel(config))


def transformers_mamba() -> TransformersModel:
    """Build the Mamba of transformers; on a CPU it only has its plain implementation."""
    config = MambaConfig(hidden_size=D_MODEL, num_hidden_layers=LAYERS, vocab_size=8)
    return TransformersModel(MambaModel(config))


@contextmanager
def without_scan() -> Iterator[None]:
    """Replace the scan of our mixer by u * dt, to measure everything else."""

    def multiply(
        u: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        h0: Tensor | None,
        return_states_at: None,
    ) -> tuple[Tensor, Tensor | None]:
        return u * dt, h0

    # The mixer looks the function up in its module at every call.
    scan = mamba.selective_scan
    mamba.selective_scan = multiply
    try:
        yield
    finally:
        mamba.selective_scan = scan


def train_step(model: nn.Module, x: Tensor, bf16: bool) -> None:
    """Run forward and backward of a model on x (B, L, D), optionally in bfloat16 autocast."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = model(x).square().mean()
    loss.backward()
    model.zero_grad()


def floor_step(model: nn.Module, x: Tensor, bf16: bool) -> None:
    """Run `train_step` without the scan."""
    with without_scan():
        train_step(model, x, bf16)


def scan_operands(length: int) -> list[Tensor]:
    """Draw u, dt, A, B, C, D of one layer, all of which require gradients."""
    channels = 2 * D_MODEL
    u = torch.randn(BATCH, length, channels)
    dt = torch.rand(BATCH, length, channels) * 0.1
    A = -torch.arange(1.0, D_STATE + 1).repeat(channels, 1)
    B, C = torch.randn(2, BATCH, length, D_STATE)
    D = torch.ones(channels)
    return [operand.clone().requires_grad_() for operand in (u, dt, A, B, C, D)]


def scan_steps(length: int) -> Variants:
    """Return forward and backward of the scan by each implementation."""
    config = MambapyConfig(d_model=D_MODEL, n_layers=1, d_state=D_STATE, pscan=True)
    # Only its scan is used; its layers are not.
    mambapy_block = MambaBlock(config)
    operands = scan_operands(length)
    dy = torch.randn(BATCH, length, 2 * D_MODEL)

    def ours(path: str) -> None:
        y, _ = selective_scan(*operands, path=path)
        torch.autograd.grad(y, operands, dy)

    def mambapy() -> None:
        y = mambapy_block.selective_scan(*operands)
        torch.autograd.grad(y, operands, dy)

    return {
        "cpp": functools.partial(ours, "cpp"),
        "torch": functools.partial(ours, "torch"),
        "mambapy": mambapy,
    }


def bench_scan(length: int, rounds: int, kept: bool) -> dict[str, float]:
    """Measure the scan by itself; print a table.

    Args:
        length: L.
        rounds: counted rounds.
        kept: whether freed memory is kept, for titles and keys.

    Returns:
        The numbers by key.
    """
    times = interleave(scan_steps(length), rounds, f"scan, L {length}")
    rows = []
    for name in times:
        rows.append([name, f"{median(times, name):.1f}", f"{ratio(times, name, 'cpp'):.1f}"])
    title = f"scan alone, L {length}, forward + backward, {ALLOCATOR[kept]}"
    show(title, ["", "ms", "times cpp's"], rows)
    prefix = f"cpu/l{length}/"
    if kept:
        prefix += "memory_kept/"
    return {
        f"{prefix}scan_speedup_vs_mambapy": ratio(times, "mambapy", "cpp"),
        f"{prefix}scan_torch_speedup_vs_mambapy": ratio(times, "mambapy", "torch"),
    }


def bench_models(
    length: int, rounds: int, precision: str, kept: bool, peers: list[str]
) -> dict[str, float]:
    """Measure training steps of whole models; print a table.

    Args:
        length: L.
        rounds: counted rounds.
        precision: "float32", "medium" (matmul precision) or "bf16" (autocast).
        kept: whether freed memory is kept, for titles and keys.
        peers: keys of PEERS.

    Returns:
        The numbers by key.
    """
    torch.set_float32_matmul_precision("medium" if precision == "medium" else "highest")
    bf16 = precision == "bf16"
    x = torch.randn(BATCH, length, D_MODEL)
    ours = Stack()
    num_parameters = count_parameters(Stack())
    # Layers with which a Transformer has as many parameters as our model.
    equal_layers = round(num_parameters / count_parameters(transformer(1)))
    variants = peer_steps(peers, equal_layers, x, bf16)
    pair: Variants = {
        "ours": functools.partial(train_step, ours, x, bf16),
        "floor": functools.partial(floor_step, ours, x, bf16),
    }
    times = interleave(variants | pair, rounds, f"models, L {length}, {precision}")
    # Side by side and more often, since the difference between these two is small.
    label = f"with and without the scan, L {length}, {precision}"
    close = interleave(pair, 2 * rounds, label)
    over_floor = ratio(close, "ours", "floor")
    prefix = key_prefix(length, precision, kept)
    numbers = {f"{floor_prefix(length, precision, kept)}train_over_floor": over_floor}
    for name in variants:
        numbers[f"{prefix}train_speedup_vs_{PEERS[name]}"] = ratio(times, name, "ours")
    if "transformers" in peers and length <= SLOW_LENGTH and precision == "float32":
        slow = bench_transformers_mamba(pair["ours"], x)
        times["transformers"] = slow["transformers"]
        numbers[f"{prefix}train_speedup_vs_transformers"] = ratio(slow, "transformers", "ours")
    title = f"{LAYERS} layers, L {length}, {precision}, training step, {ALLOCATOR[kept]}"
    show_models(f"{title}; {over_floor:.2f} times the floor", times, num_parameters, equal_layers)
    return numbers


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def peer_steps(peers: list[str], equal_layers: int, x: Tensor, bf16: bool) -> Variants:
    """Build those peers that all lengths and precisions share; return their training steps."""
    build: dict[str, Callable[[], nn.Module]] = {
        "mambapy": MambapyStack,
        "transformer": functools.partial(transformer, LAYERS),
        "equal": functools.partial(transformer, equal_layers),
    }
    steps: Variants = {}
    for name, build_model in build.items():
        if name in peers:
            steps[name] = functools.partial(train_step, build_model(), x, bf16)
    return steps


def bench_transformers_mamba(ours: Callable[[], object], x: Tensor) -> Times:
    """Time the Mamba of transformers next to our training step, in float32."""
    # Our step in the same rounds, so that the ratio does not depend on the machine's speed.
    step = functools.partial(train_step, transformers_mamba(), x, False)
    return interleave({"transformers": step, "ours": ours}, SLOW_ROUNDS, "transformers' Mamba")


def key_prefix(length: int, precision: str, kept: bool) -> str:
    """Return the prefix of keys, as described at the top of this file."""
    prefix = f"cpu/l{length}/"
    if kept:
        prefix += "memory_kept/"
    if precision != "float32":
        prefix += f"{precision}/"
    return prefix


def floor_prefix(length: int, precision: str, kept: bool) -> str:
    """Return the prefix of train_over_floor, which is plain for measurements as in our trainer."""
    if precision != "float32":
        return key_prefix(length, precision, kept)
    return f"cpu/l{length}/" if kept else f"cpu/l{length}/system_allocator/"


def show_models(title: str, times: Times, num_parameters: int, equal_layers: int) -> None:
    """Print the table of whole models, the fastest one first."""
    labels = {
        "ours": f"ours, {num_parameters / 1e6:.1f} M parameters",
        "floor": "ours without the scan",
        "mambapy": "mambapy",
        "transformer": f"Transformer, {LAYERS} layers",
        "equal": f"Transformer, {equal_layers} layers: as many parameters",
        "transformers": "transformers' Mamba",
    }
    medians = {name: median(times, name) for name in times}
    rows = []
    for name in sorted(medians, key=lambda name: medians[name]):
        relative = medians[name] / medians["ours"]
        rows.append([labels[name], f"{medians[name]:.0f}", f"{relative:.2f}"])
    show(title, ["", "ms", "times ours"], rows)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--precisions", nargs="+", default=["float32", "medium", "bf16"])
    parser.add_argument(
        "--peers", nargs="+", choices=PEERS, default=list(PEERS), help="mambapy needs 4 GB at L 512"
    )
    return parser.parse_args()


def main() -> None:
    """Measure all lengths and precisions with both allocators, and save the numbers."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    quieten_transformers()
    print(f"{machine()}, {args.threads} threads")
    numbers: dict[str, float] = {}
    # Last with freed memory kept, since that cannot be undone in a process.
    for kept in (False, True):
        if kept:
            keep_freed_memory()
        if "mambapy" in args.peers:
            for length in args.lengths:
                numbers |= bench_scan(length, args.rounds, kept)
        precisions = args.precisions if kept else ["float32"]
        for length, precision in itertools.product(args.lengths, precisions):
            numbers |= bench_models(length, args.rounds, precision, kept, args.peers)
    save(numbers, args.json)


if __name__ == "__main__":
    main()
