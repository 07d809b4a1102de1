"""On a GPU: the scan's paths, a training step of preset small, and a token of the 2.8 B model against its bound.

    python benchmarks/gpu.py [--json FILE] [--smoke]

scan: batch 8, 1536 channels, 16 states, float32; gpu/scan/<path>/l<L>_ms is forward and backward, .../l<L>_forward_ms
    forward alone.
train: stage asr of preset small, random speech and text in bfloat16 autocast; forward, backward and AdamW.
    gpu/train/small_tokens_per_s counts what the language model reads, embeddings of speech and ids of text.
decode: preset paper's language model with random bfloat16 weights; gpu/decode/2.8b_b<B>_ms is a step for B rows as a
    CUDA graph, ..._eager_ms without one. No step is faster than its weights are read: gpu/decode/2.8b_bound_ms is their
    bytes by the bandwidth of a copy.
--smoke runs it all in small sizes on the CPU, without graphs, to see that it runs.
"""

import importlib.util
import sys
from collections.abc import Callable

import torch
from measure import arguments, interleave, machine, median, save, show
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
BATCHES = (1, 64)
PROMPT, SECONDS, RESPONSE = 20, 10, 60  # ids, speech and ids of one row in training
SMOKE = [
    "encoder.d_model=32", "encoder.num_layers=2", "encoder.d_ffn=48", "features.num_mels=20", "frontend.channels=[4,4]",
    "connector.d_hidden=24", "lm.d_model=32", "lm.num_layers=2", "lm.vocab_size=99", "data.batch_s=30",
]  # fmt: skip


def synchronized(run: Callable[..., object], *args: object) -> Callable[[], None]:
    """Its whole work, not only its launch."""

    def wait() -> None:
        run(*args)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return wait


def scan_operands(batch: int, length: int, e: int, n: int, device: str) -> list[Tensor]:
    """u, dt, A, B, C, D, gradients asked for."""
    u, dt = torch.randn(batch, length, e), torch.rand(batch, length, e) * 0.1
    A, (B, C) = -torch.arange(1.0, n + 1).repeat(e, 1), torch.randn(2, batch, length, n)
    return [x.to(device).requires_grad_() for x in (u, dt, A, B, C, torch.ones(e))]


def bench_scan(smoke: bool, device: str, rounds: int) -> dict[str, float]:
    """Shows the table; returns its numbers."""
    paths = ["torch"] + [
        p for p in ("triton", "mamba_ssm") if importlib.util.find_spec(p) and not smoke
    ]
    numbers, rows = {}, []
    for length in LENGTHS:
        sizes = (2, length // 64, 64, 16) if smoke else (8, length, 1536, 16)
        operands, dy = scan_operands(*sizes, device), torch.randn(sizes[:3], device=device)

        @torch.no_grad()
        def forward(path: str, operands: list[Tensor] = operands) -> None:
            selective_scan(*operands, path=path)

        def both(path: str, operands: list[Tensor] = operands, dy: Tensor = dy) -> None:
            torch.autograd.grad(selective_scan(*operands, path=path)[0], operands, dy)

        one = interleave(
            {p: synchronized(forward, p) for p in paths}, rounds, f"forward, L {length}"
        )
        two = interleave(
            {p: synchronized(both, p) for p in paths}, rounds, f"forward and backward, L {length}"
        )
        for path in paths:
            numbers[f"gpu/scan/{path}/l{length}_ms"] = median(two, path)
            numbers[f"gpu/scan/{path}/l{length}_forward_ms"] = median(one, path)
            rows.append(
                [f"{path}, L {length}", f"{median(one, path):.2f}", f"{median(two, path):.2f}"]
            )
    show("scan", ["path", "forward, ms", "forward and backward, ms"], rows)
    return numbers


def train_step(config: Config, device: str) -> tuple[Callable[[], None], int]:
    """One update of stage asr on random data, and how many tokens the language model reads in it."""
    model = SpeechLM(config.model).to(device).train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) in config.stage.trained)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], config.optim.lr, fused=True
    )
    rows, samples = int(config.data.batch_s) // SECONDS, SECONDS * config.features.sample_rate_hz
    speech = Padded(0.1 * torch.randn(rows, samples, device=device))
    ids = torch.randint(config.lm.vocab_size, (rows, PROMPT + RESPONSE + 1), device=device)
    before, after, labels = ids[:, :PROMPT], ids[:, PROMPT:-1], ids[:, PROMPT + 1 :]

    def step() -> None:
        with torch.autocast(device, torch.bfloat16):
            heard, _ = model.embed_speech(speech, final=True)
            hidden, _ = model(Padded(before), heard, Padded(after))
            loss = token_loss(model.lm.logits(hidden.values), labels, config.optim.label_smoothing)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step, rows * (
        PROMPT + samples // FrameTiming.of(config.model).samples_per_token + RESPONSE
    )


