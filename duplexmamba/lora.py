"""Adapters of low rank on the linears of a model, by peft: y = W x + (alpha / rank) B A x, where W stays as it is.

What a stage hands over has them merged, W + (alpha / rank) B A. So it has the names and shapes that it has without
adapters, fits the next stage strictly, and decodes by the kernels that read bare weights; the next stage's adapters
start afresh upon it. Nothing is lost: the factors lie beside as an ordinary peft folder, and W is in the hand-over that
the stage started from. `lora.start` brings the two together again.

Source: Hu et al., "LoRA", arXiv 2106.09685.
"""

import copy
import difflib
import hashlib
import json
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path

import peft
import torch
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from duplexmamba.model import part_of
from duplexmamba.schema import LoraConfig

FOLDER = "adapter"
"""Of the factors, within that of a run."""
PEFT_CONFIG, PEFT_WEIGHTS, PEFT_PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."


def targets(model: nn.Module, config: LoraConfig, trained: Collection[str]) -> list[str]:
    """Dotted names of the linears that get an adapter, all of trained parts.

    Raises:
        ValueError: a target that is none of them; a rank larger than one of them.
    """
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and part_of(n) in trained}
    found: set[str] = set()
    for target in config.targets:
        names = [name for name in linears if fnmatchcase(f".{name}", f"*.{target}")]
        if not names:
            raise ValueError(_unknown(target, linears))
        found.update(names)
    for name in sorted(found):
        wide, narrow = linears[name].in_features, linears[name].out_features
        if config.rank > min(wide, narrow):
            raise ValueError(
                f"lora.rank={config.rank} is larger than {name} ({wide} -> {narrow}); set lora.rank={min(wide, narrow)}"
                " or less, or name others in lora.targets"
            )
    return sorted(found)


def _unknown(target: str, linears: Collection[str]) -> str:
    words = [name.split(".") for name in linears]
    endings = {".".join(name[i:]) for name in words for i in range(len(name))}
    near = difflib.get_close_matches(target, sorted(endings), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    kinds = sorted({".".join("*" if word.isdigit() and i == 2 else word for i, word in enumerate(n)) for n in words})
    return f"lora.targets: no linear of the trained parts is called {target!r}.{hint} Known: {', '.join(kinds)}."


def adapt(model: nn.Module, config: LoraConfig, trained: Collection[str]) -> None:
    """Put adapters on `targets`, in place; `model` gives what it gave, unless they come from `lora.start`.

    Raises:
        ValueError: as `targets` does; or those of `lora.start` are of another layout or for another base.
    """
    names = targets(model, config, trained)
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=names
    )
    peft.inject_adapter_in_model(settings, model)
    if config.start:
        _start(model, config, Path(config.start))


def adapters(model: nn.Module) -> dict[str, LoraLayer]:
    """The adapted linears by their dotted names."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Plain linears again, in place, that give what the adapted ones gave."""
    for name, layer in adapters(model).items():
        layer.merge()
        model.set_submodule(name, layer.get_base_layer())
    del model.peft_config


def export(model: nn.Module, folder: Path) -> None:
    """Write the factors as a folder that `peft.PeftModel.from_pretrained` loads upon the same base."""
    settings = copy.copy(_settings(model))
    settings.target_modules, settings.inference_mode = sorted(adapters(model)), True
    settings.base_model_name_or_path = base_of(model)
    settings.save_pretrained(str(folder))
    weights = peft.get_peft_model_state_dict(model)
    save_file({PEFT_PREFIX + n: w.detach().cpu().contiguous() for n, w in weights.items()}, folder / PEFT_WEIGHTS)


def base_of(model: nn.Module) -> str:
    """A name for the weights beneath the adapters: equal for the same weights."""
    digest = hashlib.sha256()
    for name, layer in sorted(adapters(model).items()):
        weight: Tensor = layer.get_base_layer().weight
        digest.update(name.encode() + weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"


def _settings(model: nn.Module) -> peft.LoraConfig:
    (settings,) = model.peft_config.values()
    return settings


def _start(model: nn.Module, config: LoraConfig, folder: Path) -> None:
    try:
        theirs = json.loads((folder / PEFT_CONFIG).read_text())
        weights = {n.removeprefix(PEFT_PREFIX): w for n, w in load_file(folder / PEFT_WEIGHTS).items()}
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"lora.start={folder} is no readable peft folder ({error}); name <run>/{FOLDER}") from None
    there = {name: tuple(weight.shape) for name, weight in weights.items()}
    here = {name: tuple(weight.shape) for name, weight in peft.get_peft_model_state_dict(model).items()}
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            raise ValueError(
                f"lora.start={folder}: {name} is {there.get(name, 'missing')} there and {here.get(name, 'missing')} "
                "here; set lora.rank and lora.targets as it was trained"
            )
    if theirs["lora_alpha"] != config.alpha:
        raise ValueError(
            f"lora.start={folder} was trained with lora.alpha={theirs['lora_alpha']}, not {config.alpha}; set it so"
        )
    if theirs["base_model_name_or_path"] != base_of(model):
        raise ValueError(
            f"lora.start={folder} is for another base ({theirs['base_model_name_or_path']}) than the weights it would "
            f"adapt ({base_of(model)}); take those from the run it was trained upon, with stage.init"
        )
    peft.set_peft_model_state_dict(model, weights)
