"""The language model: Mamba over embeddings, its whole memory a state of fixed size; or a Transformer in its place.

Glossary: B rows, L steps, D model width, V vocabulary.
Source: the layout of state-spaces' Mamba models, as transformers' MambaForCausalLM and Mamba2ForCausalLM store it.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from duplexmamba.config import LMConfig
from duplexmamba.models.language_models import LANGUAGE_MODELS
from duplexmamba.models.mamba import MambaMixer, MambaState
from duplexmamba.models.mamba2 import Mamba2Mixer, Mamba2State
from duplexmamba.models.transformer import KVState, TransformerLM
from duplexmamba.ops.step_cpp import is_step, matrix_vectors
from duplexmamba.streaming.padded import Padded, Positions

LMState = tuple[MambaState | Mamba2State, ...] | KVState


class MambaBlock(nn.Module):
    """Normalise, mix, add."""

    def __init__(self, config: LMConfig):
        super().__init__()
        self.norm = nn.RMSNorm(config.d_model, eps=1e-5)
        self.mixer = build_mixer(config)

    def forward(
        self,
        x: Padded,
        state: MambaState | Mamba2State | None = None,
        return_states_at: Positions | None = None,
    ) -> tuple[Padded, MambaState | Mamba2State]:
        mixed, state = self.mixer(
            x.with_values(self.norm(x.values)), state, return_states_at=return_states_at
        )
        return x.with_values(x.values + mixed.values), state


def build_mixer(config: LMConfig) -> MambaMixer | Mamba2Mixer:
    """A mixer of the configured kind."""
    sizes = config.d_model, config.d_state, config.d_conv, config.expand
    return (
        Mamba2Mixer(*sizes, config.head_dim, config.num_groups)
        if config.kind == "mamba2"
        else MambaMixer(*sizes)
    )


class MambaLM(nn.Module):
    """Embeddings in, hidden states out; `logits` reads them with the embedding's own weights."""

    def __init__(self, config: LMConfig):
        super().__init__()
        self.config = config
        self.embeddings = nn.Embedding(config.vocab_size, config.d_model)
        nn.init.normal_(self.embeddings.weight, std=0.02)
        self.layers = nn.ModuleList(MambaBlock(config) for _ in range(config.num_layers))
        self.norm_f = nn.RMSNorm(config.d_model, eps=1e-5)

    def embed(self, ids: Tensor) -> Tensor:
        """(B, L) int64 -> (B, L, D)."""
        return self.embeddings(ids)

    def forward(
        self,
        x: Padded,
        state: tuple[MambaState | Mamba2State, ...] | None = None,
        return_states_at: Positions | None = None,
    ) -> tuple[Padded, tuple[MambaState | Mamba2State, ...]]:
        """(B, L, D) embeddings -> (B, L, D) hidden states, and the state after each row's last step, or, a row for
        each, those behind the given places."""
        x, states = x.at_least_one_step(), []
        for i, layer in enumerate(self.layers):
            x, new = layer(x, None if state is None else state[i], return_states_at)
            states.append(new)
        return x.with_values(self.norm_f(x.values)), tuple(states)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        weight = self.embeddings.weight
        if weight.dtype == torch.float32 and is_step(hidden, hidden.numel() // hidden.shape[-1]):
            return matrix_vectors(weight, hidden.reshape(-1, hidden.shape[-1])).unflatten(
                0, hidden.shape[:-1]
            )
        return hidden @ weight.T


LM = MambaLM | TransformerLM


def build_lm(config: LMConfig) -> LM:
    """A language model of the configured kind, with random weights."""
    lm: LM = LANGUAGE_MODELS[config.kind].build(config)
    return lm


def load_pretrained(lm: LM, source: str) -> None:
    """Copy the weights of a model in the transformers layout, a folder or a hub name, into `lm`.

    Raises:
        ValueError: not a model of lm.kind (of lm.family, where that is transformer), or one that differs from the `lm`
            section of the configuration.
    """
    try:
        theirs = AutoModelForCausalLM.from_pretrained(source, dtype=lm.embeddings.weight.dtype)
    except (OSError, ValueError) as error:
        kind = "folder" if Path(source).exists() else "folder or hub model"
        raise ValueError(
            f"lm.pretrained={source!r}: no readable {kind} of that name ({str(error)[:200]})"
        ) from None
    field, wanted = (
        ("family", lm.config.family) if isinstance(lm, TransformerLM) else ("kind", lm.config.kind)
    )
    if theirs.config.model_type != wanted:
        raise ValueError(
            f"lm.pretrained={source!r} is a {theirs.config.model_type} model; lm.{field}={wanted} needs a {wanted} "
            "model"
        )
    if isinstance(lm, TransformerLM):
        lm.take(theirs, source)
    else:
        _take_mamba(lm, theirs, source)


def _take_mamba(lm: MambaLM, theirs: PreTrainedModel, source: str) -> None:
    weights = {_our_name(k, lm.config.kind): v for k, v in theirs.state_dict().items()}
    head = weights.pop("lm_head.weight")
    _check_shapes(weights, lm, source)
    if not torch.equal(head, weights["embeddings.weight"]):
        raise ValueError(
            f"lm.pretrained={source!r} has an lm_head other than its embeddings; here one matrix is both: "
            "choose a model with tied embeddings"
        )
    if (
        lm.config.kind == "mamba2" and theirs.config.n_groups != lm.config.num_groups
    ):  # N * G alone shows in shapes
        raise ValueError(
            f"lm.pretrained={source!r} has n_groups={theirs.config.n_groups}, lm.num_groups={lm.config.num_groups}; "
            "make them agree"
        )
    lm.load_state_dict(weights)


def _check_shapes(weights: dict[str, Tensor], lm: MambaLM, source: str) -> None:
    ours = lm.state_dict()
    for name in sorted(ours.keys() | weights.keys()):
        have = tuple(weights[name].shape) if name in weights else "nothing"
        need = tuple(ours[name].shape) if name in ours else "nothing"
        if have != need:
            raise ValueError(
                f"lm.pretrained={source!r}: {name} is {have}, the lm section asks for {need}; make them agree"
            )


def _our_name(theirs: str, kind: str) -> str:
    name = theirs.removeprefix("backbone.")
    if kind == "mamba":
        for part in ("conv1d", "x_proj", "dt_proj", "A_log", "D"):
            name = name.replace(f"mixer.{part}", f"mixer.ssm.{part}")
    return name
