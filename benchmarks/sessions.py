"""Conversations at once, in real time on one core, over one model: in common batches against one by one.

    python benchmarks/sessions.py [--json FILE] [--run runs/latest] [--seconds 4] [--most 256]

The tiny preset with random weights, or a run's. Every conversation listens and answers all the time. Its slices come
when speech would bring them, each at a phase of its own; whatever is ready is heard in one batch, as in `make serve`,
or one after the other. The clock is a simulated one: it stands still but for the processor's time that hearing takes,
so that other programs do not count, and jumps to the next slice where none is ready.
"""

import heapq
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from measure import arguments, machine, save, show
from torch import Tensor

from configs.loading import load_config
from duplexmamba.duplex.fork import ForkSession
from duplexmamba.duplex.session import Session, push_batched
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.streaming.state import num_bytes
from duplexmamba.text.tokenizer import Tokenizer
from lightning_modules.sessions import open_sessions
from lightning_modules.trainer.checkpoint import FILE, StageCheckpoint
from lightning_modules.trainer.hardware import set_up_torch
from serving.capacity import busy, noise

WARM_UP = 3
"""Slices of each conversation that do not count."""


def tiny() -> Session:
    """A session of the tiny preset, of random weights."""
    config = load_config(["configs/preset/tiny.yaml", "configs/stage/streaming.yaml"])
    set_up_torch(config)
    torch.manual_seed(0)
    return ForkSession(
        SpeechLM(config.model).eval(), Tokenizer.train(["answer the question"]), config.duplex
    )


def hearing_s(group: list[Session], heard: Iterator[Tensor]) -> float:
    """The processor's seconds for a slice of each."""
    slices = [next(heard) for _ in group]
    began_s = time.process_time()
    if len(group) == 1:
        group[0].push(slices[0])
    else:
        push_batched(group, slices)
    return time.process_time() - began_s


def latencies_ms(session: Session, count: int, slices: int, together: bool) -> np.ndarray:
    """From the arrival of each slice of `count` conversations to its event."""
    group, heard = [busy(session) for _ in range(count)], noise(session)
    coming = [(i / count * session.slice_s, i, slices + WARM_UP) for i in range(count)]
    now_s, found = 0.0, []
    while coming:
        now_s = max(now_s, coming[0][0])
        ready = [heapq.heappop(coming)]
        while together and coming and coming[0][0] <= now_s:
            ready.append(heapq.heappop(coming))
        now_s += hearing_s([group[i] for _, i, _ in ready], heard)
        found += [1000 * (now_s - arrived_s) for arrived_s, _, left in ready if left <= slices]
        for arrived_s, i, left in ready:
            if left > 1:
                heapq.heappush(coming, (arrived_s + session.slice_s, i, left - 1))
    return np.array(found)


def most(session: Session, slices: int, together: bool, limit: int) -> tuple[int, np.ndarray]:
    """The most conversations, to a sixteenth, of which 99 % of the slices are heard within a slice's time, and their
    latencies."""
    fits, best, too_many, count = 0, np.array([np.nan]), limit + 1, 1
    while fits + fits // 16 < count < too_many:
        found = latencies_ms(session, count, slices, together)
        if np.percentile(found, 99) <= 1000 * session.slice_s:
            fits, best = count, found
        else:
            too_many = count
        count = min(2 * fits, (fits + too_many) // 2) if fits else 0
    return fits, best


def state_bytes(session: Session) -> int:
    """Of one conversation that listens and answers; what two branches share is counted once."""
    one, heard = busy(session), noise(session)
    for _ in range(12):
        one.push(next(heard))
    moment = one.snapshot()
    kept = {id(memory): memory for memory in moment.lm_states}
    return num_bytes((moment.pending_samples, moment.speech_state, *kept.values()))


@torch.inference_mode()
def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(threads=1)
    parser.add_argument("--seconds", type=float, default=4, help="of each conversation (default 4)")
    parser.add_argument(
        "--most", type=int, default=256, help="conversations that are tried (default 256)"
    )
    parser.add_argument(
        "--run", type=Path, help="folder of a finished run; the tiny preset, if not given"
    )
    asked = parser.parse_args()
    if asked.run is None:
        session, name = tiny(), "tiny"
    else:
        given = StageCheckpoint.load(asked.run / FILE)
        session, name = open_sessions(given, given.config, asked.run)(), asked.run.resolve().name
    torch.set_num_threads(asked.threads)
    slices = round(asked.seconds / session.slice_s)
    numbers: dict[str, float] = {"sessions/state_bytes": state_bytes(session)}
    rows, found = [], {}
    for way, together in (("batched", True), ("single", False)):
        found[way], times = most(session, slices, together, asked.most)
        middle, late = np.percentile(times, 50), np.percentile(times, 99)
        rows.append([way, str(found[way]), f"{middle:.0f}", f"{late:.0f}"])
        numbers |= {f"sessions/{way}_p50_ms": middle, f"sessions/{way}_p99_ms": late}
    numbers |= {
        "sessions/realtime_per_core": found["batched"] / asked.threads,
        "sessions/p99_ms": numbers["sessions/batched_p99_ms"],
        "sessions/batched_over_single": found["batched"] / max(1, found["single"]),
    }
    print(f"{machine()}, {asked.threads} threads")
    show(f"{name}: conversations in real time", ["", "at once", "p50, ms", "p99, ms"], rows)
    print(f"state of a conversation: {numbers['sessions/state_bytes'] / 1e3:.0f} kB")
    save(numbers, asked.json)


if __name__ == "__main__":
    main()
