"""Any carried causal language model of transformers, its cache as a value.

The model is the library's own; only its state is handled here. Attention layers can run rows of
unequal past together, by a mask, and rows of unequal length, by padding at their ends. Recurrent
layers of the library have no mask for padding at the end: there, rows of equal length run together,
and a state within a row is taken by cutting the row in two.

Letters in shapes:
    B: rows of the batch
    L: steps
    D: model width
    V: size of the vocabulary
    P: positions at which states are returned
"""

import dataclasses
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from duplexmamba.config import LMConfig
from duplexmamba.models.language_models.architectures import find_architecture
from duplexmamba.models.language_models.base import LM
from duplexmamba.models.language_models.cache import (
    CacheLayout,
    CacheState,
    state_after,
    without_steps,
)
from duplexmamba.models.language_models.time_step_limits import clamp_time_steps
from duplexmamba.models.language_models.transformer_lm import causal_mask
from duplexmamba.streaming.padded import Padded, Positions, pad_steps
from duplexmamba.streaming.state import join, map_state, select

CACHE_ARGUMENTS = ("past_key_values", "cache_params")
"""Names of the argument that takes the cache, of which a model has one."""


NEW_ROW_STD = 0.02
"""Standard deviation of the noise in new rows of the embedding matrix."""


class PretrainedLM(LM):
    """A causal language model of transformers, built from the config.json of `lm.pretrained`."""

    model_type_field = "kind"

    def __init__(self, config: LMConfig):
        """Build the model with random weights.

        Raises:
            ValueError: there is no such model, it is not carried, or a size differs from the
                section `lm`.
        """
        super().__init__()
        self.config = config
        source = str(config.pretrained)
        settings = read_settings(source)
        self.architecture = find_architecture(settings.model_type, source)
        _check_sizes(config, settings)
        self._layout = _read_layout(settings, source)
        model = AutoModelForCausalLM.from_config(
            settings, dtype=torch.float32, **self._attention_settings()
        )
        self._use(model)

    def _attention_settings(self) -> dict[str, str]:
        # Other implementations than sdpa, which the library may prefer, add the mask of True and
        # False to the scores. A model without attention refuses the setting.
        if not self._layout.has_attention:
            return {}
        return {"attn_implementation": "sdpa"}

    def _use(self, model: PreTrainedModel) -> None:
        """Take a model of the library as this one, with as many embeddings as configured."""
        grow_embeddings(model, self.config.vocab_size)
        clamp_time_steps(model, str(self.config.pretrained))
        self.model = model
        parameters = inspect.signature(model.base_model.forward).parameters
        [self._cache_argument] = [name for name in CACHE_ARGUMENTS if name in parameters]
        self.logits_factor = self.architecture.logits_factor(model.config)

    @property
    def expected_model_type(self) -> str:
        """The model_type that this model was built for."""
        return self.architecture.model_type

    @property
    def embeddings(self) -> nn.Embedding:  # type: ignore[override]
        """The embedding matrix of the model, (V, D)."""
        embeddings = self.model.get_input_embeddings()
        assert isinstance(embeddings, nn.Embedding)
        return embeddings

    @property
    def output_matrix(self) -> Tensor:
        """The output matrix of the model, (V, D)."""
        matrix = self.model.get_output_embeddings().weight
        assert isinstance(matrix, Tensor)
        return matrix

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        logits = self.model.get_output_embeddings()(hidden)
        if self.logits_factor == 1.0:
            return logits
        return logits * self.logits_factor

    def load_weights(self, source: str) -> None:
        """Replace the random weights by those of a folder or a model of the hub.

        The random ones are freed first, so that there is one copy of the weights at any time.

        Raises:
            ValueError: a weight is missing or has another shape.
        """
        dtype = self.embeddings.weight.dtype
        training = self.training
        del self.model
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, output_loading_info=True, **self._attention_settings()
        )
        model, report = loaded
        _check_report(report, source)
        self._use(model)
        self.train(training)

    def copy_weights(self, pretrained: PreTrainedModel, source: str) -> None:
        """Copy the weights of a model of the same architecture.

        Raises:
            RuntimeError: a name or a shape differs.
        """
        self.model.load_state_dict(pretrained.state_dict())

    def forward(
        self, x: Padded, state: CacheState | None = None, return_states_at: Positions | None = None
    ) -> tuple[Padded, CacheState]:
        """Run the model over new steps.

        Args:
            x: (B, L, D) embeddings.
            state: what the previous call returned; None at the start of the sequences.
            return_states_at: return the states at these positions instead of those after each
                row's last step, one row for each position.

        Returns:
            (B, L, D) hidden states, and the cache.
        """
        x = x.at_least_one_step()
        if self._layout.has_recurrence:
            return self._forward_in_groups(x, state, return_states_at)
        hidden, filled = self._call(x.values, state)
        num_past = _num_past(x.values, state)
        if return_states_at is None:
            lengths = num_past + x.row_lengths()
        else:
            lengths = num_past[return_states_at.rows] + return_states_at.steps
            filled = select(filled, return_states_at.rows)
        after = without_steps(filled, int(lengths.max()))
        return x.with_values(hidden), dataclasses.replace(after, lengths=lengths)

    def _forward_in_groups(
        self, x: Padded, state: CacheState | None, return_states_at: Positions | None
    ) -> tuple[Padded, CacheState]:
        """Run rows of equal length together, cut where a state is to be returned."""
        groups = _equal_rows(x, state, return_states_at)
        hidden_parts = []
        stops: list[_Stop] = []
        for group in groups:
            rows = torch.tensor(group.rows, device=x.values.device)
            group_state = None
            if group.has_past:
                group_state = select(state, rows)
            group_x = x.values[rows, : group.cuts[-1]]
            hidden, states = self._run_cut(group_x, group_state, group.cuts)
            # (rows, length, D) -> (rows, L, D)
            hidden_parts.append(pad_steps(hidden, x.values.shape[1] - group.cuts[-1]))
            for cut, cut_state in zip(group.cuts, states, strict=True):
                stops.append(_Stop(group.rows, cut, cut_state))
        order = [row for group in groups for row in group.rows]
        inverse = torch.tensor(order, device=x.values.device).argsort()
        hidden = torch.cat(hidden_parts)[inverse]
        return x.with_values(hidden), _gather(stops, _wanted(x, return_states_at))

    def _run_cut(
        self, x: Tensor, state: CacheState | None, cuts: Sequence[int]
    ) -> tuple[Tensor, list[CacheState]]:
        """Run (B, L, D) in pieces that end at `cuts`; return all steps, and the state at each."""
        parts = []
        states: list[CacheState] = []
        start = 0
        for cut in cuts:
            piece = x[:, start:cut]
            if not piece.shape[1]:
                state = self._start_state(x) if state is None else state
            else:
                hidden, state = self._run(piece, state)
                parts.append(hidden)
            states.append(state)
            start = cut
        hidden = torch.cat(parts, 1) if parts else x
        return hidden, states

    def _run(self, x: Tensor, state: CacheState | None) -> tuple[Tensor, CacheState]:
        """Run (B, L, D), L at least 1, and return the state after the last step."""
        if state is None or self.architecture.continues_in_chunks:
            return self._call(x, state)
        parts = []
        for step in x.split(1, 1):
            hidden, state = self._call(step, state)
            parts.append(hidden)
        return torch.cat(parts, 1), state

    def _call(self, x: Tensor, state: CacheState | None) -> tuple[Tensor, CacheState]:
        """Call the library: (B, L, D) -> (B, L, D), and the state after L steps of every row."""
        num_past = _num_past(x, state)
        steps = torch.arange(x.shape[1], device=x.device)
        positions = num_past[:, None] + steps  # (B, L)
        longest = int(num_past.max())
        if state is not None:
            state = without_steps(state, longest)
        mask = None
        if self._layout.has_attention and not bool((num_past == longest).all()):
            mask = causal_mask(positions, longest + x.shape[1])
        # without a mask the library uses its causal one, which fits rows of equal length
        cache = self._layout.cache(state, positions)
        arguments = {self._cache_argument: cache, "position_ids": positions}
        output = self.model.base_model(
            inputs_embeds=x, attention_mask=mask, use_cache=True, **arguments
        )
        return output.last_hidden_state, state_after(cache, num_past + x.shape[1])

    def _start_state(self, like: Tensor) -> CacheState:
        """Return the state before the first step, for rows like those of (B, L, D)."""
        one_step = like.new_zeros(like.shape[0], 1, like.shape[2])
        with torch.no_grad():
            _, state = self._call(one_step, None)
        return map_state(torch.zeros_like, without_steps(state, 0))


