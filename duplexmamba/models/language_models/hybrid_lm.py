"""Language model of Mamba-2 layers with a few attention layers and MLPs in a pattern.

Letters in shapes:
    B: rows of the batch
    L: steps
    D: model width
    F: hidden width of an MLP
    V: size of the vocabulary

Source: Nemotron-H, arXiv 2504.03624, for the pattern of single layers; the layouts of Granite 4,
Nemotron-H and Bamba in transformers.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duplexmamba.config import LMConfig
from duplexmamba.models.language_models.base import INITIAL_STD, LM, check_rows, grown
from duplexmamba.models.language_models.hybrid_formats import (
    FORMATS,
    check_hybrid_settings,
    letters_of,
    own_weights,
)
from duplexmamba.models.language_models.mamba_lm import (
    NORM_EPS,
    MixerBlock,
    logits_by,
    run_blocks,
)
from duplexmamba.models.mixers.causal_attention import CausalAttention, KeyValueState
from duplexmamba.models.mixers.mamba2 import Mamba2Mixer, Mamba2State
from duplexmamba.ops.gates import gated
from duplexmamba.streaming.padded import Padded, Positions

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

HybridState = tuple[Mamba2State | KeyValueState | None, ...]
"""State of each layer; that of an MLP is None."""


class MLP(nn.Module):
    """(B, L, D) -> (B, L, D): two linear layers, without a state.

    Args:
        d_ffn: F.
        is_gated: multiply by the SiLU of a second projection, in place of a squared ReLU.
    """

    def __init__(self, d_model: int, d_ffn: int, is_gated: bool):
        super().__init__()
        self.is_gated = is_gated
        num_projected = 2 * d_ffn if is_gated else d_ffn
        self.in_proj = nn.Linear(d_model, num_projected, bias=False)
        self.out_proj = nn.Linear(d_ffn, d_model, bias=False)

    def forward(
        self, x: Padded, state: None = None, return_states_at: Positions | None = None
    ) -> tuple[Padded, None]:
        """Map every step by itself; arguments and results as those of a mixer."""
        inner = self.in_proj(x.values)
        if self.is_gated:
            gate, values = inner.chunk(2, -1)  # (B, L, F) each
            inner = gated(values, gate)
        else:
            inner = F.relu(inner).square()
        return x.with_values(self.out_proj(inner)), None


def build_layer(config: LMConfig, letter: str) -> Mamba2Mixer | CausalAttention | MLP:
    """Build the mixer or MLP of a layer with random weights.

    Args:
        config: section lm.
        letter: M for Mamba-2, * for attention, - for an MLP.
    """
    layout = FORMATS[config.hybrid_family]
    if letter == "*":
        return CausalAttention(
            config.d_model,
            config.num_heads,
            config.num_kv_heads or config.num_heads,
            config.attention_window,
            layout.rotary_share,
            config.rope_theta,
        )
    if letter == "-":
        return MLP(config.d_model, config.d_ffn, layout.has_gated_mlp)
    return Mamba2Mixer(
        config.d_model,
        config.d_state,
        config.d_conv,
        config.expand,
        config.head_dim,
        config.num_groups,
        layout.min_time_step,
    )


class HybridLM(LM):
    """Hybrid language model with the interface of `MambaLM`."""

    model_type_field = "hybrid_family"

    def __init__(self, config: LMConfig):
        super().__init__()
        self.config = config
        self.embeddings = nn.Embedding(config.vocab_size, config.d_model)
        nn.init.normal_(self.embeddings.weight, std=INITIAL_STD)
        self.layers = nn.ModuleList()
        # one norm for each letter: a mixer and its MLP are two layers, as in Nemotron-H
        for letter in letters_of(config):
            self.layers.append(MixerBlock(config.d_model, build_layer(config, letter)))
        self.norm_f = nn.RMSNorm(config.d_model, eps=NORM_EPS)
        self.head = None
        if not config.tied:
            self.head = nn.Parameter(INITIAL_STD * torch.randn(config.vocab_size, config.d_model))

    def forward(
        self,
        x: Padded,
        state: HybridState | None = None,
        return_states_at: Positions | None = None,
    ) -> tuple[Padded, HybridState]:
        """Run the model over new steps.

        Args:
            x: (B, L, D) embeddings.
            state: what the previous call returned; None at the start of the sequences.
            return_states_at: return the states at these positions instead of those after each
                row's last step, one row for each position.

        Returns:
            (B, L, D) hidden states, and the states of the layers.
        """
        x, new_state = run_blocks(self.layers, x, state, return_states_at)
        return x.with_values(self.norm_f(x.values)), new_state

    @property
    def output_matrix(self) -> Tensor:
        """(V, D), the embedding matrix where `lm.tied` says so."""
        return self.embeddings.weight if self.head is None else self.head

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return logits_by(self.output_matrix, hidden)

    def check_settings(self, settings: "PreTrainedConfig", source: str) -> None:
        """Check that a hybrid of the same family computes the same function.

        Args:
            settings: configuration of a model of `lm.hybrid_family`.
            source: folder or hub name it comes from, for messages.

        Raises:
            ValueError: a size differs from the section `lm`, or a setting is not supported here.
        """
        check_hybrid_settings(self.config, FORMATS[self.config.hybrid_family], settings, source)
        check_rows(source, settings.vocab_size, self.config.vocab_size)

    @torch.no_grad()
    def copy_weights(self, pretrained: "PreTrainedModel", source: str) -> None:
        """Copy the weights of a hybrid of the same family.

        Args:
            pretrained: model of transformers, whose settings have been checked. It may have fewer
                embeddings; see `grown`.
            source: folder or hub name it comes from, for messages.
        """
        layout = FORMATS[self.config.hybrid_family]
        weights = own_weights(layout, pretrained.base_model.state_dict(), pretrained.config)
        num_rows = self.config.vocab_size
        weights["embeddings.weight"] = grown(weights["embeddings.weight"], num_rows)
        if self.head is not None:
            weights["head"] = grown(pretrained.get_output_embeddings().weight, num_rows)
        self.load_state_dict(weights)
