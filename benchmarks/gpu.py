"""On a GPU: the paths of the scan, a training step of preset small, a token of the 2.8 B model.

    python benchmarks/gpu.py [--json FILE] [--smoke]

scan: batch 8, 1536 channels, 16 states, float32. gpu/scan/<path>/l<L>_ms is forward and backward,
    gpu/scan/<path>/l<L>_forward_ms is forward only.
train: stage asr of preset small with random speech and text in bfloat16 autocast; forward, backward
    and AdamW. gpu/train/small_tokens_per_s counts the inputs of the language model: embeddings of
    speech and ids of text.
decode: the language model of preset paper with random bfloat16 weights. gpu/decode/2.8b_b<B>_ms is
    a step for B rows as a CUDA graph, gpu/decode/2.8b_b<B>_eager_ms without a graph. No step can be
    faster than its weights are read: gpu/decode/2.8b_bound_ms is their bytes divided by the
    bandwidth of a copy.

--smoke runs everything in small sizes on the CPU, without graphs, to test the benchmark itself.
"""

import functools
import importlib.util
import sys
from collections.abc import Callable

import torch
from measure import Times, arguments, interleave, machine, median, save, show
from torch import Tensor

from configs.loading import load_config
from configs.recipes import CONFIGS
from configs.schema import Config
from duplexmamba.models.language_models.mamba_lm import MambaLM
from duplexmamba.models.speech_lm import SpeechLM, part_of
from duplexmamba.models.timing import FrameTiming
from duplexmamba.ops.scan import selective_scan
from duplexmamba.streaming.padded import Padded
from duplexmamba.text.decoding import eager_steps, graph_steps
from duplexmamba.text.losses import token_loss

LENGTHS = (512, 2048)
"""Steps of the scan."""

BATCHES = (1, 64)
"""Rows of a decoding step."""

PROMPT = 20
"""Ids before the speech of one row in training."""

SPEECH_S = 10
"""Seconds of speech of one row in training."""

RESPONSE = 60
"""Ids after the speech of one row in training."""

SMOKE = [
    "encoder.d_model=32",
    "encoder.num_layers=2",
    "encoder.d_ffn=48",
    "features.num_mels=20",
    "frontend.channels=[4,4]",
    "connector.d_hidden=24",
    "lm.d_model=32",
    "lm.num_layers=2",
    "lm.vocab_size=99",
    "data.batch_s=30",
]
"""Configuration overrides of --smoke."""


def synchronized(run: Callable[..., object], *args: object) -> Callable[[], None]:
    """Return a function that calls `run` and waits for the GPU, so that its work is timed too."""

    def wait() -> None:
        run(*args)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return wait


def load_preset(name: str, smoke: bool) -> Config:
    """Load stage asr of a preset, in small sizes if `smoke`."""
    files = [str(CONFIGS / f"preset/{name}.yaml"), str(CONFIGS / "stage/asr.yaml")]
    overrides = SMOKE if smoke else []
    return load_config([*files, *overrides])


def scan_operands(
    batch: int,
    length: int,
    channels: int,
    states: int,
    device: str,
) -> list[Tensor]:
    """Draw u, dt, A, B, C, D of a scan, all of which require gradients.

    Args:
        batch: B.
        length: L.
        channels: E.
        states: N.
        device: where the operands are.
    """
    u = torch.randn(batch, length, channels)
    dt = torch.rand(batch, length, channels) * 0.1
    A = -torch.arange(1.0, states + 1).repeat(channels, 1)
    B, C = torch.randn(2, batch, length, states)
    D = torch.ones(channels)
    return [operand.to(device).requires_grad_() for operand in (u, dt, A, B, C, D)]


@torch.no_grad()
def run_forward(operands: list[Tensor], path: str) -> None:
    """Run the scan by a path, without gradients."""
    selective_scan(*operands, path=path)


def run_forward_and_backward(operands: list[Tensor], dy: Tensor, path: str) -> None:
    """Run the scan by a path, and its backward pass from the gradient dy (B, L, E) of y."""
    y, _ = selective_scan(*operands, path=path)
    torch.autograd.grad(y, operands, dy)


