"""Language model of Mamba-1 or Mamba-2 layers, whose streaming state has a fixed size.

Letters in shapes:
    B: rows of the batch
    L: steps
    D: model width
    V: size of the vocabulary

Source: the layout of the Mamba models of state-spaces, as MambaForCausalLM and Mamba2ForCausalLM of
transformers store it.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from duplexmamba.config import LMConfig
from duplexmamba.models.language_models.base import LM
from duplexmamba.models.mixers.mamba import MambaMixer, MambaState
from duplexmamba.models.mixers.mamba2 import Mamba2Mixer, Mamba2State
from duplexmamba.ops.step_cpp import is_step, matrix_vectors
from duplexmamba.streaming.padded import Padded, Positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MixerState = MambaState | Mamba2State

SSM_WEIGHTS = ("conv1d", "x_proj", "dt_proj", "A_log", "D")
"""Weights of a Mamba-1 mixer that are in its `ssm` here, but not so in transformers."""


class MambaBlock(nn.Module):
    """(B, L, D) -> (B, L, D): normalisation and mixer with a residual connection."""

    def __init__(self, config: LMConfig):
        super().__init__()
        self.norm = nn.RMSNorm(config.d_model, eps=1e-5)
        self.mixer = build_mixer(config)

    def forward(
        self,
        x: Padded,
        state: MixerState | None = None,
        return_states_at: Positions | None = None,
    ) -> tuple[Padded, MixerState]:
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


class MambaLM(LM):
    """Mamba language model; the logits are computed with the embedding matrix."""

    model_type_field = "kind"

    def __init__(self, config: LMConfig):
        super().__init__()
        self.config = config
        self.embeddings = nn.Embedding(config.vocab_size, config.d_model)
        nn.init.normal_(self.embeddings.weight, std=0.02)
        self.layers = nn.ModuleList(MambaBlock(config) for _ in range(config.num_layers))
        self.norm_f = nn.RMSNorm(config.d_model, eps=1e-5)

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
        x = x.at_least_one_step()
        new_states = []
        for i, layer in enumerate(self.layers):
            layer_state = None if state is None else state[i]
            x, new_state = layer(x, layer_state, return_states_at)
            new_states.append(new_state)
        return x.with_values(self.norm_f(x.values)), tuple(new_states)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        weight = self.embeddings.weight
        num_vectors = hidden.numel() // hidden.shape[-1]
        if weight.dtype == torch.float32 and is_step(hidden, num_vectors):
            # decoding on a CPU: this kernel reads the large matrix once for all vectors
            vectors = hidden.reshape(-1, hidden.shape[-1])
            return matrix_vectors(weight, vectors).unflatten(0, hidden.shape[:-1])
        return hidden @ weight.T

    @torch.no_grad()
    def copy_weights(self, pretrained: "PreTrainedModel", source: str) -> None:
        """Copy the weights of a Mamba model of transformers.

        Args:
            pretrained: MambaForCausalLM or Mamba2ForCausalLM, of the same kind as this model.
            source: folder or hub name it comes from, for messages.

        Raises:
            ValueError: a shape differs, or the model has an output matrix of its own.
        """
        weights = {}
        for name, weight in pretrained.state_dict().items():
            weights[self._own_name(name)] = weight
        head = weights.pop("lm_head.weight")
        self._check_shapes(weights, source)
        if not torch.equal(head, weights["embeddings.weight"]):
            raise ValueError(
                f"lm.pretrained={source!r} has an lm_head that differs from its embeddings; "
                "this model uses one matrix for both: choose a model with tied embeddings"
            )
        self._check_groups(pretrained, source)
        self.load_state_dict(weights)

    def _own_name(self, name: str) -> str:
        """Return our name of a weight of transformers."""
        name = name.removeprefix("backbone.")
        if self.config.kind == "mamba":
            for part in SSM_WEIGHTS:
                name = name.replace(f"mixer.{part}", f"mixer.ssm.{part}")
        return name

    def _check_shapes(self, weights: dict[str, Tensor], source: str) -> None:
        own_weights = self.state_dict()
        for name in sorted(own_weights.keys() | weights.keys()):
            pretrained_shape = shape_of(weights, name)
            own_shape = shape_of(own_weights, name)
            if pretrained_shape != own_shape:
                raise ValueError(
                    f"lm.pretrained={source!r}: {name} is {pretrained_shape}, but the section lm "
                    f"needs {own_shape}; make them agree"
                )

    def _check_groups(self, pretrained: "PreTrainedModel", source: str) -> None:
        if self.config.kind == "mamba":
            return
        # shapes show only the product of the number of groups and the state size
        num_groups = pretrained.config.n_groups
        if num_groups != self.config.num_groups:
            raise ValueError(
                f"lm.pretrained={source!r} has n_groups={num_groups}, "
                f"lm.num_groups={self.config.num_groups}; make them agree"
            )


def shape_of(weights: dict[str, Tensor], name: str) -> tuple[int, ...] | str:
    """Return the shape of a weight, or "missing" where there is none of that name."""
    return tuple(weights[name].shape) if name in weights else "missing"
