"""Token after token: one step of the language model, on a GPU replayed as a CUDA graph, and greedy decoding.

One row's token on a GPU is hundreds of small kernels, which take longer to launch one by one than to run; a graph
launches all of them at once. A state that grows, a Transformer's, has no graph: its shapes are others at each step.
Glossary: B rows, V vocabulary.
"""

import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from duplexmamba.models.lm import LM, LMState, MambaLM
from duplexmamba.streaming.padded import Padded, take
from duplexmamba.streaming.state import clone, join, map_state, rows

Step = Callable[[Tensor], Tensor]
"""(B,) int64 tokens -> (B, V) logits behind them, good until the next call."""

NUM_GRAPHS = 4
"""Graphs kept per language model, the newest; each holds a state of its batch size."""
_graphs: weakref.WeakKeyDictionary[MambaLM, tuple[tuple[int, ...], dict[object, "_Graph"]]]
_graphs = weakref.WeakKeyDictionary()


@torch.no_grad()
def greedy(lm: LM, logits: Tensor, state: LMState, end: int, max_tokens: int) -> list[list[int]]:
    """Continue each row with its likeliest token until `end` (not included) or `max_tokens`.

    Args:
        logits: (B, V) of the step before the first token.
        state: the rows' states after that step.
    """
    step = (
        graph_steps(lm, state)
        if logits.is_cuda and isinstance(lm, MambaLM)
        else eager_steps(lm, state)
    )
    found, done = [], torch.zeros(logits.shape[0], dtype=torch.bool, device=logits.device)
    for _ in range(max_tokens):
        token = logits.argmax(-1).masked_fill(done, end)
        done = done | (token == end)
        found.append(token)
        if bool(done.all()):
            break
        logits = step(token)
    columns = torch.stack(found, 1).tolist()
    return [row[: row.index(end)] if end in row else row for row in columns]


@torch.no_grad()
def log_likelihood(lm: LM, logits: Tensor, state: LMState, ids: Padded) -> Tensor:
    """(N,) of going on with each row of ids (N, L); logits (N, V) and state as in `greedy`."""
    hidden, _ = lm(ids.with_values(lm.embed(ids.values)), state)
    ahead = (
        torch.cat([logits[:, None], lm.logits(hidden.values[:, :-1])], 1).float().log_softmax(-1)
    )
    return (ahead.gather(-1, ids.values[..., None])[..., 0] * ids.mask()).sum(1)


def decode_step(lm: LM, token: Tensor, state: LMState) -> tuple[Tensor, LMState]:
    """(B,) int64 -> (B, V) logits, and the state behind the token."""
    hidden, state = lm(Padded(lm.embed(token[:, None])), state)
    return lm.logits(hidden.values[:, -1]), state


@torch.no_grad()
def advance(
    lm: LM, branches: Sequence[tuple[Tensor, LMState | None]]
) -> list[tuple[Tensor, LMState]]:
    """Branches of a conversation, each by its own steps, as rows of one batch.

    Args:
        branches: (L, D) embeddings, L at least 1, and the state before them; None only where all are.

    Returns:
        Of each branch the logits (V,) and the state (one row) behind its last step.
    """
    steps, before = zip(*branches, strict=True)
    lengths = torch.tensor([len(s) for s in steps], device=steps[0].device)
    even = len({len(s) for s in steps}) == 1
    x = Padded(
        torch.nn.utils.rnn.pad_sequence(list(steps), batch_first=True), None if even else lengths
    )
    hidden, after = lm(x, None if before[0] is None else join(before))
    logits = lm.logits(take(hidden.values, lengths - 1, 1)[:, 0])
    return list(zip(logits, rows(after), strict=True))


def eager_steps(lm: LM, state: LMState) -> Step:
    """Steps from this state on."""

    def step(token: Tensor) -> Tensor:
        nonlocal state
        logits, state = decode_step(lm, token, state)
        return logits

    return step


def graph_steps(lm: MambaLM, state: LMState) -> Step:
    """Steps from this state on, on a GPU, by the graph of this model, batch size and precision; the state is copied.

    Steps of the same graph take turns: what an earlier call returned must not be used any more.
    """
    weights = tuple(p.data_ptr() for p in lm.parameters())
    if (
        _graphs.get(lm, ((),))[0] != weights
    ):  # a graph reads them where they were when it was captured
        _graphs[lm] = weights, {}
    graphs = _graphs[lm][1]
    kind = _leaves(state)[0].device.type
    precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    key = precision, tuple((t.shape, t.dtype) for t in _leaves(state))
    if key not in graphs:
        while len(graphs) >= NUM_GRAPHS:
            del graphs[next(iter(graphs))]
        graphs[key] = _Graph(lm, state)
    _copy(state, graphs[key].state)
    return graphs[key].step


class _Graph:
    """`decode_step` over tensors that stay where they are: the token and the state it takes, the logits it gives."""

    # Not of an outer inference mode, or nothing could be copied into the tensors outside of it. Without autocast's
    # cache, or the graph would read weights that autocast cast before and frees after.
    @torch.inference_mode(False)
    @torch.no_grad()
    def __init__(self, lm: MambaLM, state: LMState):
        self.state = clone(state)
        some = _leaves(state)[0]
        self.token, kind = (
            torch.zeros(some.shape[0], dtype=torch.int64, device=some.device),
            some.device.type,
        )
        with torch.autocast(kind, enabled=torch.is_autocast_enabled(kind), cache_enabled=False):
            self.replay, self.logits = _capture(lambda: self._run(lm), some.device)

    def _run(self, lm: MambaLM) -> Tensor:
        logits, state = decode_step(lm, self.token, self.state)
        _copy(state, self.state)
        return logits

    def step(self, token: Tensor) -> Tensor:
        self.token.copy_(token)
        self.replay()
        return self.logits


def _capture(run: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], None], Tensor]:
    """What runs it again as a graph, and its result, which that overwrites."""
    with torch.cuda.device(device):
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            run()  # kernels are built and libraries begin, which no graph can record
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(
            graph, capture_error_mode="thread_local"
        ):  # data loaders pin memory meanwhile
            result = run()
    return graph.replay, result


def _copy(state: LMState, into: LMState) -> None:
    """Tensor by tensor, those of one type in one kernel."""
    pairs = list(zip(_leaves(into), _leaves(state), strict=True))
    for dtype in {new.dtype for _, new in pairs}:
        old, new = zip(*[pair for pair in pairs if pair[1].dtype == dtype], strict=True)
        torch._foreach_copy_(old, new)


def _leaves(state: LMState) -> list[Tensor]:
    found: list[Tensor] = []

    def note(leaf: Tensor) -> Tensor:
        found.append(leaf)
        return leaf

    map_state(note, state)
    return found
