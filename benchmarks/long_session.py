"""Cost of a slice in a live session that is minutes old: Mamba-1, Mamba-2, a Transformer, a hybrid.

    python benchmarks/long_session.py [--json FILE] [--preset tiny] [--minutes 1 5 15 60]
                                      [--plot docs/long_session.png]

All models have equally many parameters, random weights and float32; times are processor time on
one thread. A conversation adds an embedding per 200 ms of speech to the state of the language
model, and tokens of responses at `duplex.tokens_per_s` half of the time. The session responds while
it listens: a slice is encoded, the listening branch processes it in one batch with a token of the
response, and its turn state is read. A fork is a copy of the language model's state. A session
holds three states: idle, listening branch, responding branch. The number of sessions is how many
fit into 24 GiB with the weights.
"""

import dataclasses
import functools
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from measure import arguments, interleave, machine, median, save, show

from configs.loading import load_config
from duplexmamba.duplex.fork import ForkSession, ForkState, ListeningBranch, Response
from duplexmamba.models.language_models import LANGUAGE_MODELS, LMState
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.models.timing import FrameTiming
from duplexmamba.streaming import state as states
from duplexmamba.streaming.padded import Padded
from duplexmamba.text.tokenizer import Tokenizer
from lightning_modules.trainer.hardware import keep_freed_memory

CAPACITY_BYTES = 24 * 2**30
CHUNK_TOKENS = 1024
"""Tokens that are processed at once when a state is aged."""
TITLES = {"mamba": "Mamba-1", "mamba2": "Mamba-2", "transformer": "Transformer", "hybrid": "Hybrid"}
COLUMNS = {
    "slice_ms": "ms per slice",
    "fork_ms": "fork, ms",
    "state_bytes": "state, MB",
    "session_bytes": "session, MB",
    "sessions_in_24_gib": "sessions in 24 GiB",
}
PLOTTED = ("slice_ms", "state_bytes", "sessions_in_24_gib")
Numbers = dict[str, float]
"""By column."""


class Conversation:
    """A session with one kind of language model, and the state that it would have at any age.

    Args:
        kind: `lm.kind`.
        preset: name of a preset in configs/preset.
    """

    def __init__(self, kind: str, preset: str):
        overrides = [f"lm.kind={kind}", "lm.pretrained=null"]
        overrides.append("duplex.min_slices=1000000000")  # the branch never starts a response
        files = [f"configs/preset/{preset}.yaml", "configs/stage/streaming.yaml"]
        config = load_config([*files, *overrides])
        tokenizer = Tokenizer.train([" what is seven plus five", " twelve"] * 9)
        tokenizer.eos_id = -1  # the response never ends
        torch.manual_seed(0)
        model = SpeechLM(config.model).eval()
        self.session = ForkSession(model, tokenizer, config.duplex)
        self.lm = model.lm
        self.vocab_size = config.lm.vocab_size
        embeddings_per_s = 1000 / FrameTiming.of(config.model).token_ms
        self.steps_per_minute = round(60 * (embeddings_per_s + config.duplex.tokens_per_s / 2))
        self.slice = 0.1 * torch.randn(self.session.slice_samples)
        # The first slice creates the states of the encoder and the connector.
        self.session.push(self.slice)
        self.lm_state: LMState | None = None
        self.num_steps = 0
        self.weight_bytes = sum(p.nbytes for p in model.parameters())

    def grow_to(self, minutes: int) -> None:
        """Process random tokens until the state is that of a conversation of this duration."""
        target = minutes * self.steps_per_minute
        while self.num_steps < target:
            num_tokens = min(CHUNK_TOKENS, target - self.num_steps)
            ids = torch.randint(self.vocab_size, (1, num_tokens))
            _, self.lm_state = self.lm(Padded(self.lm.embed(ids)), self.lm_state)
            self.num_steps += num_tokens

    def session_state(self) -> ForkState:
        """State of the session during a response, with one token due in the next slice."""
        assert self.lm_state is not None
        return dataclasses.replace(
            self.session.snapshot(),
            num_slices=0,
            idle_state=self.lm_state,
            listening=ListeningBranch(self.lm_state),
            response=Response(self.lm_state, next_token=7, start_slice=0),
        )

    def process_slice(self, state: ForkState) -> None:
        """Process one slice from a state."""
        self.session.restore(state)
        self.session.push(self.slice)


