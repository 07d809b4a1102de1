"""Decoding token by token: one step of the language model, and greedy decoding on top of it.

On a GPU the step is replayed as a CUDA graph. One token of one row takes hundreds of small kernels,
and launching them one by one takes longer than running them; a graph launches all of them at once.
A Transformer has no graph, since its state grows and a graph needs the same shapes at every step.

Glossary:
    B: rows.
    N: rows of candidates in `log_likelihood`.
    L: tokens or embeddings of a sequence.
    D: width of the language model.
    V: vocabulary size.
"""

import dataclasses
import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from duplexmamba.models.language_models import LM, LMState
from duplexmamba.models.language_models.mamba_lm import MambaLM
from duplexmamba.streaming.padded import Padded, take
from duplexmamba.streaming.state import clone, join, map_state, rows

Step = Callable[[Tensor], Tensor]
"""(B,) int64 tokens -> (B, V) logits after them, valid until the next call."""

NUM_GRAPHS = 4
"""CUDA graphs kept per language model, the newest ones; each holds a state of its batch size."""


@torch.no_grad()
def greedy(lm: LM, logits: Tensor, state: LMState, end: int, max_tokens: int) -> list[list[int]]:
    """Continue each row with its most likely token.

    Args:
        lm: the language model.
        logits: (B, V), of the step before the first new token.
        state: B rows, after that step.
        end: id of the token that ends a row; it is not part of the result.
        max_tokens: at most this many tokens per row.

    Returns:
        New token ids of each row.
    """
    if logits.is_cuda and isinstance(lm, MambaLM) and not is_sharded(lm):
        step = graph_steps(lm, state)
    else:
        step = eager_steps(lm, state)
    ended = torch.zeros(logits.shape[0], dtype=torch.bool, device=logits.device)
    steps = []
    for _ in range(max_tokens):
        # Rows that have ended go on with `end` until the last row ends.
        token = logits.argmax(-1).masked_fill(ended, end)  # (B,)
        ended = ended | (token == end)
        steps.append(token)
        if bool(ended.all()):
            break
        logits = step(token)
    tokens = torch.stack(steps, 1).tolist()  # (B, tokens)
    return [_before(row, end) for row in tokens]


def is_sharded(lm: LM) -> bool:
    """Whether FSDP gathers the weights of the language model or of one of its layers.

    It does so on streams that wait for the current one, which no CUDA graph can capture.
    """
    # imported here, because most programs start without it
    from torch.distributed.fsdp import FSDPModule

    return any(isinstance(module, FSDPModule) for module in lm.modules())


def _before(row: list[int], end: int) -> list[int]:
    """Return the tokens before the first `end`, or all of them."""
    if end not in row:
        return row
    return row[: row.index(end)]


@torch.no_grad()
def log_likelihood(lm: LM, logits: Tensor, state: LMState, ids: Padded) -> Tensor:
    """Compute the log likelihood of continuing with given tokens, in nats.

    Args:
        lm: the language model.
        logits: (N, V), of the step before the first token.
        state: N rows, after that step.
        ids: (N, L) int64, the continuation of each row.

    Returns:
        (N,)
    """
    hidden, _ = lm(ids.with_values(lm.embed(ids.values)), state)
    # Token t is predicted by the logits after token t - 1, the first one by `logits`.
    later_logits = lm.logits(hidden.values[:, :-1])
    predictions = torch.cat([logits[:, None], later_logits], 1)  # (N, L, V)
    log_probs = predictions.float().log_softmax(-1)
    of_tokens = log_probs.gather(-1, ids.values[..., None])[..., 0]  # (N, L)
    return (of_tokens * ids.mask()).sum(1)


def decode_step(lm: LM, token: Tensor, state: LMState) -> tuple[Tensor, LMState]:
    """Run one token per row, (B,) int64; return the logits (B, V) and the state after it."""
    embeddings = lm.embed(token[:, None])  # (B, 1, D)
    hidden, state = lm(Padded(embeddings), state)
    return lm.logits(hidden.values[:, -1]), state


@torch.no_grad()
def advance(
    lm: LM, branches: Sequence[tuple[Tensor, LMState | None]]
) -> list[tuple[Tensor, LMState]]:
    """Advance several branches of a conversation as rows of one batch, each by its own steps.

    Args:
        lm: the language model.
        branches: embeddings (L, D) with L >= 1, and the state (one row) before them. The state may
            be None at the start of a conversation, but only for all branches together.

    Returns:
        For each branch the logits (V,) and the state (one row) after its last step.
    """
    embeddings, states = zip(*branches, strict=True)
    num_steps = [len(steps) for steps in embeddings]
    lengths = torch.tensor(num_steps, device=embeddings[0].device)
    padded = torch.nn.utils.rnn.pad_sequence(list(embeddings), batch_first=True)  # (B, L, D)
    # Without lengths the model skips the masks, which rows of equal length do not need.
    equal_lengths = len(set(num_steps)) == 1
    batch = Padded(padded, None if equal_lengths else lengths)
    state = None if states[0] is None else join(states)
    hidden, state = lm(batch, state)
    last_hidden = take(hidden.values, lengths - 1, 1)[:, 0]  # (B, D)
    logits = lm.logits(last_hidden)
    return list(zip(logits, rows(state), strict=True))


