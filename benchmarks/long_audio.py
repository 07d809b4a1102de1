"""An hour of audio in slices of 200 ms: memory and time per slice, and error against a reference.

    python benchmarks/long_audio.py [--json FILE] [--minutes 60] [--plot long_audio.png]

The tiny preset with random weights processes noise of changing level. A second copy processes the
same audio with the reference implementation of the scan (path "reference") in float32, and the
hidden states of both are compared to the end.
"""

import os
import time
from pathlib import Path
from typing import Any, NamedTuple

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
SLICES_PER_MINUTE = 300
SHOWN_MINUTES = (1, 5, 15, 30, 60)


class Minute(NamedTuple):
    """Measurements at the end of one minute of audio."""

    memory_mb: float
    """Memory of the process."""
    slice_ms: float
    """Mean time per slice in this minute."""
    max_error: float
    """Largest difference from the reference since the start."""


class ListeningBranch:
    """The model with one implementation of the scan, which processes audio slice by slice.

    Args:
        model: the model; branches may share it.
        path: a value of the environment variable DUPLEXMAMBA_SCAN.
    """

    def __init__(self, model: SpeechLM, path: str):
        self.model = model
        self.path = path
        self.encoder_state: Any = None
        self.lm_state: Any = None

    def process(self, samples: torch.Tensor) -> torch.Tensor:
        """Process one slice, (1, samples) -> hidden states of the language model (1, 1, E)."""
        # The scan reads the variable at every call, so that branches can take turns.
        os.environ["DUPLEXMAMBA_SCAN"] = self.path
        speech, self.encoder_state = self.model.embed_speech(Padded(samples), self.encoder_state)
        hidden, self.lm_state = self.model.lm(speech, self.lm_state)
        return hidden.values

    def state_bytes(self) -> int:
        """Return the size of the state between slices."""
        return num_bytes(self.encoder_state) + num_bytes(self.lm_state)


def resident_mb() -> float:
    """Return the memory of this process."""
    # The second field of statm counts resident pages.
    resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return resident_pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def audio(index: int, num_samples: int) -> torch.Tensor:
    """Return slice `index` of the test signal, (1, samples).

    It is noise; every fifth second is silent and every seventh second is clipped.
    """
    generator = torch.Generator().manual_seed(index)
    noise = torch.randn(1, num_samples, generator=generator)
    second = index * SLICE_MS // 1000
    if second % 5 == 0:
        return noise * 0
    level = 100 if second % 7 == 0 else 0.1
    return (noise * level).clamp(-1, 1)


def measure(
    fast: ListeningBranch, reference: ListeningBranch, num_slices: int, slice_samples: int
) -> list[Minute]:
    """Process the test signal by both branches; only the fast one is timed.

    Args:
        fast: branch to measure.
        reference: branch to compare hidden states with.
        num_slices: slices to process.
        slice_samples: samples per slice.
    """
    minutes = []
    spent_s = 0.0
    max_error = 0.0
    console = Console(stderr=True)
    for index in track(range(num_slices), "processing", transient=True, console=console):
        start = time.perf_counter()
        samples = audio(index, slice_samples)
        hidden = fast.process(samples)
        spent_s += time.perf_counter() - start
        difference = hidden - reference.process(samples)
        max_error = max(max_error, float(difference.abs().max()))
        if (index + 1) % SLICES_PER_MINUTE == 0:
            slice_ms = 1000 * spent_s / SLICES_PER_MINUTE
            minutes.append(Minute(resident_mb(), slice_ms, max_error))
            spent_s = 0.0
    return minutes


def show_minutes(minutes: list[Minute], shown: list[int]) -> None:
    """Print the table of some minutes, which count from 1."""
    rows = []
    for number in shown:
        minute = minutes[number - 1]  # minutes count from 1
        rows.append(
            [
                str(number),
                f"{minute.memory_mb:.1f}",
                f"{minute.slice_ms:.2f}",
                f"{minute.max_error:.1e}",
            ]
        )
    columns = ["minute", "memory, MB", "ms per slice", "error so far"]
    show("an hour of audio in slices of 200 ms", columns, rows)


@torch.inference_mode()
def main() -> None:
    """Run the benchmark, print a table, save the numbers and draw the curves if requested."""
    parser = arguments(__doc__)
    parser.set_defaults(threads=1)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--plot", type=Path, help="PNG of the curve")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    config = load_config(["configs/preset/tiny.yaml", "configs/stage/asr.yaml"])
    model = SpeechLM(config.model).eval()
    fast = ListeningBranch(model, "cpp")
    reference = ListeningBranch(model, "reference")
    slice_samples = config.features.sample_rate_hz * SLICE_MS // 1000
    num_slices = int(args.minutes * SLICES_PER_MINUTE)
    minutes = measure(fast, reference, num_slices, slice_samples)
    print(f"{machine()}, {args.threads} thread")
    shown = sorted({min(number, len(minutes)) for number in SHOWN_MINUTES})
    show_minutes(minutes, shown)
    print(f"state {fast.state_bytes() / 1e3:.0f} kB")
    if args.plot:
        draw(minutes, args.plot)
    numbers: dict[str, float] = {}
    for number in shown:
        for name, value in minutes[number - 1]._asdict().items():
            numbers[f"long_audio/minute_{number}_{name}"] = value
    numbers["long_audio/growth_mb"] = minutes[-1].memory_mb - minutes[0].memory_mb
    save(numbers, args.json)


def draw(minutes: list[Minute], file: Path) -> None:
    """Draw memory and time per slice over minutes."""
    figure, axes = plt.subplots(2, 1, figsize=(7, 5), sharex=True, layout="constrained")
    curves = {
        "memory of the process, MB": [minute.memory_mb for minute in minutes],
        "ms per slice of 200 ms": [minute.slice_ms for minute in minutes],
    }
    for axis, (label, values) in zip(axes, curves.items(), strict=True):
        axis.plot(range(1, len(minutes) + 1), values)
        axis.set_ylabel(label)
        axis.set_ylim(0, 1.2 * max(values))
    axes[1].set_xlabel("minutes of audio")
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
