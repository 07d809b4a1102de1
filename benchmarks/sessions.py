"""Concurrent conversations in real time on one core, over one model: batched against one by one.

    python benchmarks/sessions.py [--json FILE] [--run runs/latest] [--seconds 4] [--most 256]

The model is the tiny preset with random weights, or that of a run. Every conversation listens and
responds all the time. Its slices arrive at the rate of speech, each conversation with its own
phase; slices that have arrived are processed as one batch, as in `make serve`, or one after the
other. Time is simulated: it advances only by the processor time of the work, so that other programs
do not count, and jumps to the next slice when there is no work.
"""

import heapq
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from measure import arguments, machine, save, show
from torch import Tensor

from configs.loading import load_config
from duplexmamba.duplex.fork import ForkSession
from duplexmamba.duplex.session import Session, push_batched
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.text.tokenizer import Tokenizer
from lightning_modules.sessions import open_sessions
from lightning_modules.trainer.checkpoint import FILE, StageCheckpoint
from lightning_modules.trainer.hardware import set_up_torch
from serving.capacity import busy, noise

NUM_WARM_UP_SLICES = 3
"""Slices of each conversation that are not counted."""
NUM_STATE_SLICES = 12
"""Slices after which a conversation has a listening branch and a response."""


class Arrival(NamedTuple):
    """A slice that arrives, ordered by time."""

    time_s: float
    conversation: int
    remaining: int
    """Slices of the conversation that are left, this one included."""


def tiny_session() -> Session:
    """A session of the tiny preset with random weights."""
    config = load_config(["configs/preset/tiny.yaml", "configs/stage/streaming.yaml"])
    set_up_torch(config)
    torch.manual_seed(0)
    model = SpeechLM(config.model).eval()
    return ForkSession(model, Tokenizer.train(["answer the question"]), config.duplex)


def process_s(group: list[Session], slices: Iterator[Tensor]) -> float:
    """Processor time of one slice of each session, in seconds."""
    inputs = [next(slices) for _ in group]
    start_s = time.process_time()
    # `push` is how a server without batching would process a slice.
    if len(group) == 1:
        group[0].push(inputs[0])
    else:
        push_batched(group, inputs)
    return time.process_time() - start_s


def latencies_ms(session: Session, count: int, num_slices: int, batched: bool) -> np.ndarray:
    """Simulate conversations.

    Args:
        session: a new session over the model.
        count: number of conversations.
        num_slices: counted slices of each conversation.
        batched: whether slices that have arrived are processed as one batch.

    Returns:
        (count * num_slices,) times from the arrival of a slice to its event.
    """
    group = [busy(session) for _ in range(count)]
    slices = noise(session)
    total = num_slices + NUM_WARM_UP_SLICES
    # Evenly spaced phases, which is already a valid heap.
    queue = [Arrival(i / count * session.slice_s, i, total) for i in range(count)]
    now_s = 0.0
    latencies: list[float] = []
    while queue:
        # Idle time is skipped, not waited for.
        now_s = max(now_s, queue[0].time_s)
        ready = [heapq.heappop(queue)]
        while batched and queue and queue[0].time_s <= now_s:
            ready.append(heapq.heappop(queue))
        now_s += process_s([group[arrival.conversation] for arrival in ready], slices)
        for arrival in ready:
            if arrival.remaining <= num_slices:
                latencies.append(1000 * (now_s - arrival.time_s))
            if arrival.remaining > 1:
                next_s = arrival.time_s + session.slice_s
                following = Arrival(next_s, arrival.conversation, arrival.remaining - 1)
                heapq.heappush(queue, following)
    return np.array(latencies)


def max_conversations(
    session: Session, num_slices: int, batched: bool, limit: int
) -> tuple[int, np.ndarray]:
    """Search the most conversations of which 99 % of the slices take at most a slice's duration.

    Returns:
        The number, exact to a sixteenth, and the latencies at it.
    """
    fits = 0  # the largest count that is fast enough so far
    too_many = limit + 1
    best_latencies = np.array([np.nan])
    count = 1
    while fits + fits // 16 < count < too_many:
        latencies = latencies_ms(session, count, num_slices, batched)
        if np.percentile(latencies, 99) <= 1000 * session.slice_s:
            fits = count
            best_latencies = latencies
        else:
            too_many = count
        # Double until it is too much, then bisect; 0 ends the search where nothing fits.
        count = min(2 * fits, (fits + too_many) // 2) if fits else 0
    return fits, best_latencies


def state_bytes(session: Session) -> int:
    """Bytes of the state of one conversation that listens and responds."""
    busy_session = busy(session)
    slices = noise(session)
    for _ in range(NUM_STATE_SLICES):
        busy_session.push(next(slices))
    return busy_session.snapshot().num_bytes()


def bench(
    session: Session, name: str, num_slices: int, limit: int, threads: int
) -> dict[str, float]:
    """Run the benchmark and print its table; returns the numbers by name."""
    numbers: dict[str, float] = {"sessions/state_bytes": state_bytes(session)}
    rows = []
    counts = {}
    for mode in ("batched", "single"):
        batched = mode == "batched"
        counts[mode], latencies = max_conversations(session, num_slices, batched, limit)
        p50_ms = np.percentile(latencies, 50)
        p99_ms = np.percentile(latencies, 99)
        rows.append([mode, str(counts[mode]), f"{p50_ms:.0f}", f"{p99_ms:.0f}"])
        numbers[f"sessions/{mode}_p50_ms"] = p50_ms
        numbers[f"sessions/{mode}_p99_ms"] = p99_ms
    numbers["sessions/realtime_per_core"] = counts["batched"] / threads
    numbers["sessions/p99_ms"] = numbers["sessions/batched_p99_ms"]
    numbers["sessions/batched_over_single"] = counts["batched"] / max(1, counts["single"])
    print(f"{machine()}, {threads} threads")
    show(f"{name}: conversations in real time", ["", "at once", "p50, ms", "p99, ms"], rows)
    print(f"state of a conversation: {numbers['sessions/state_bytes'] / 1e3:.0f} kB")
    return numbers


@torch.inference_mode()
def main() -> None:
    """Parse the command line, run the benchmark, and save the numbers."""
    parser = arguments(__doc__)
    parser.set_defaults(threads=1)
    parser.add_argument(
        "--seconds", type=float, default=4, help="duration of each conversation (default 4)"
    )
    parser.add_argument(
        "--most", type=int, default=256, help="upper limit of conversations (default 256)"
    )
    parser.add_argument(
        "--run", type=Path, help="folder of a finished run (default: the tiny preset)"
    )
    args = parser.parse_args()
    if args.run is None:
        name = "tiny"
        session = tiny_session()
    else:
        name = args.run.resolve().name
        checkpoint = StageCheckpoint.load(args.run / FILE)
        session = open_sessions(checkpoint, checkpoint.config, args.run)()
    torch.set_num_threads(args.threads)
    num_slices = round(args.seconds / session.slice_s)
    numbers = bench(session, name, num_slices, args.most, args.threads)
    save(numbers, args.json)


if __name__ == "__main__":
    main()
