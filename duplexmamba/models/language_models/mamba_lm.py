"""Language model of Mamba-1 or Mamba-2 layers, whose streaming state has a fixed size.

Letters in shapes:
    B: rows of the batch
    L: steps
    D: model width
    V: size of the vocabulary

Source: the layout of the Mamba models of state-spaces, as MambaForCausalLM and Mamba2ForCausalLM of
transformers store it.
"""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from duplexmamba.config import LMConfig
from duplexmamba.models.language_models.base import (
    INITIAL_STD,
    LM,
    check_rows,
    check_setting,
    grown,
)
from duplexmamba.models.mixers.mamba import MambaMixer, MambaState
from duplexmamba.models.mixers.mamba2 import Mamba2Mixer, Mamba2State
from duplexmamba.ops.step_cpp import is_step, matrix_vectors
from duplexmamba.streaming.padded import Padded, Positions

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

MixerState = MambaState | Mamba2State

SSM_WEIGHTS = ("conv1d", "x_proj", "dt_proj", "A_log", "D")
"""Weights of a Mamba-1 mixer that are in its `ssm` here, but not so in transformers."""

NORM_EPS = 1e-5
"""Term in the denominator of the norms of blocks and of their output."""

FIELD_OF_SETTING = {
    "hidden_size": "d_model",
    "num_hidden_layers": "num_layers",
    "state_size": "d_state",
    "conv_kernel": "d_conv",
    "expand": "expand",
    "head_dim": "head_dim",
    "n_groups": "num_groups",
}
"""Settings of transformers that define a size, and the field of the section `lm` that sets each.

Those of Mamba-1 have neither heads nor groups.
"""


def fixed_settings(config: LMConfig) -> dict[str, Any]:
    """Settings of transformers that change the function of a model, and their only values here.

    `mixer_rms_eps` belongs to Falcon-Mamba, which has norms without weights within its mixer.
    """
    settings: dict[str, Any] = {
        "layer_norm_epsilon": NORM_EPS,
        "hidden_act": "silu",
        "use_bias": False,
        "use_conv_bias": True,
        "mixer_rms_eps": None,
    }
    if config.kind == "mamba":
        settings["time_step_rank"] = math.ceil(config.d_model / 16)
    else:
        settings["time_step_limit"] = (0.0, math.inf)
    return settings


class MixerBlock(nn.Module):
    """(B, L, D) -> (B, L, D): normalisation and mixer with a residual connection.

    Args:
        mixer: a module `forward(x, state, return_states_at) -> (y, state)` over (B, L, D).
    """

    def __init__(self, d_model: int, mixer: nn.Module):
        super().__init__()
        self.norm = nn.RMSNorm(d_model, eps=NORM_EPS)
        self.mixer = mixer

    def forward(
        self, x: Padded, state: Any = None, return_states_at: Positions | None = None
    ) -> tuple[Padded, Any]:
        """Run the block over new steps; arguments and results as in `MambaLM.forward`."""
        normed = x.with_values(self.norm(x.values))
        mixed, state = self.mixer(normed, state, return_states_at=return_states_at)
        return x.with_values(x.values + mixed.values), state


def build_mixer(config: LMConfig) -> MambaMixer | Mamba2Mixer:
    """Build the mixer of `lm.kind`, mamba or mamba2, with random weights."""
    if config.kind == "mamba":
        return MambaMixer(config.d_model, config.d_state, config.d_conv, config.expand)
    return Mamba2Mixer(
        config.d_model,
        config.d_state,
        config.d_conv,
        config.expand,
        config.head_dim,
        config.num_groups,
    )


def run_blocks(
    blocks: nn.ModuleList,
    x: Padded,
    state: tuple[Any, ...] | None,
    return_states_at: Positions | None,
) -> tuple[Padded, tuple[Any, ...]]:
    """Run blocks one after the other; arguments and results as in `MambaLM.forward`."""
    x = x.at_least_one_step()
    new_states = []
    for i, block in enumerate(blocks):
        block_state = None if state is None else state[i]
        x, new_state = block(x, block_state, return_states_at)
        new_states.append(new_state)
    return x, tuple(new_states)