def scan_paths(smoke: bool) -> list[str]:
    """Return the paths of the scan that are installed here."""
    paths = ["torch"]
    for package in ("triton", "mamba_ssm"):
        if not smoke and importlib.util.find_spec(package):
            paths.append(package)
    return paths


def time_paths(
    paths: list[str],
    run: Callable[[str], None],
    rounds: int,
    label: str,
) -> Times:
    """Time a function of a path for all paths in turn."""
    variants = {path: synchronized(run, path) for path in paths}
    return interleave(variants, rounds, label)


def bench_scan(smoke: bool, device: str, rounds: int) -> dict[str, float]:
    """Measure the paths of the scan; print a table and return the numbers by key."""
    paths = scan_paths(smoke)
    numbers: dict[str, float] = {}
    rows = []
    for length in LENGTHS:
        # (B, L, E, N)
        sizes = (2, length // 64, 64, 16) if smoke else (8, length, 1536, 16)
        operands = scan_operands(*sizes, device)
        dy = torch.randn(sizes[:3], device=device)
        forward = functools.partial(run_forward, operands)
        both = functools.partial(run_forward_and_backward, operands, dy)
        forward_times = time_paths(paths, forward, rounds, f"forward, L {length}")
        both_times = time_paths(paths, both, rounds, f"forward and backward, L {length}")
        for path in paths:
            forward_ms = median(forward_times, path)
            both_ms = median(both_times, path)
            numbers[f"gpu/scan/{path}/l{length}_ms"] = both_ms
            numbers[f"gpu/scan/{path}/l{length}_forward_ms"] = forward_ms
            rows.append([f"{path}, L {length}", f"{forward_ms:.2f}", f"{both_ms:.2f}"])
    show("scan", ["path", "forward, ms", "forward and backward, ms"], rows)
    return numbers


def train_step(config: Config, device: str) -> tuple[Callable[[], None], int]:
    """Build a model, its optimizer and a batch of random data.

    Args:
        config: configuration of stage asr.
        device: where to train.

    Returns:
        A function that makes one update, and how many embeddings and ids the language model
        processes in it.
    """
    model = SpeechLM(config.model).to(device).train()
    trained = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) in config.stage.trained)
        if parameter.requires_grad:
            trained.append(parameter)
    optimizer = torch.optim.AdamW(trained, config.optim.lr, fused=True)
    num_rows = int(config.data.batch_s) // SPEECH_S
    num_samples = SPEECH_S * config.features.sample_rate_hz
    # Noise instead of speech, since only the shapes matter.
    samples = Padded(0.1 * torch.randn(num_rows, num_samples, device=device))
    num_ids = PROMPT + RESPONSE + 1
    ids = torch.randint(config.lm.vocab_size, (num_rows, num_ids), device=device)
    prompt = Padded(ids[:, :PROMPT])
    response = Padded(ids[:, PROMPT:-1])
    labels = ids[:, PROMPT + 1 :]  # each id predicts the next one

    def step() -> None:
        with torch.autocast(device, torch.bfloat16):
            speech, _ = model.embed_speech(samples, final=True)
            hidden, _ = model(prompt, speech, response)
            logits = model.lm.logits(hidden.values)
            loss = token_loss(logits, labels, config.optim.label_smoothing)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    speech_tokens = num_samples // FrameTiming.of(config.model).samples_per_token
    return step, num_rows * (PROMPT + speech_tokens + RESPONSE)


def bench_train(smoke: bool, device: str, rounds: int) -> dict[str, float]:
    """Measure a training step; print a table and return the numbers by key."""
    config = load_preset("small", smoke)
    step, num_tokens = train_step(config, device)
    times = interleave({"step": synchronized(step)}, rounds, "train")
    step_ms = median(times, "step")
    tokens_per_s = 1000 * num_tokens / step_ms
    speech_per_s = 1000 * int(config.data.batch_s) / step_ms
    columns = ["tokens per step", "ms per step", "tokens per s", "seconds of speech per s"]
    row = [str(num_tokens), f"{step_ms:.0f}", f"{tokens_per_s:.0f}", f"{speech_per_s:.0f}"]
    show("training, preset small, stage asr", columns, [row])
    return {"gpu/train/small_tokens_per_s": tokens_per_s}


