"""A Transformer in the Mamba's place: transformers' GPT-NeoX or Llama, its whole memory a KV cache that grows.

The cache is a state like any other: nothing changes it in place, so that going on from it copies it, and so does a fork
whose rows share a batch. Rotary positions count from each row's own beginning and have no end. A pretrained model goes
on past the length it was trained on (2,048 for Pythia and SmolLM); nothing is dropped or refused there, but it has
never learnt what comes. Llama's norms compute in float32, so that pieces of its input agree to 1e-6 in float64 too.
Glossary: B rows, L new steps, T steps in the cache, H heads of keys, P channels of a head, D model width, V vocabulary.
"""

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    Cache,
    GPTNeoXConfig,
    GPTNeoXModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedModel,
)
from transformers.cache_utils import DynamicLayer
from transformers.modeling_layers import GradientCheckpointingLayer

from duplexmamba.config import LMConfig
from duplexmamba.streaming.padded import Padded, Positions

FIELDS = {
    "hidden_size": "d_model", "num_hidden_layers": "num_layers", "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads", "head_dim": None, "intermediate_size": "d_ffn", "vocab_size": "vocab_size",
    "tie_word_embeddings": "tied", "rope_parameters": "rope_theta", "hidden_act": None, "layer_norm_eps": None,
    "rms_norm_eps": None, "use_parallel_residual": None, "attention_bias": None, "mlp_bias": None,
}  # fmt: skip
"""What makes a model in transformers' words, and the field of the section `lm` that says it, if one does."""

BLOCK = GradientCheckpointingLayer
"""What a layer of either family is."""

Pair = tuple[Tensor, Tensor]
"""Keys and values."""


@dataclasses.dataclass(frozen=True)
class KVState:
    """Keys and values of every step so far. What lies past a row's length is padding."""

    layers: tuple[Pair, ...]
    """(B, T, H, P) each."""
    lengths: Tensor
    """(B,) int64; the position of the row's next step."""


class TransformerLM(nn.Module):
    """Embeddings in, hidden states out, as `MambaLM` has it."""

    def __init__(self, config: LMConfig):
        super().__init__()
        self.config = config
        theirs = transformers_config(config)
        self.backbone = (
            GPTNeoXModel(theirs) if isinstance(theirs, GPTNeoXConfig) else LlamaModel(theirs)
        )
        self.head = (
            None
            if config.tied
            else nn.Parameter(0.02 * torch.randn(config.vocab_size, config.d_model))
        )

    @property
    def embeddings(self) -> nn.Embedding:
        """(V, D), the backbone's own."""
        theirs = self.backbone.get_input_embeddings()
        assert isinstance(theirs, nn.Embedding)
        return theirs

    def embed(self, ids: Tensor) -> Tensor:
        """(B, L) int64 -> (B, L, D)."""
        return self.embeddings(ids)

    def forward(
        self, x: Padded, state: KVState | None = None, return_states_at: Positions | None = None
    ) -> tuple[Padded, KVState]:
        """(B, L, D) embeddings -> (B, L, D) hidden states, and the state after each row's last step, or, a row for
        each, those behind the given places."""
        x = x.at_least_one_step()
        before = torch.zeros_like(x.row_lengths()) if state is None else state.lengths
        cached, steps = int(before.max()), x.values.shape[1]
        positions = before[:, None] + torch.arange(steps, device=before.device)
        even = bool(
            (before == cached).all()
        )  # then one causal mask, which transformers knows, is that of all rows
        pasts = (
            [None] * self.config.num_layers
            if state is None
            else [_turned(p, cached) for p in state.layers]
        )
        layers = [_Layer(past, positions) for past in pasts]
        hidden = self.backbone(
            inputs_embeds=x.values,
            attention_mask=None if even else _visible(positions, cached + steps),
            position_ids=positions,
            past_key_values=Cache(layers=[*layers]),
            use_cache=True,
        ).last_hidden_state
        lengths = (
            before + x.row_lengths()
            if return_states_at is None
            else before[return_states_at.rows] + return_states_at.steps
        )
        pairs = [layer.state(int(lengths.max())) for layer in layers]
        if return_states_at is not None:
            pairs = [
                (keys[return_states_at.rows], values[return_states_at.rows])
                for keys, values in pairs
            ]
        return x.with_values(hidden), KVState(tuple(pairs), lengths)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return hidden @ (self.embeddings.weight if self.head is None else self.head).T

    @torch.no_grad()
    def take(self, theirs: PreTrainedModel, source: str) -> None:
        """Copy the weights of their model, `source` by name. Raises ValueError where it is not the same model."""
        for name, field in FIELDS.items():
            have, need = (
                getattr(config, name, None) for config in (theirs.config, self.backbone.config)
            )
            if have != need:
                ours = (
                    f"lm.{field} asks for"
                    if field
                    else f"lm.family={self.config.family} is here with"
                )
                raise ValueError(
                    f"lm.pretrained={source!r} has {name}={have}, {ours} {need}; make them agree, or choose another"
                )
        self.backbone.load_state_dict(theirs.base_model.state_dict())
        if self.head is not None:
            self.head.copy_(theirs.get_output_embeddings().weight)


class _Layer(DynamicLayer):
    """One layer's cache, in which each row goes on behind its own last step. A layer that is computed again for its
    gradient finds the same past."""

    def __init__(self, past: Pair | None, positions: Tensor):
        super().__init__()
        self.past, self.slots = past, positions[:, None, :, None]
        self.held: Pair | None = None
        if past is not None:
            self.lazy_initialization(*past)
            self.keys, self.values = past

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Pair:
        """(B, H, L, P) each -> (B, H, T + L, P)."""
        new = key_states, value_states
        pairs = new if self.past is None else tuple(map(self._append, self.past, new))
        self.held = pairs[0], pairs[1]
        return self.held

    def state(self, steps: int) -> Pair:
        """(B, T, H, P) each, of the longest row's steps."""
        assert self.held is not None
        keys, values = self.held
        return keys[:, :, :steps].transpose(1, 2), values[:, :, :steps].transpose(1, 2)

    def _append(self, past: Tensor, new: Tensor) -> Tensor:
        room = F.pad(past, (0, 0, 0, new.shape[2]))
        return room.scatter_(2, self.slots.expand_as(new), new.to(room.dtype))


def _turned(pair: Pair, steps: int) -> Pair:
    """(B, T, H, P) -> (B, H, steps, P)."""
    keys, values = pair
    return keys[:, :steps].transpose(1, 2), values[:, :steps].transpose(1, 2)


def _visible(positions: Tensor, slots: int) -> Tensor:
    """(B, L) -> (B, 1, L, slots): a step sees its own row up to itself."""
    return (torch.arange(slots, device=positions.device) <= positions[..., None])[:, None]


def transformers_config(config: LMConfig) -> GPTNeoXConfig | LlamaConfig:
    """The same model in transformers' words."""
    sizes: dict[str, Any] = {
        "vocab_size": config.vocab_size, "hidden_size": config.d_model, "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads, "intermediate_size": config.d_ffn,
        "tie_word_embeddings": config.tied, "attn_implementation": "sdpa",
    }  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.family == "gpt_neox":
        return GPTNeoXConfig(**sizes, rope_parameters={**rope, "partial_rotary_factor": 0.25})
    return LlamaConfig(
        **sizes,
        rope_parameters=rope,
        num_key_value_heads=config.num_kv_heads or config.num_heads,
        rms_norm_eps=1e-5,
    )