def eager_steps(lm: LM, state: LMState) -> Step:
    """Return a function that steps on from a state, one token per row and call."""

    def step(token: Tensor) -> Tensor:
        nonlocal state
        logits, state = decode_step(lm, token, state)
        return logits

    return step


def graph_steps(lm: MambaLM, state: LMState) -> Step:
    """Return a function that steps on from a copy of a state by a CUDA graph.

    There is one graph per model, batch size and precision. All functions with the same graph share
    its state: a new call of `graph_steps` invalidates the function that an earlier one returned.

    Args:
        lm: the language model, on a GPU.
        state: B rows.
    """
    graphs = _graphs_of(lm)
    key = _graph_key(state)
    if key not in graphs:
        while len(graphs) >= NUM_GRAPHS:
            oldest = next(iter(graphs))
            del graphs[oldest]
        graphs[key] = _Graph(lm, state)
    graph = graphs[key]
    _copy(state, graph.state)
    return graph.step


class _Graph:
    """`decode_step` as a CUDA graph.

    A graph reads and writes fixed addresses, so its input (token), its state and its output
    (logits) are tensors that stay where they are.
    """

    # Never in the inference mode of a caller, or nothing could be copied into these tensors outside
    # of it. Without autocast's cache, since the graph would read casts of weights that autocast
    # made before the capture and frees after it.
    @torch.inference_mode(False)
    @torch.no_grad()
    def __init__(self, lm: MambaLM, state: LMState):
        self.state = clone(state)
        leaf = _leaves(state)[0]
        device = leaf.device
        self.token = torch.zeros(leaf.shape[0], dtype=torch.int64, device=device)  # (B,)
        enabled = torch.is_autocast_enabled(device.type)
        with torch.autocast(device.type, enabled=enabled, cache_enabled=False):
            self.replay, self.logits = _capture(lambda: self._run(lm), device)

    def _run(self, lm: MambaLM) -> Tensor:
        logits, state = decode_step(lm, self.token, self.state)
        _copy(state, self.state)
        return logits

    def step(self, token: Tensor) -> Tensor:
        """(B,) int64 tokens -> (B, V) logits, which the next call overwrites."""
        self.token.copy_(token)
        self.replay()
        return self.logits


@dataclasses.dataclass(frozen=True)
class _ModelGraphs:
    """The graphs of one language model."""

    weight_addresses: tuple[int, ...]
    """Where its parameters were when the graphs were captured."""
    graphs: dict[object, _Graph]
    """Key of a batch size and precision -> graph, oldest first."""


# Weak, so that graphs are freed together with their model.
_model_graphs: weakref.WeakKeyDictionary[MambaLM, _ModelGraphs] = weakref.WeakKeyDictionary()


def _graphs_of(lm: MambaLM) -> dict[object, _Graph]:
    """Return the graphs of a model; empty if its weights have moved since they were captured."""
    addresses = tuple(parameter.data_ptr() for parameter in lm.parameters())
    saved = _model_graphs.get(lm)
    if saved is None or saved.weight_addresses != addresses:
        saved = _ModelGraphs(addresses, {})
        _model_graphs[lm] = saved
    return saved.graphs


def _graph_key(state: LMState) -> object:
    """Return what decides whether a graph fits: shapes, dtypes and autocast's dtype."""
    leaves = _leaves(state)
    device_type = leaves[0].device.type
    precision = None
    if torch.is_autocast_enabled(device_type):
        precision = torch.get_autocast_dtype(device_type)
    return precision, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def _capture(run: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], None], Tensor]:
    """Capture a function as a CUDA graph.

    Returns:
        A function that replays the graph, and the result, which every replay overwrites.
    """
    with torch.cuda.device(device):
        _warm_up(run)
        graph = torch.cuda.CUDAGraph()
        # Data loaders may pin memory on other threads meanwhile, which "global" would forbid.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = run()
    return graph.replay, result


def _warm_up(run: Callable[[], Tensor]) -> None:
    """Run once on a side stream, to build kernels and set up libraries: no graph captures that."""
    side_stream = torch.cuda.Stream()
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):
        run()
    torch.cuda.current_stream().wait_stream(side_stream)


def _copy(state: LMState, into: LMState) -> None:
    """Copy a state into another one in place, all tensors of a dtype by one kernel."""
    sources: dict[torch.dtype, list[Tensor]] = {}
    targets: dict[torch.dtype, list[Tensor]] = {}
    for source, target in zip(_leaves(state), _leaves(into), strict=True):
        sources.setdefault(source.dtype, []).append(source)
        targets.setdefault(source.dtype, []).append(target)
    for dtype, same_dtype in sources.items():
        torch._foreach_copy_(targets[dtype], same_dtype)


def _leaves(state: LMState) -> list[Tensor]:
    """Return all tensors of a state, in order."""
    leaves: list[Tensor] = []

    def collect(leaf: Tensor) -> Tensor:
        leaves.append(leaf)
        return leaf

    map_state(collect, state)
    return leaves
