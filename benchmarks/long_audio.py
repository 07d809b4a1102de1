"""An hour of audio in slices of 200 ms: memory and time per slice stay flat, and the last slices equal the twin's.

    python benchmarks/long_audio.py [--json FILE] [--minutes 60] [--plot long_audio.png]

The tiny preset with random weights hears noise that comes and goes. The twin runs the scan's literal loop (path
"reference") over the same audio in float32; both states and outputs are compared to the end.
"""

import os
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from measure import arguments, machine, save, show
from rich.console import Console
from rich.progress import track

from configs.loading import load_config
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.streaming.padded import Padded
from duplexmamba.streaming.state import num_bytes

SLICE_MS = 200
EVERY = 300  # slices, one minute


def resident_mb() -> float:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class ListeningBranch:
    """The model with one scan path, going through audio slice by slice."""

    def __init__(self, model: SpeechLM, path: str):
        self.model, self.path = model, path
        self.ear = self.memory = None

    def hear(self, samples: torch.Tensor) -> torch.Tensor:
        """(1, n) -> hidden states (1, 1, E)."""
        os.environ["DUPLEXMAMBA_SCAN"] = self.path
        speech, self.ear = self.model.embed_speech(Padded(samples), self.ear)
        hidden, self.memory = self.model.lm(speech, self.memory)
        return hidden.values


def audio(index: int, samples: int) -> torch.Tensor:
    """Noise whose level rises and falls, every fifth second silent, every seventh clipped."""
    noise = torch.randn(1, samples, generator=torch.Generator().manual_seed(index))
    second = index * SLICE_MS // 1000
    return (
        noise * 0 if second % 5 == 0 else (noise * (100 if second % 7 == 0 else 0.1)).clamp(-1, 1)
    )


@torch.inference_mode()
def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(threads=1)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--plot", type=Path, help="PNG of the curve")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    config = load_config(["configs/preset/tiny.yaml", "configs/stage/asr.yaml"])
    model = SpeechLM(config.model).eval()
    fast, twin = ListeningBranch(model, "cpp"), ListeningBranch(model, "reference")
    samples = config.features.sample_rate_hz * SLICE_MS // 1000
    spent, worst, curve = 0.0, 0.0, []
    for index in track(
        range(int(asked.minutes * EVERY)), "listening", transient=True, console=Console(stderr=True)
    ):
        begun = time.perf_counter()
        heard = fast.hear(audio(index, samples))
        spent += time.perf_counter() - begun
        worst = max(worst, float((heard - twin.hear(audio(index, samples))).abs().max()))
        if (index + 1) % EVERY == 0:
            curve.append((resident_mb(), 1000 * spent / EVERY, worst))
            spent = 0.0
    print(f"{machine()}, {asked.threads} thread")
    marks = sorted({min(m, len(curve)) for m in (1, 5, 15, 30, 60)})
    rows = [
        [f"{m}", *(f"{curve[m - 1][i]:{form}}" for i, form in enumerate((".1f", ".2f", ".1e")))]
        for m in marks
    ]
    show(
        "an hour of audio in slices of 200 ms",
        ["minute", "memory, MB", "ms per slice", "error so far"],
        rows,
    )
    print(f"state {(num_bytes(fast.ear) + num_bytes(fast.memory)) / 1e3:.0f} kB")
    if asked.plot:
        draw(curve, asked.plot)
    numbers = {f"long_audio/minute_{m}_{k}": curve[m - 1][i] for m in marks
               for i, k in enumerate(("memory_mb", "slice_ms", "max_error"))}  # fmt: skip
    save({**numbers, "long_audio/growth_mb": curve[-1][0] - curve[0][0]}, asked.json)


def draw(curve: list[tuple[float, float, float]], file: Path) -> None:
    """Memory and time per slice against minutes."""
    figure, axes = plt.subplots(2, 1, figsize=(7, 5), sharex=True, layout="constrained")
    for axis, i, label in zip(
        axes, (0, 1), ("memory of the process, MB", "ms per slice of 200 ms"), strict=True
    ):
        axis.plot(range(1, len(curve) + 1), [point[i] for point in curve])
        axis.set_ylabel(label)
        axis.set_ylim(0, 1.2 * max(point[i] for point in curve))
    axes[1].set_xlabel("minutes of audio")
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
