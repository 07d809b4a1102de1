"""LoRA-drop: selects the linear layers that get an adapter of their own.

Source: Zhou et al., "LoRA-drop: Efficient LoRA Parameter Pruning based on Output Evaluation", arXiv
2402.07721. A probe trains an adapter dW_i on every linear layer i, for a few updates on a sample
of the training items that is stratified by their sort. The importance of a layer is the energy sum
|dW_i x|^2 over all its inputs x in the sample, as a share of the sum over all i. The most important
layers keep an adapter until together they reach the threshold; the others share one adapter for
each kind of linear layer.

Choices that the paper leaves open are fields of the section `lora_drop`:

- threshold 0.9: as in the paper.
- ranking per_kind: in_proj has 2 E outputs and x_proj far fewer, so that raw energies would rank
  kinds and not layers.
- start new: the probe has seen only a sample, and a shared adapter cannot continue from it: the
  factors of different layers have no common basis, so that their mean is not an adapter. `probe`
  therefore continues only the adapters that are kept.
- rest shared: as published. `dropped` measures what the shared adapter contributes, `frozen` what
  its training contributes. A frozen one is the probe's adapter of one layer and needs start=probe:
  a new adapter that is frozen adds nothing.
- steps 200, sample 512: a tenth of the training of preset tiny, after which B is far from zero. The
  sample is a number and not a share, since the default corpus is endless.
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

Energies = dict[str, float]
"""Dotted name of a linear layer -> energy that its adapter adds."""

# masks of the padded inputs of the modules that are running, innermost last; None: no padding
MaskStack = list[Tensor | None]


@contextlib.contextmanager
def added(model: nn.Module) -> Iterator[Energies]:
    """Measure the energy that each adapter adds, while the context is open.

    Yields:
        The sum of |dW x|^2 of each adapted layer over its inputs, without padding; it grows with
        every forward pass.
    """
    energies = dict.fromkeys(adapters(model), 0.0)
    masks: MaskStack = []
    handles = []
    for name, module in model.named_modules():
        if name in energies:
            handles.append(module.register_forward_pre_hook(_adding_hook(energies, name, masks)))
        else:
            # adapted layers get bare tensors: the padding is known from the modules around them
            handles.append(module.register_forward_pre_hook(_push_hook(masks)))
            handles.append(module.register_forward_hook(_pop_hook(masks)))
    try:
        yield energies
    finally:
        for handle in handles:
            handle.remove()


def _has_padded_input(args: tuple[Any, ...]) -> bool:
    return bool(args) and isinstance(args[0], Padded)


def _push_hook(masks: MaskStack) -> Callable[[nn.Module, Any], None]:
    def push(module: nn.Module, args: tuple[Any, ...]) -> None:
        if _has_padded_input(args):
            x = args[0]
            masks.append(x.mask() if x.lengths is not None else None)

    return push


def _pop_hook(masks: MaskStack) -> Callable[[nn.Module, Any, Any], None]:
    def pop(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if _has_padded_input(args):
            masks.pop()

    return pop


def _adding_hook(
    energies: Energies, name: str, masks: MaskStack
) -> Callable[[nn.Module, Any], None]:
    @torch.no_grad()
    def add(layer: nn.Module, args: tuple[Tensor]) -> None:
        assert isinstance(layer, LoraLayer)
        energy = _energy(layer, args[0])
        mask = masks[-1] if masks else None
        # the mask counts frames; inputs that the connector has stacked have another length
        if mask is not None and mask.shape == energy.shape:
            energy = energy * mask
        energies[name] += float(energy.sum())

    return add


def _energy(layer: LoraLayer, x: Tensor) -> Tensor:
    """(B, L, ...) -> (B, L): |dW x|^2 of every step."""
    outputs = []
    for key in layer.lora_A:
        low_rank = layer.lora_B[key](layer.lora_A[key](x))
        outputs.append(low_rank * layer.scaling[key])
    return torch.stack(outputs).sum(0).float().square().sum(-1)


def importance(energies: Energies, config: LoraDropConfig) -> dict[str, float]:
    """Return each layer's share of the energy of the layers that it is ranked among.

    Args:
        energies: as measured by `added`.
        config: its `ranking` says which layers are ranked among each other.

    Raises:
        ValueError: the adapters of a group add nothing.
    """
    shares: dict[str, float] = {}
    for group in _ranking_groups(energies, config):
        total = sum(energies[name] for name in group)
        # written so that NaN is refused as well
        if not total > 0:
            raise ValueError(
                f"the probe's adapters add nothing to {group[0]}; raise lora_drop.steps or optim.lr"
            )
        for name in group:
            shares[name] = energies[name] / total
    return shares


def keep(shares: dict[str, float], config: LoraDropConfig, seed: int) -> set[str]:
    """Return the layers that keep an adapter of their own.

    Args:
        shares: importance of each layer.
        config: section lora_drop of the configuration.
        seed: seed of the control choice=random.
    """
    selected: set[str] = set()
    for group in _ranking_groups(shares, config):
        ranked = sorted(group, key=lambda name: (-shares[name], name))
        count = _num_selected([shares[name] for name in ranked], config)
        if config.choice == "random":
            # one generator for each group: groups are drawn independently of each other
            generator = random.Random(f"{seed} {group[0]}")
            ranked = generator.sample(ranked, len(ranked))
        elif config.choice == "least_important":
            ranked.reverse()
        selected.update(ranked[:count])
    return selected


def _num_selected(ranked_shares: list[float], config: LoraDropConfig) -> int:
    """Return how many layers of a group keep an adapter; its shares are in descending order."""
    if config.choice == "all":
        return len(ranked_shares)
    if config.choice == "none":
        return 0
    if config.keep is not None:
        return min(len(ranked_shares), config.keep)
    reached = torch.tensor(ranked_shares, dtype=torch.float64).cumsum(0)
    # the tolerance keeps rounding from adding a layer where a sum equals the threshold
    num_below = int((reached < config.threshold - 1e-9).sum())
    return min(len(ranked_shares), num_below + 1)


def _ranking_groups(names: Collection[str], config: LoraDropConfig) -> list[list[str]]:
    """Return the names that are ranked among each other, sorted."""
    if config.ranking == "overall":
        return [sorted(names)]
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(kind_of(name), []).append(name)
    return list(groups.values())
