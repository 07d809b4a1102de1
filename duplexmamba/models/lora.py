"""Low-rank adapters on linear layers, by peft: y = W x + (alpha / rank) B A x with W frozen.

At the end of a stage the adapters are merged into the weights, W + (alpha / rank) B A. The exported
checkpoint therefore has the names and shapes of a model without adapters: it loads strictly into
the next stage, and is decoded by the kernels that read bare weights. The next stage starts new
adapters on it. Nothing is lost: the factors are saved next to it as an ordinary peft folder, and W
is in the checkpoint that the stage started from. `lora.start` combines the two again.

Source: Hu et al., "LoRA", arXiv 2106.09685.
"""

import copy
import difflib
import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from duplexmamba.config import LoraConfig
from duplexmamba.models.speech_lm import is_adapter, part_of

FOLDER = "adapter"
"""Folder of the factors within the folder of a run."""
PEFT_CONFIG = "adapter_config.json"
"""File of the settings in a peft folder."""
PEFT_WEIGHTS = "adapter_model.safetensors"
"""File of the factors in a peft folder."""
PEFT_PREFIX = "base_model.model."
"""Prefix of the names in a peft folder."""


def targets(model: nn.Module, config: LoraConfig, trained: Collection[str]) -> list[str]:
    """Return the dotted names of the linear layers that get an adapter.

    Args:
        model: model without adapters.
        config: its `targets` are ends of dotted names.
        trained: parts of the model that the stage trains; only their layers can get an adapter.

    Raises:
        ValueError: a target or a shared layer matches nothing, or the rank is larger than a layer.
    """
    linear_layers = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and part_of(name) in trained:
            linear_layers[name] = module
    selected: set[str] = set()
    for target in config.targets:
        names = ending_in(target, linear_layers)
        if not names:
            raise ValueError(_unknown_message("lora.targets", target, linear_layers))
        selected.update(names)
    for name in sorted(selected):
        _check_rank(config.rank, name, linear_layers[name])
    for target in config.shared:
        if not ending_in(target, selected):
            raise ValueError(_unknown_message("lora.shared", target, selected))
    return sorted(selected)


def _check_rank(rank: int, name: str, layer: nn.Linear) -> None:
    largest = min(layer.in_features, layer.out_features)
    if rank > largest:
        raise ValueError(
            f"lora.rank={rank} is larger than {name} ({layer.in_features} -> "
            f"{layer.out_features}); set lora.rank={largest} or less, or name other layers in "
            "lora.targets"
        )


def ending_in(target: str, names: Collection[str]) -> list[str]:
    """Return the dotted names that end in `target`, in which * stands for anything."""
    return [name for name in names if fnmatchcase(f".{name}", f"*.{target}")]


def kind_of(name: str) -> str:
    """Return the common name of linear layers that differ only in their depth.

    The name lm.layers.3.mixer.in_proj gives lm.layers.*.mixer.in_proj.
    """
    return re.sub(r"^((?:[a-z]\w*\.)+)\d+\.", r"\1*.", name)


def _unknown_message(field: str, target: str, linear_layers: Collection[str]) -> str:
    endings = set()
    for name in linear_layers:
        parts = name.split(".")
        for i in range(len(parts)):
            endings.add(".".join(parts[i:]))
    nearest = difflib.get_close_matches(target, sorted(endings), n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    kinds = ", ".join(sorted({kind_of(name) for name in linear_layers}))
    return (
        f"{field}: none of the linear layers that can have an adapter is called {target!r}."
        f"{hint} Known: {kinds}."
    )


def adapt(model: nn.Module, config: LoraConfig, trained: Collection[str]) -> None:
    """Add adapters to the layers of `targets`, in place.

    New adapters leave the output of the model unchanged; those of `lora.start` do not.

    Args:
        model: model without adapters.
        config: section lora of the configuration.
        trained: parts of the model that the stage trains.

    Raises:
        ValueError: as in `targets`; or the adapters of `lora.start` have other shapes or belong to
            other weights.
    """
    names = targets(model, config, trained)
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=names
    )
    peft.inject_adapter_in_model(settings, model)
    shared: set[str] = set()
    for target in config.shared:
        shared.update(ending_in(target, names))
    _tie(adapters(model), shared)
    if config.start:
        _load_start(model, config, Path(config.start))


