"""Transformer language model: GPT-NeoX or Llama of transformers, whose state is a growing KV cache.

Letters in shapes:
    B: rows of the batch
    L: new steps
    T: steps in the cache
    H: heads of keys and values
    P: channels of a head
    D: model width
    V: size of the vocabulary

The cache is a value like every other state: it is never changed in place. Each call copies it, and
so does a fork whose rows share a batch.

Rotary positions count from the start of each row and have no limit. A pretrained model can
therefore run past the length it was trained on (2,048 steps for Pythia and SmolLM); nothing is
dropped or refused there, but the model has never been trained on such positions. The norms of Llama
compute in float32, so that chunks of its input agree to 1e-6 in float64 as well.
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
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.cache_utils import DynamicLayer
from transformers.modeling_layers import GradientCheckpointingLayer

from duplexmamba.config import LMConfig
from duplexmamba.models.language_models.base import (
    INITIAL_STD,
    LM,
    check_rows,
    check_setting,
    grown,
)
from duplexmamba.streaming.padded import Padded, Positions

FIELD_OF_SETTING = {
    "hidden_size": "d_model",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "head_dim": None,
    "intermediate_size": "d_ffn",
    "tie_word_embeddings": "tied",
    "rope_parameters": "rope_theta",
    "hidden_act": None,
    "layer_norm_eps": None,
    "rms_norm_eps": None,
    "use_parallel_residual": None,
    "attention_bias": None,
    "mlp_bias": None,
}
"""Settings of transformers that define a model, and the field of the section `lm` that sets each.