class _Group(NamedTuple):
    """Rows of a batch that run together."""

    rows: list[int]
    cuts: tuple[int, ...]
    """Numbers of steps after which a state is kept, ascending; the last is the rows' length."""
    has_past: bool


class _Stop(NamedTuple):
    """The states of some rows after the same number of steps."""

    rows: list[int]
    cut: int
    state: CacheState


class _Position(NamedTuple):
    """A position in a row of a batch."""

    row: int
    step: int


def _num_past(x: Tensor, state: CacheState | None) -> Tensor:
    """Return (B,) int64, the steps of each row before a call on (B, L, D)."""
    if state is None:
        return torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
    return state.lengths


def _wanted(x: Padded, return_states_at: Positions | None) -> list[_Position]:
    """Return the positions whose states a call returns, in order."""
    if return_states_at is None:
        lengths = x.row_lengths().tolist()
        return [_Position(row, length) for row, length in enumerate(lengths)]
    pairs = zip(return_states_at.rows.tolist(), return_states_at.steps.tolist(), strict=True)
    return [_Position(row, step) for row, step in pairs]


def _equal_rows(
    x: Padded, state: CacheState | None, return_states_at: Positions | None
) -> list[_Group]:
    """Group rows by their length, by where their states are wanted and by whether they begin."""
    cuts_of_row = [{length} for length in x.row_lengths().tolist()]
    for position in _wanted(x, return_states_at):
        cuts_of_row[position.row].add(position.step)
    num_past = _num_past(x.values, state).tolist()
    rows_of_key: dict[tuple[tuple[int, ...], bool], list[int]] = {}
    for row, cuts in enumerate(cuts_of_row):
        key = (tuple(sorted(cuts)), num_past[row] > 0)
        rows_of_key.setdefault(key, []).append(row)
    return [_Group(rows, cuts, has_past) for (cuts, has_past), rows in rows_of_key.items()]