def bench_train(smoke: bool, device: str, rounds: int) -> dict[str, float]:
    """Shows the table; returns its numbers."""
    files = [str(CONFIGS / "preset/small.yaml"), str(CONFIGS / "stage/asr.yaml")]
    config = load_config([*files, *(SMOKE if smoke else [])])
    step, tokens = train_step(config, device)
    ms = median(interleave({"step": synchronized(step)}, rounds, "train"), "step")
    speed, speech = 1000 * tokens / ms, 1000 * int(config.data.batch_s) / ms
    columns = ["tokens per step", "ms per step", "tokens per s", "seconds of speech per s"]
    show(
        "training, preset small, stage asr",
        columns,
        [[str(tokens), f"{ms:.0f}", f"{speed:.0f}", f"{speech:.0f}"]],
    )
    return {"gpu/train/small_tokens_per_s": speed}


def copy_bandwidth(num_bytes: int, device: str, rounds: int) -> float:
    """Bytes read and written per millisecond."""
    x, y = torch.empty(2, num_bytes, dtype=torch.uint8, device=device)
    return (
        2
        * num_bytes
        / median(interleave({"copy": synchronized(y.copy_, x)}, rounds, "copy"), "copy")
    )


@torch.no_grad()
def bench_decode(smoke: bool, device: str, rounds: int) -> dict[str, float]:
    """Shows the table; returns its numbers."""
    files = [str(CONFIGS / "preset/paper.yaml"), str(CONFIGS / "stage/asr.yaml")]
    config = load_config([*files, *(SMOKE if smoke else [])]).lm
    with torch.device(device):
        lm = MambaLM(config).bfloat16().eval()
    bandwidth = copy_bandwidth(2**22 if smoke else 2**30, device, rounds)
    bound = sum(p.nbytes for p in lm.parameters()) / bandwidth
    numbers, rows = {"gpu/decode/2.8b_bound_ms": bound}, []
    for batch in BATCHES:
        token = torch.randint(config.vocab_size, (batch,), device=device)
        _, state = lm(Padded(lm.embed(token[:, None])))
        steps = {
            "eager": eager_steps(lm, state),
            "graph": (eager_steps if smoke else graph_steps)(lm, state),
        }
        times = interleave(
            {name: synchronized(step, token) for name, step in steps.items()},
            rounds,
            f"batch {batch}",
        )
        eager, graph = median(times, "eager"), median(times, "graph")
        numbers |= {
            f"gpu/decode/2.8b_b{batch}_ms": graph,
            f"gpu/decode/2.8b_b{batch}_eager_ms": eager,
        }
        rows.append(
            [str(batch), f"{eager:.2f}", f"{graph:.2f}", f"{bound:.2f}", f"{graph / bound:.1f}"]
        )
    columns = ["batch", "eager, ms", "CUDA graph, ms", "bound, ms", "graph / bound"]
    show(
        f"a token of the 2.8 B model, bfloat16; copies at {bandwidth / 1e6:.0f} GB/s", columns, rows
    )
    return numbers


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument(
        "--smoke", action="store_true", help="small sizes on the CPU, to see that it runs"
    )
    asked = parser.parse_args()
    if not (asked.smoke or torch.cuda.is_available()):
        print(
            "benchmarks/gpu.py measures a GPU and finds none; --smoke runs it small on the CPU.",
            file=sys.stderr,
        )
        return 2
    torch.manual_seed(0)
    torch.set_num_threads(asked.threads)
    device, rounds = ("cpu", 1) if asked.smoke else ("cuda", asked.rounds)
    print(
        f"{machine()}, {'no GPU: no measurement' if asked.smoke else torch.cuda.get_device_name()}"
    )
    numbers: dict[str, float] = {}
    for bench in (bench_scan, bench_train, bench_decode):
        numbers |= bench(asked.smoke, device, rounds)
    save(numbers, asked.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