@torch.inference_mode()
def bench(conversations: dict[str, Conversation], minutes: int, rounds: int) -> dict[str, Numbers]:
    """Measure a slice of every kind of language model at one age.

    Returns:
        The numbers by kind.
    """
    slices = {}
    forks = {}
    for kind, conversation in conversations.items():
        conversation.grow_to(minutes)
        slices[kind] = functools.partial(conversation.process_slice, conversation.session_state())
        forks[kind] = functools.partial(states.clone, conversation.lm_state)
    # Interleaved, so that a change in the machine's speed affects all kinds equally.
    slice_times = interleave(slices, rounds, f"slices, minute {minutes}", clock=time.process_time)
    fork_times = interleave(forks, rounds, f"forks, minute {minutes}", clock=time.process_time)
    numbers = {}
    for kind, conversation in conversations.items():
        # The three branches have diverged after a slice, so each state counts.
        session_bytes = conversation.session.snapshot().num_bytes()
        free_bytes = CAPACITY_BYTES - conversation.weight_bytes
        numbers[kind] = {
            "slice_ms": median(slice_times, kind),
            "fork_ms": median(fork_times, kind),
            "state_bytes": states.num_bytes(conversation.lm_state),
            "session_bytes": session_bytes,
            "sessions_in_24_gib": free_bytes // session_bytes,
        }
    return numbers


def cell(name: str, value: float) -> str:
    """A number as the table shows it, bytes in MB."""
    if name.endswith("_ms"):
        return f"{value:.2f}"
    if name.endswith("_bytes"):
        return f"{value / 1e6:,.2f}"
    return f"{value:,.0f}"


def draw(numbers: dict[int, dict[str, Numbers]], file: Path) -> None:
    """Plot time, state and number of sessions against the age of the conversation in minutes."""
    figure, panels = plt.subplots(1, len(PLOTTED), figsize=(10, 3.2), layout="constrained")
    ages = list(numbers)
    for axis, name in zip(panels, PLOTTED, strict=True):
        scale = 1e-6 if name.endswith("_bytes") else 1
        for kind, title in TITLES.items():
            values = [scale * by_kind[kind][name] for by_kind in numbers.values()]
            axis.plot(ages, values, marker="o", label=title)
        axis.set(title=COLUMNS[name], xlabel="minutes of conversation", xscale="log", xticks=ages)
        axis.set_xticks(ages, [str(minutes) for minutes in ages])
        axis.minorticks_off()
        if name == "slice_ms":
            axis.set_ylim(bottom=0)
        else:
            axis.set_yscale("log")
    panels[0].legend(frameon=False)
    figure.savefig(file, dpi=120)


def show_tables(
    conversations: dict[str, Conversation], numbers: dict[int, dict[str, Numbers]], preset: str
) -> None:
    """Print a table for each kind of language model."""
    for kind, title in TITLES.items():
        num_parameters = sum(p.numel() for p in conversations[kind].lm.parameters())
        rows = []
        for minutes, by_kind in numbers.items():
            cells = [cell(name, by_kind[kind][name]) for name in COLUMNS]
            rows.append([str(minutes), *cells])
        heading = f"{title}, {num_parameters / 1e6:.2f} M parameters, preset {preset}"
        show(heading, ["minutes", *COLUMNS.values()], rows)


def main() -> None:
    """Parse the command line, run the benchmark, and save the numbers and the plot."""
    parser = arguments(__doc__)
    parser.set_defaults(threads=1, rounds=5)
    parser.add_argument("--preset", choices=["tiny", "small"], default="tiny")
    parser.add_argument("--minutes", type=int, nargs="+", default=[1, 5, 15, 60])
    parser.add_argument("--plot", type=Path, help="PNG file for the curves")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # as live sessions do
    print(f"{machine()}, {args.threads} threads")
    conversations = {}
    for kind, record in LANGUAGE_MODELS.items():
        if record.has_own_sizes:
            conversations[kind] = Conversation(kind, args.preset)
    numbers = {}
    for minutes in sorted(args.minutes):
        numbers[minutes] = bench(conversations, minutes, args.rounds)
    show_tables(conversations, numbers, args.preset)
    if args.plot:
        draw(numbers, args.plot)
    flat = {}
    for minutes, by_kind in numbers.items():
        for kind, by_name in by_kind.items():
            for name, value in by_name.items():
                flat[f"{kind}/minutes_{minutes}/{name}"] = value
    save(flat, args.json)


if __name__ == "__main__":
    main()