None is a setting that follows from the family.
"""

BLOCK = GradientCheckpointingLayer
"""Base class of the layers of both families."""

KeyValues = tuple[Tensor, Tensor]
"""Keys and values of one layer."""


@dataclasses.dataclass(frozen=True)
class KVState:
    """Keys and values of all steps so far; those past the length of a row are padding."""

    layers: tuple[KeyValues, ...]
    """(B, T, H, P) keys and values of each layer."""
    lengths: Tensor
    """(B,) int64: steps of each row, and so the position of its next step."""


class TransformerLM(LM):
    """Transformer language model with the interface of `MambaLM`."""

    model_type_field = "family"

    def __init__(self, config: LMConfig):
        super().__init__()
        self.config = config
        settings = transformers_config(config)
        self.backbone: GPTNeoXModel | LlamaModel
        if isinstance(settings, GPTNeoXConfig):
            self.backbone = GPTNeoXModel(settings)
        else:
            self.backbone = LlamaModel(settings)
        self.head = None
        if not config.tied:
            self.head = nn.Parameter(INITIAL_STD * torch.randn(config.vocab_size, config.d_model))

    @property
    def embeddings(self) -> nn.Embedding:  # type: ignore[override]
        """The embedding matrix of the backbone, (V, D)."""
        embeddings = self.backbone.get_input_embeddings()
        assert isinstance(embeddings, nn.Embedding)
        return embeddings

    def forward(
        self, x: Padded, state: KVState | None = None, return_states_at: Positions | None = None
    ) -> tuple[Padded, KVState]:
        """Run the model over new steps.

        Args:
            x: (B, L, D) embeddings.
            state: what the previous call returned; None at the start of the sequences.
            return_states_at: return the states at these positions instead of those after each
                row's last step, one row for each position.

        Returns:
            (B, L, D) hidden states, and the KV cache.
        """
        x = x.at_least_one_step()
        num_past = torch.zeros_like(x.row_lengths()) if state is None else state.lengths  # (B,)
        num_cached = int(num_past.max())
        num_steps = x.values.shape[1]
        positions = num_past[:, None] + torch.arange(num_steps, device=num_past.device)  # (B, L)
        mask = None
        if not bool((num_past == num_cached).all()):
            mask = causal_mask(positions, num_cached + num_steps)
        # without a mask transformers uses its causal one, which fits rows of equal length

        caches = self._caches(state, num_cached, positions)
        hidden = self.backbone(
            inputs_embeds=x.values,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=Cache(layers=[*caches]),
            use_cache=True,
        ).last_hidden_state
        if return_states_at is None:
            new_state = _kv_state(caches, num_past + x.row_lengths())
        else:
            lengths = num_past[return_states_at.rows] + return_states_at.steps
            new_state = _kv_state(caches, lengths, return_states_at.rows)
        return x.with_values(hidden), new_state

    def _caches(
        self, state: KVState | None, num_cached: int, positions: Tensor
    ) -> list["LayerCache"]:
        if state is None:
            return [LayerCache(None, positions) for _ in range(self.config.num_layers)]
        caches = []
        for keys, values in state.layers:
            # (B, T, H, P) -> (B, H, T, P), the layout of transformers
            past_keys = keys[:, :num_cached].transpose(1, 2)
            past_values = values[:, :num_cached].transpose(1, 2)
            caches.append(LayerCache((past_keys, past_values), positions))
        return caches

    @property
    def output_matrix(self) -> Tensor:
        """(V, D), the embedding matrix where `lm.tied` says so."""
        return self.embeddings.weight if self.head is None else self.head

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return hidden @ self.output_matrix.T

    def check_settings(self, settings: PreTrainedConfig, source: str) -> None:
        """Check that a model of the same family computes the same function.

        Args:
            settings: configuration of GPTNeoXForCausalLM or LlamaForCausalLM.
            source: folder or hub name it comes from, for messages.

        Raises:
            ValueError: a setting differs from the section `lm`.
        """
        for setting, field in FIELD_OF_SETTING.items():
            value = getattr(settings, setting, None)
            own_value = getattr(self.backbone.config, setting, None)
            origin = f"lm.family={self.config.family} implies"
            if field is not None:
                origin = f"lm.{field} asks for"
            check_setting(source, setting, value, origin, own_value)
        check_rows(source, settings.vocab_size, self.config.vocab_size)

    @torch.no_grad()
    def copy_weights(self, pretrained: PreTrainedModel, source: str) -> None:
        """Copy the weights of a model of the same family.

        Args:
            pretrained: GPTNeoXForCausalLM or LlamaForCausalLM, whose settings have been checked. It
                may have fewer rows in its embedding matrix; see `grown`.
            source: folder or hub name it comes from, for messages.
        """
        weights = pretrained.base_model.state_dict()
        (name,) = [key for key in weights if key in ("embed_in.weight", "embed_tokens.weight")]
        num_rows = self.config.vocab_size
        weights[name] = grown(weights[name], num_rows)
        self.backbone.load_state_dict(weights)
        if self.head is not None:
            self.head.copy_(grown(pretrained.get_output_embeddings().weight, num_rows))


class LayerCache(DynamicLayer):
    """Cache of one layer, in which every row continues after its own last step.

    `update` does not change the past, so that a layer which is recomputed for its gradient sees the
    same one.
    """

    def __init__(self, past: KeyValues | None, positions: Tensor):
        super().__init__()
        self.past = past
        self.slots = positions[:, None, :, None]  # (B, 1, L, 1)
        self.current: KeyValues | None = None
        if past is not None:
            self.lazy_initialization(*past)
            self.keys, self.values = past

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> KeyValues:
        """(B, H, L, P) new keys and values -> (B, H, T + L, P) all keys and values."""
        if self.past is None:
            self.current = (key_states, value_states)
        else:
            past_keys, past_values = self.past
            keys = self._append(past_keys, key_states)
            values = self._append(past_values, value_states)
            self.current = (keys, values)
        return self.current

    def key_values(self, num_steps: int) -> KeyValues:
        """Return keys and values of the first steps, (B, num_steps, H, P) each."""
        assert self.current is not None
        keys, values = self.current
        return keys[:, :, :num_steps].transpose(1, 2), values[:, :, :num_steps].transpose(1, 2)

    def _append(self, past: Tensor, new: Tensor) -> Tensor:
        padded = F.pad(past, (0, 0, 0, new.shape[2]))
        # F.pad made a copy: writing to it leaves the past as it is
        return padded.scatter_(2, self.slots.expand_as(new), new.to(padded.dtype))


def _kv_state(caches: list[LayerCache], lengths: Tensor, rows: Tensor | None = None) -> KVState:
    """Return the state after `lengths` steps of all rows, or of the selected ones."""
    longest = int(lengths.max())
    layers = []
    for cache in caches:
        keys, values = cache.key_values(longest)
        if rows is not None:
            keys = keys[rows]
            values = values[rows]
        layers.append((keys, values))
    return KVState(tuple(layers), lengths)


def causal_mask(positions: Tensor, num_slots: int) -> Tensor:
    """(B, L) positions -> (B, 1, L, num_slots) bool: a step sees its own row up to itself."""
    slots = torch.arange(num_slots, device=positions.device)
    is_visible = slots <= positions[..., None]
    return is_visible[:, None]


def transformers_config(config: LMConfig) -> GPTNeoXConfig | LlamaConfig:
    """Return the configuration of transformers for the same model."""
    sizes: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.d_ffn,
        "tie_word_embeddings": config.tied,
        "attn_implementation": "sdpa",
    }
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.family == "gpt_neox":
        # Pythia rotates a quarter of the channels
        return GPTNeoXConfig(**sizes, rope_parameters={**rope, "partial_rotary_factor": 0.25})
    return LlamaConfig(
        **sizes,
        rope_parameters=rope,
        num_key_value_heads=config.num_kv_heads or config.num_heads,
        rms_norm_eps=1e-5,
    )