def _gather(stops: list[_Stop], wanted: list[_Position]) -> CacheState:
    """Return one row for each wanted position."""
    index_of: dict[_Position, int] = {}
    for stop in stops:
        for row in stop.rows:
            index_of[_Position(row, stop.cut)] = len(index_of)
    joined = join([stop.state for stop in stops])
    indices = [index_of[position] for position in wanted]
    gathered = select(joined, torch.tensor(indices, device=joined.lengths.device))
    return without_steps(gathered, int(gathered.lengths.max()))


def read_settings(source: str) -> PreTrainedConfig:
    """Read config.json of a folder or of a model on the hub.

    Raises:
        ValueError: there is none that can be read.
    """
    try:
        return AutoConfig.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        place = "folder" if Path(source).exists() else "folder or hub model"
        raise ValueError(
            f"lm.pretrained={source!r}: no readable {place} of that name ({str(error)[:200]}); "
            "name a folder with the config.json of a causal language model, or a public model"
        ) from None


def _check_sizes(config: LMConfig, settings: PreTrainedConfig) -> None:
    source = config.pretrained
    if settings.hidden_size != config.d_model:
        raise ValueError(
            f"lm.d_model={config.d_model}, but lm.pretrained={source!r} has "
            f"hidden_size={settings.hidden_size}; set lm.d_model={settings.hidden_size}"
        )
    if settings.vocab_size > config.vocab_size:
        raise ValueError(
            f"lm.vocab_size={config.vocab_size}, but lm.pretrained={source!r} has "
            f"vocab_size={settings.vocab_size}; set lm.vocab_size={settings.vocab_size}, or more "
            "where the tokenizer with its markers needs more"
        )


def _read_layout(settings: PreTrainedConfig, source: str) -> CacheLayout:
    try:
        return CacheLayout(settings)
    except ValueError as error:
        raise ValueError(
            f"lm.pretrained={source!r} is a {settings.model_type} model that lm.kind=pretrained "
            f"does not carry: {error}; choose another model"
        ) from None


def _check_report(report: dict[str, Any], source: str) -> None:
    """Refuse a checkpoint that leaves weights random."""
    wrong = [*report["missing_keys"], *report["mismatched_keys"]]
    if wrong:
        names = ", ".join(str(name) for name in sorted(wrong)[:10])
        raise ValueError(
            f"lm.pretrained={source!r}: {len(wrong)} weights are missing or have another shape "
            f"than its config.json says: {names}; repair or choose another folder"
        )


@torch.no_grad()
def grow_embeddings(model: PreTrainedModel, vocab_size: int) -> None:
    """Give a model at least `vocab_size` embeddings, in place.

    New rows, which new markers take, start as the mean of the others and noise by which they differ.
    """
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, nn.Embedding)
    num_rows = embeddings.num_embeddings
    if vocab_size <= num_rows:
        return
    model.resize_token_embeddings(vocab_size, mean_resizing=False)
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        matrix = module.weight
        assert isinstance(matrix, Tensor)
        noise = NEW_ROW_STD * torch.randn_like(matrix[num_rows:])
        matrix[num_rows:] = matrix[:num_rows].mean(0) + noise
