"""A slice of a live session that is minutes old: Mamba-1, Mamba-2 and a Transformer of equal size.

    python benchmarks/long_session.py [--json FILE] [--preset tiny] [--minutes 1 5 15 60] [--plot docs/long_session.png]

Random weights, float32, the processor's time on one thread. A conversation leaves what it has heard in the language
model's memory, an embedding for each 200 ms, and answers, `duplex.tokens_per_s` of them half of the time. The session
answers while it listens: a slice is heard, read by the listening branch together with a token of the answer, and
judged. A fork is a copy of the language model's memory. A session holds three: where the conversation rests, what
listens, what answers. As many sessions fit as 24 GiB hold beside the weights.
"""

import dataclasses
import functools
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from evaluation.duplex.embed_speech import all_bytes
from measure import arguments, interleave, machine, median, save, show

from configs.loading import load_config
from duplexmamba.duplex.fork import ForkSession, ForkState, ListeningBranch, Response
from duplexmamba.models.language_models import LANGUAGE_MODELS
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.models.timing import FrameTiming
from duplexmamba.streaming import state as states
from duplexmamba.streaming.padded import Padded
from duplexmamba.text.tokenizer import Tokenizer
from lightning_modules.trainer.hardware import keep_freed_memory

ROOM = 24 * 2**30  # bytes
CHUNK = 1024  # tokens at a time when a memory is filled
TITLES = {"mamba": "Mamba-1", "mamba2": "Mamba-2", "transformer": "Transformer"}
COLUMNS = {
    "slice_ms": "ms per slice", "fork_ms": "fork, ms", "state_bytes": "state, MB", "session_bytes": "session, MB",
    "sessions_in_24_gib": "sessions in 24 GiB",
}  # fmt: skip


class Conversation:
    """A session of one kind of language model, and the memory it would have after any time."""

    def __init__(self, kind: str, preset: str):
        words = [
            f"lm.kind={kind}",
            "lm.pretrained=null",
            "duplex.min_slices=1000000000",
        ]  # it goes on listening
        config = load_config(
            [f"configs/preset/{preset}.yaml", "configs/stage/streaming.yaml", *words]
        )
        tokens = Tokenizer.train([" what is seven plus five", " twelve"] * 9)
        tokens.end = -1  # it goes on answering
        torch.manual_seed(0)
        self.session = ForkSession(SpeechLM(config.model).eval(), tokens, config.duplex)
        self.lm, self.vocab_size = self.session.model.lm, config.lm.vocab_size
        self.per_minute = round(
            60 * (1000 / FrameTiming.of(config.model).token_ms + config.duplex.tokens_per_s / 2)
        )
        self.slice = 0.1 * torch.randn(self.session.slice_samples)
        self.session.push(self.slice)
        self.memory, self.age = None, 0
        self.weights = sum(p.nbytes for p in self.session.model.parameters())

    def go_on(self, minutes: int) -> None:
        """Fill the memory until it is so old."""
        while self.age < minutes * self.per_minute:
            ids = torch.randint(
                self.vocab_size, (1, min(CHUNK, minutes * self.per_minute - self.age))
            )
            _, self.memory = self.lm(Padded(self.lm.embed(ids)), self.memory)
            self.age += ids.shape[1]

    def moment(self) -> ForkState:
        """The session now, in the midst of an answer, one token of which is due."""
        assert self.memory is not None
        now, reply = self.session.snapshot(), Response(self.memory, next_token=7, start_slice=0)
        return dataclasses.replace(
            now,
            slices=0,
            idle_state=self.memory,
            listening=ListeningBranch(self.memory),
            reply=reply,
        )

    def hear(self, moment: ForkState) -> None:
        """One slice."""
        self.session.restore(moment)
        self.session.push(self.slice)


@torch.inference_mode()
def bench(
    conversations: dict[str, Conversation], minutes: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Of each kind what a slice at this age costs."""
    slices, forks = {}, {}
    for kind, conversation in conversations.items():
        conversation.go_on(minutes)
        slices[kind] = functools.partial(conversation.hear, conversation.moment())
        forks[kind] = functools.partial(states.clone, conversation.memory)
    slice_times = interleave(slices, rounds, f"slices, minute {minutes}", clock=time.process_time)
    fork_times = interleave(forks, rounds, f"forks, minute {minutes}", clock=time.process_time)
    found = {}
    for kind, conversation in conversations.items():
        held = all_bytes(conversation.session.snapshot())
        found[kind] = {
            "slice_ms": median(slice_times, kind), "fork_ms": median(fork_times, kind),
            "state_bytes": states.num_bytes(conversation.memory), "session_bytes": held,
            "sessions_in_24_gib": (ROOM - conversation.weights) // held,
        }  # fmt: skip
    return found


def cell(name: str, value: float) -> str:
    """As the table has it."""
    if name.endswith("_ms"):
        return f"{value:.2f}"
    return f"{value / 1e6:,.2f}" if name.endswith("_bytes") else f"{value:,.0f}"


def draw(found: dict[int, dict[str, dict[str, float]]], file: Path) -> None:
    """Time, memory and room against minutes."""
    figure, panels = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
    for axis, name in zip(panels, ("slice_ms", "state_bytes", "sessions_in_24_gib"), strict=True):
        for kind, title in TITLES.items():
            scale = 1e-6 if name == "state_bytes" else 1
            axis.plot(
                list(found),
                [scale * at[kind][name] for at in found.values()],
                marker="o",
                label=title,
            )
        axis.set(
            title=COLUMNS[name], xlabel="minutes of conversation", xscale="log", xticks=list(found)
        )
        axis.set_xticks(list(found), [str(minutes) for minutes in found])
        axis.minorticks_off()
        if name == "slice_ms":
            axis.set_ylim(bottom=0)
        else:
            axis.set_yscale("log")
    panels[0].legend(frameon=False)
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(threads=1, rounds=5)
    parser.add_argument("--preset", choices=["tiny", "small"], default="tiny")
    parser.add_argument("--minutes", type=int, nargs="+", default=[1, 5, 15, 60])
    parser.add_argument("--plot", type=Path, help="PNG of the curves")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    keep_freed_memory()  # as live sessions do
    print(f"{machine()}, {asked.threads} threads")
    conversations = {kind: Conversation(kind, asked.preset) for kind in LANGUAGE_MODELS}
    found = {
        minutes: bench(conversations, minutes, asked.rounds) for minutes in sorted(asked.minutes)
    }
    for kind, title in TITLES.items():
        lm = sum(p.numel() for p in conversations[kind].lm.parameters()) / 1e6
        rows = [
            [str(m), *(cell(name, at[kind][name]) for name in COLUMNS)] for m, at in found.items()
        ]
        show(
            f"{title}, {lm:.2f} M parameters, preset {asked.preset}",
            ["minutes", *COLUMNS.values()],
            rows,
        )
    if asked.plot:
        draw(found, asked.plot)
    save({f"{kind}/minutes_{m}/{name}": value for m, at in found.items() for kind, numbers in at.items()
          for name, value in numbers.items()}, asked.json)  # fmt: skip


if __name__ == "__main__":
    main()