def copy_bandwidth(num_bytes: int, device: str, rounds: int) -> float:
    """Measure the bandwidth of a copy: bytes read and written per millisecond."""
    x, y = torch.empty(2, num_bytes, dtype=torch.uint8, device=device)
    times = interleave({"copy": synchronized(y.copy_, x)}, rounds, "copy")
    return 2 * num_bytes / median(times, "copy")


@torch.no_grad()
def bench_decode(smoke: bool, device: str, rounds: int) -> dict[str, float]:
    """Measure a decoding step; print a table and return the numbers by key."""
    config = load_preset("paper", smoke).lm
    # Built on the GPU, since 2.8 B float32 weights on the CPU would take 11 GB first.
    with torch.device(device):
        lm = MambaLM(config).bfloat16().eval()
    bandwidth = copy_bandwidth(2**22 if smoke else 2**30, device, rounds)
    bound_ms = sum(parameter.nbytes for parameter in lm.parameters()) / bandwidth
    numbers = {"gpu/decode/2.8b_bound_ms": bound_ms}
    rows = []
    for batch in BATCHES:
        eager_ms, graph_ms = decode_ms(lm, config.vocab_size, batch, smoke, device, rounds)
        numbers[f"gpu/decode/2.8b_b{batch}_ms"] = graph_ms
        numbers[f"gpu/decode/2.8b_b{batch}_eager_ms"] = eager_ms
        times_bound = graph_ms / bound_ms
        milliseconds = [f"{value:.2f}" for value in (eager_ms, graph_ms, bound_ms)]
        rows.append([str(batch), *milliseconds, f"{times_bound:.1f}"])
    columns = ["batch", "eager, ms", "CUDA graph, ms", "bound, ms", "graph / bound"]
    title = f"a token of the 2.8 B model, bfloat16; copies at {bandwidth / 1e6:.0f} GB/s"
    show(title, columns, rows)
    return numbers


def decode_ms(
    lm: MambaLM,
    vocab_size: int,
    batch: int,
    smoke: bool,
    device: str,
    rounds: int,
) -> tuple[float, float]:
    """Measure one decoding step.

    Args:
        lm: the language model.
        vocab_size: token ids are drawn below this.
        batch: rows.
        smoke: whether eager steps replace the graph.
        device: where the model is.
        rounds: counted rounds.

    Returns:
        Milliseconds of an eager step and of a graph.
    """
    token = torch.randint(vocab_size, (batch,), device=device)
    _, state = lm(Padded(lm.embed(token[:, None])))
    eager = eager_steps(lm, state)
    # There are no graphs on the CPU.
    graph = eager_steps(lm, state) if smoke else graph_steps(lm, state)
    variants = {"eager": synchronized(eager, token), "graph": synchronized(graph, token)}
    times = interleave(variants, rounds, f"batch {batch}")
    return median(times, "eager"), median(times, "graph")


def main() -> int:
    """Run all three benchmarks and save the numbers; return 2 if there is no GPU."""
    parser = arguments(__doc__)
    parser.add_argument(
        "--smoke", action="store_true", help="small sizes on the CPU, to see that it runs"
    )
    args = parser.parse_args()
    if not (args.smoke or torch.cuda.is_available()):
        print(
            "benchmarks/gpu.py measures a GPU and finds none; --smoke runs it small on the CPU.",
            file=sys.stderr,
        )
        return 2
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    device = "cpu" if args.smoke else "cuda"
    rounds = 1 if args.smoke else args.rounds
    gpu_name = "no GPU: no measurement" if args.smoke else torch.cuda.get_device_name()
    print(f"{machine()}, {gpu_name}")
    numbers: dict[str, float] = {}
    for bench in (bench_scan, bench_train, bench_decode):
        numbers |= bench(args.smoke, device, rounds)
    save(numbers, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