def _tie(layers: dict[str, LoraLayer], shared: Collection[str]) -> None:
    """Let shared layers of one kind use the factors of the first of them."""
    first_of_kind: dict[str, LoraLayer] = {}
    for name in sorted(shared):
        first = first_of_kind.setdefault(kind_of(name), layers[name])
        layers[name].lora_A = first.lora_A
        layers[name].lora_B = first.lora_B


def in_common(model: nn.Module, config: LoraConfig) -> Iterator[nn.Parameter]:
    """Yield the factors of the shared adapters, once for each layer that uses them."""
    layers = adapters(model)
    for target in config.shared:
        for name in ending_in(target, layers):
            yield from layers[name].lora_A.parameters()
            yield from layers[name].lora_B.parameters()


def adapters(model: nn.Module) -> dict[str, LoraLayer]:
    """Return the linear layers that have an adapter, by their dotted names."""
    layers = {}
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            layers[name] = module
    return layers


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Replace adapted layers by plain linear layers with the same output, in place."""
    for name, layer in adapters(model).items():
        layer.merge()
        model.set_submodule(name, layer.get_base_layer())
    del model.peft_config


def export(model: nn.Module, folder: Path) -> None:
    """Write the factors as a folder that `peft.PeftModel.from_pretrained` loads onto the same base.

    peft has no shared adapters: each layer gets a copy, and `adapt` ties them again by
    `lora.shared`.

    Args:
        model: model with adapters.
        folder: created where it does not exist.
    """
    settings: peft.LoraConfig = copy.copy(vars(model)["peft_config"]["default"])
    settings.target_modules = sorted(adapters(model))
    settings.inference_mode = True
    settings.base_model_name_or_path = base_of(model)
    settings.save_pretrained(str(folder))
    weights = {}
    for name, weight in peft.get_peft_model_state_dict(model).items():
        # clones: safetensors refuses tensors that share memory, as shared adapters do
        weights[PEFT_PREFIX + name] = weight.detach().cpu().clone()
    save_file(weights, folder / PEFT_WEIGHTS)


def base_of(model: nn.Module) -> str:
    """Return a digest of the base weights of all parts that have adapters.

    It is equal for the same weights, whatever the adapters.
    """
    parts = {part_of(name) for name in adapters(model)}
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        if part_of(name) not in parts or is_adapter(name):
            continue
        digest.update(name.replace(".base_layer", "").encode())
        # raw bytes: numpy has no bfloat16
        raw = weight.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(raw.numpy().data)
    return f"sha256:{digest.hexdigest()[:16]}"


def _load_start(model: nn.Module, config: LoraConfig, folder: Path) -> None:
    settings, weights = _read_peft_folder(folder)
    _check_same_shapes(weights, peft.get_peft_model_state_dict(model), folder)
    alpha = settings["lora_alpha"]
    if alpha != config.alpha:
        raise ValueError(
            f"lora.start={folder} was trained with lora.alpha={alpha}, not {config.alpha}; "
            f"set lora.alpha={alpha}"
        )
    base = settings["base_model_name_or_path"]
    if base != base_of(model):
        raise ValueError(
            f"lora.start={folder} is for another base ({base}) than the weights that it would "
            f"adapt ({base_of(model)}); load those of the run it was trained on with stage.init"
        )
    peft.set_peft_model_state_dict(model, weights)
    # tied layers hold what was loaded last: the others differ unless they were shared there too
    for name, weight in peft.get_peft_model_state_dict(model).items():
        if not torch.equal(weight.cpu(), weights[name]):
            raise ValueError(
                f"lora.start={folder}: {name} is not shared there; leave it out of lora.shared"
            )


def _read_peft_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the settings and the factors, by names without prefix."""
    try:
        settings = json.loads((folder / PEFT_CONFIG).read_text())
        stored = load_file(folder / PEFT_WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"lora.start={folder} is no readable peft folder ({error}); name <run>/{FOLDER}"
        ) from None
    weights = {name.removeprefix(PEFT_PREFIX): weight for name, weight in stored.items()}
    return settings, weights


def _check_same_shapes(
    stored: Mapping[str, Tensor], current: Mapping[str, Tensor], folder: Path
) -> None:
    for name in sorted(stored.keys() | current.keys()):
        stored_shape = tuple(stored[name].shape) if name in stored else "missing"
        current_shape = tuple(current[name].shape) if name in current else "missing"
        if stored_shape != current_shape:
            raise ValueError(
                f"lora.start={folder}: {name} is {stored_shape} there and {current_shape} here; "
                "set lora.rank and lora.targets as it was trained"
            )
