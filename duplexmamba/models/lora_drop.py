"""LoRA-drop: which linears earn an adapter of their own, by what a probe's adapters add to their outputs.

Source: Zhou et al., "LoRA-drop: Efficient LoRA Parameter Pruning based on Output Evaluation", arXiv 2402.07721. A few
updates on a sample, of each sort of training item its share, give every linear i an adapter dW_i. Its importance is
sum |dW_i x|^2 over all its inputs x in the sample, as a share of the sum over all i. The most important are kept until
they reach the threshold together; the others share one adapter for each kind of linear.

What the paper leaves open is in the section `lora_drop`:

- threshold 0.9: the paper's.
- ranking per_kind: in_proj adds to 2 E outputs and x_proj to far fewer, so that raw sums rank kinds, not layers.
- start new: the probe has seen a sample only, and a shared adapter has no probe to continue from: the factors of
  different layers have no common basis, so that their mean is no adapter. `probe` therefore continues what is kept.
- rest shared: as published; `dropped` tells what the shared one is worth, `frozen` what its training is. Frozen, it
  is the probe's own of one linear, so it needs start=probe: a new one that is frozen adds nothing.
- steps 200, sample 512: a tenth of the training of `tiny`; B has long left zero by then. The sample is a number and not
  a share, since the default corpus has no end.
"""

import contextlib
import random
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from duplexmamba.config import LoraDropConfig
from duplexmamba.models.lora import adapters, kind_of
from duplexmamba.streaming.padded import Padded


@contextlib.contextmanager
def added(model: nn.Module) -> Iterator[dict[str, float]]:
    """While it is open: sum |dW x|^2 of each adapter over what passes through it, padding left out."""
    total = dict.fromkeys(adapters(model), 0.0)
    inside: list[Tensor | None] = []
    handles = []
    for name, module in model.named_modules():
        if name in total:
            handles.append(module.register_forward_pre_hook(_adding(total, name, inside)))
        else:
            handles.append(module.register_forward_pre_hook(lambda _, args: _enter(inside, args)))
            handles.append(module.register_forward_hook(lambda _, args, __: _leave(inside, args)))
    try:
        yield total
    finally:
        for handle in handles:
            handle.remove()


def _enter(inside: list[Tensor | None], args: tuple[Any, ...]) -> None:
    if args and isinstance(args[0], Padded):
        inside.append(args[0].mask() if args[0].lengths is not None else None)


def _leave(inside: list[Tensor | None], args: tuple[Any, ...]) -> None:
    if args and isinstance(args[0], Padded):
        inside.pop()


def _adding(
    total: dict[str, float], name: str, inside: list[Tensor | None]
) -> Callable[[nn.Module, Any], None]:
    @torch.no_grad()
    def hook(layer: nn.Module, args: tuple[Tensor]) -> None:
        assert isinstance(layer, LoraLayer)
        energy = _energy(layer, args[0])
        mask = inside[-1] if inside else None
        if (
            mask is not None and mask.shape == energy.shape
        ):  # frames stacked by the connector have another
            energy = energy * mask
        total[name] += float(energy.sum())

    return hook


def _energy(layer: LoraLayer, x: Tensor) -> Tensor:
    """(B, L, ...) -> (B, L)."""
    outputs = [layer.lora_B[k](layer.lora_A[k](x)) * layer.scaling[k] for k in layer.lora_A]
    return torch.stack(outputs).sum(0).float().square().sum(-1)


def importance(total: dict[str, float], config: LoraDropConfig) -> dict[str, float]:
    """Shares of 1 among what is ranked together.

    Raises:
        ValueError: nothing was added at all, of which there are no shares.
    """
    shares: dict[str, float] = {}
    for group in _groups(total, config):
        whole = sum(total[name] for name in group)
        if not whole > 0:
            raise ValueError(
                f"the probe's adapters add nothing to {group[0]}; raise lora_drop.steps or optim.lr"
            )
        shares |= {name: total[name] / whole for name in group}
    return shares


def keep(shares: dict[str, float], config: LoraDropConfig, seed: int) -> set[str]:
    """The linears whose adapters stay their own. seed: of the control `random`."""
    kept: set[str] = set()
    for group in _groups(shares, config):
        ranked = sorted(group, key=lambda name: (-shares[name], name))
        important = min(len(group), _enough([shares[name] for name in ranked], config))
        count = {"all": len(group), "none": 0}.get(config.choice, important)
        if config.choice == "random":
            ranked = random.Random(f"{seed} {group[0]}").sample(ranked, len(ranked))
        elif config.choice == "least_important":
            ranked.reverse()
        kept.update(ranked[:count])
    return kept


def _enough(shares: list[float], config: LoraDropConfig) -> int:
    if config.keep is not None:
        return config.keep
    reached = torch.tensor(shares, dtype=torch.float64).cumsum(0)
    return int((reached < config.threshold - 1e-9).sum()) + 1


def _groups(names: Collection[str], config: LoraDropConfig) -> list[list[str]]:
    if config.ranking == "overall":
        return [sorted(names)]
    kinds: dict[str, list[str]] = {}
    for name in sorted(names):
        kinds.setdefault(kind_of(name), []).append(name)
    return list(kinds.values())
