"""The language model: Mamba over embeddings, its whole memory a state of fixed size.

Glossary: B rows, L steps, D model width, V vocabulary.
Source: the layout of state-spaces' Mamba models, as transformers' MambaForCausalLM stores it.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from duplexmamba.config import LMConfig
from duplexmamba.mamba import MambaMixer, MambaState
from duplexmamba.padded import Padded

LMState = tuple[MambaState, ...]


class MambaBlock(nn.Module):
    """Normalise, mix, add."""

    def __init__(self, config: LMConfig):
        super().__init__()
        self.norm = nn.RMSNorm(config.d_model, eps=1e-5)
        self.mixer = MambaMixer(config.d_model, config.d_state, config.d_conv, config.expand)

    def forward(self, x: Padded, state: MambaState | None = None) -> tuple[Padded, MambaState]:
        mixed, state = self.mixer(x.with_values(self.norm(x.values)), state)
        return x.with_values(x.values + mixed.values), state


class MambaLM(nn.Module):
    """Embeddings in, hidden states out; `logits` reads them with the embedding's own weights."""

    def __init__(self, config: LMConfig):
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.d_model)
        nn.init.normal_(self.embeddings.weight, std=0.02)
        self.layers = nn.ModuleList(MambaBlock(config) for _ in range(config.num_layers))
        self.norm_f = nn.RMSNorm(config.d_model, eps=1e-5)

    def embed(self, ids: Tensor) -> Tensor:
        """(B, L) int64 -> (B, L, D)."""
        return self.embeddings(ids)

    def forward(self, x: Padded, state: LMState | None = None) -> tuple[Padded, LMState]:
        """(B, L, D) embeddings -> (B, L, D) hidden states, and the state after each row's last step."""
        x, states = x.not_empty(), []
        for i, layer in enumerate(self.layers):
            x, new = layer(x, None if state is None else state[i])
            states.append(new)
        return x.with_values(self.norm_f(x.values)), tuple(states)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return hidden @ self.embeddings.weight.T


def load_pretrained(lm: MambaLM, source: str) -> None:
    """Copy the weights of a `MambaForCausalLM`, a folder or a hub name, into `lm`.

    Raises:
        ValueError: not a Mamba-1 model, or of another shape than the `lm` section of the configuration.
    """
    try:
        theirs = AutoModelForCausalLM.from_pretrained(source, dtype=lm.embeddings.weight.dtype)
    except (OSError, ValueError) as error:
        kind = "folder" if Path(source).exists() else "folder or hub model"
        raise ValueError(f"lm.pretrained={source!r}: no readable {kind} of that name ({str(error)[:200]})") from None
    if theirs.config.model_type != "mamba":
        raise ValueError(f"lm.pretrained={source!r} is a {theirs.config.model_type} model; a Mamba-1 model is needed")
    weights = {_our_name(k): v for k, v in theirs.state_dict().items() if k != "lm_head.weight"}
    ours = lm.state_dict()
    for name in sorted(ours.keys() | weights.keys()):
        have = tuple(weights[name].shape) if name in weights else "nothing"
        need = tuple(ours[name].shape) if name in ours else "nothing"
        if have != need:
            raise ValueError(
                f"lm.pretrained={source!r}: {name} is {have}, the lm section asks for {need}; make them agree"
            )
    lm.load_state_dict(weights)


def _our_name(theirs: str) -> str:
    name = theirs.removeprefix("backbone.")
    for part in ("conv1d", "x_proj", "dt_proj", "A_log", "D"):
        name = name.replace(f"mixer.{part}", f"mixer.ssm.{part}")
    return name


@torch.no_grad()
def greedy(lm: MambaLM, logits: Tensor, state: LMState, end: int, max_tokens: int) -> list[list[int]]:
    """Continue each row with its likeliest token until `end` (not included) or `max_tokens`.

    Args:
        logits: (B, V) of the step before the first token.
        state: the rows' states after that step.
    """
    rows, done = [], torch.zeros(logits.shape[0], dtype=torch.bool, device=logits.device)
    for _ in range(max_tokens):
        token = logits.argmax(-1).masked_fill(done, end)
        done = done | (token == end)
        rows.append(token)
        if bool(done.all()):
            break
        hidden, state = lm(Padded(lm.embed(token[:, None])), state)
        logits = lm.logits(hidden.values[:, -1])
    columns = torch.stack(rows, 1).tolist()
    return [row[: row.index(end)] if end in row else row for row in columns]