def logits_by(matrix: Tensor, hidden: Tensor) -> Tensor:
    """Compute logits (..., V) by an output matrix (V, D) from hidden states (..., D)."""
    num_vectors = hidden.numel() // hidden.shape[-1]
    if matrix.dtype == torch.float32 and is_step(hidden, num_vectors):
        # decoding on a CPU: this kernel reads the large matrix once for all vectors
        vectors = hidden.reshape(-1, hidden.shape[-1])
        return matrix_vectors(matrix, vectors).unflatten(0, hidden.shape[:-1])
    return hidden @ matrix.T


class MambaLM(LM):
    """Mamba language model; the logits are computed with the embedding matrix."""

    model_type_field = "kind"

    def __init__(self, config: LMConfig):
        super().__init__()
        self.config = config
        self.embeddings = nn.Embedding(config.vocab_size, config.d_model)
        nn.init.normal_(self.embeddings.weight, std=INITIAL_STD)
        self.layers = nn.ModuleList()
        for _ in range(config.num_layers):
            self.layers.append(MixerBlock(config.d_model, build_mixer(config)))
        self.norm_f = nn.RMSNorm(config.d_model, eps=NORM_EPS)

    def forward(
        self,
        x: Padded,
        state: tuple[MixerState, ...] | None = None,
        return_states_at: Positions | None = None,
    ) -> tuple[Padded, tuple[MixerState, ...]]:
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

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return logits_by(self.embeddings.weight, hidden)

    def check_settings(self, settings: "PreTrainedConfig", source: str) -> None:
        """Check that a Mamba model of transformers computes the same function.

        Args:
            settings: configuration of a model of the same kind as this one.
            source: folder or hub name it comes from, for messages.

        Raises:
            ValueError: a size differs from the section `lm`, or another setting from the published
                models.
        """
        for setting, field in FIELD_OF_SETTING.items():
            # Mamba-1 has neither heads nor groups
            if hasattr(settings, setting):
                own_value = getattr(self.config, field)
                origin = f"lm.{field} asks for"
                check_setting(source, setting, getattr(settings, setting), origin, own_value)
        for setting, own_value in fixed_settings(self.config).items():
            value = getattr(settings, setting, None)
            if isinstance(value, list):
                # read from JSON, which has no tuples
                value = tuple(value)
            origin = f"lm.kind={self.config.kind} is only made for"
            check_setting(source, setting, value, origin, own_value)
        check_rows(source, settings.vocab_size, self.config.vocab_size)

    @torch.no_grad()
    def copy_weights(self, pretrained: "PreTrainedModel", source: str) -> None:
        """Copy the weights of a Mamba model of transformers.

        Args:
            pretrained: MambaForCausalLM or Mamba2ForCausalLM, of the same kind as this model, whose
                settings have been checked. It may have fewer embeddings; see `grown`.
            source: folder or hub name it comes from, for messages.

        Raises:
            ValueError: the model has an output matrix of its own.
        """
        weights = {}
        for name, weight in pretrained.state_dict().items():
            weights[self._own_name(name)] = weight
        head = weights.pop("lm_head.weight")
        embeddings = weights["embeddings.weight"]
        if not torch.equal(head, embeddings):
            raise ValueError(
                f"lm.pretrained={source!r} has an lm_head that differs from its embeddings; "
                "this model uses one matrix for both: choose a model with tied embeddings"
            )
        weights["embeddings.weight"] = grown(embeddings, self.config.vocab_size)
        self.load_state_dict(weights)

    def _own_name(self, name: str) -> str:
        """Return our name of a weight of transformers."""
        name = name.removeprefix("backbone.")
        if self.config.kind == "mamba":
            for part in SSM_WEIGHTS:
                name = name.replace(f"mixer.{part}", f"mixer.ssm.{part}")
        return name
