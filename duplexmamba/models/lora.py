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
import re
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import peft
import torch
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from duplexmamba.config import LoraConfig
from duplexmamba.models.speech_lm import is_adapter, part_of

FOLDER = "adapter"
"""Of the factors, within that of a run."""
PEFT_CONFIG, PEFT_WEIGHTS, PEFT_PREFIX = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "base_model.model.",
)


def targets(model: nn.Module, config: LoraConfig, trained: Collection[str]) -> list[str]:
    """Dotted names of the linears that get an adapter, all of trained parts.

    Raises:
        ValueError: a target that is none of them; a rank larger than one of them.
    """
    linear_layers = {
        n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and part_of(n) in trained
    }
    found: set[str] = set()
    for target in config.targets:
        names = ending_in(target, linear_layers)
        if not names:
            raise ValueError(_unknown("lora.targets", target, linear_layers))
        found.update(names)
    for name in sorted(found):
        wide, narrow = linear_layers[name].in_features, linear_layers[name].out_features
        if config.rank > min(wide, narrow):
            raise ValueError(
                f"lora.rank={config.rank} is larger than {name} ({wide} -> {narrow}); set lora.rank={min(wide, narrow)}"
                " or less, or name others in lora.targets"
            )
    for target in config.shared:
        if not ending_in(target, found):
            raise ValueError(_unknown("lora.shared", target, found))
    return sorted(found)


def ending_in(target: str, names: Collection[str]) -> list[str]:
    """Those of the dotted names that end in `target`, in which * is anything."""
    return [name for name in names if fnmatchcase(f".{name}", f"*.{target}")]


def kind_of(name: str) -> str:
    """What linears that differ in their layer have in common: lm.layers.3.mixer.in_proj, lm.layers.*.mixer.in_proj."""
    return re.sub(r"^((?:[a-z]\w*\.)+)\d+\.", r"\1*.", name)


def _unknown(field: str, target: str, linear_layers: Collection[str]) -> str:
    words = [name.split(".") for name in linear_layers]
    endings = {".".join(name[i:]) for name in words for i in range(len(name))}
    near = difflib.get_close_matches(target, sorted(endings), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    kinds = ", ".join(sorted({kind_of(name) for name in linear_layers}))
    return f"{field}: none of the linears that can have an adapter is called {target!r}.{hint} Known: {kinds}."


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
    _tie(adapters(model), {name for target in config.shared for name in ending_in(target, names)})
    if config.start:
        _start(model, config, Path(config.start))


def _tie(layers: dict[str, LoraLayer], shared: Collection[str]) -> None:
    first: dict[str, LoraLayer] = {}
    for name in sorted(shared):
        one = first.setdefault(kind_of(name), layers[name])
        layers[name].lora_A, layers[name].lora_B = one.lora_A, one.lora_B


def in_common(model: nn.Module, config: LoraConfig) -> Iterator[nn.Parameter]:
    """The factors of shared adapters."""
    layers = adapters(model)
    for target in config.shared:
        for name in ending_in(target, layers):
            yield from layers[name].lora_A.parameters()
            yield from layers[name].lora_B.parameters()


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
    """Write the factors as a folder that `peft.PeftModel.from_pretrained` loads upon the same base.

    peft knows no shared ones: each linear gets a copy. `adapt` ties them again, by `lora.shared`.
    """
    settings: peft.LoraConfig = copy.copy(vars(model)["peft_config"]["default"])
    settings.target_modules, settings.inference_mode = sorted(adapters(model)), True
    settings.base_model_name_or_path = base_of(model)
    settings.save_pretrained(str(folder))
    weights = peft.get_peft_model_state_dict(model)
    save_file(
        {PEFT_PREFIX + n: w.detach().cpu().clone() for n, w in weights.items()},
        folder / PEFT_WEIGHTS,
    )


def base_of(model: nn.Module) -> str:
    """A name for the weights of the parts that have adapters, these left out: equal for the same weights."""
    parts = {part_of(name) for name in adapters(model)}
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        if part_of(name) in parts and not is_adapter(name):
            digest.update(name.replace(".base_layer", "").encode())
            digest.update(
                weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
            )
    return f"sha256:{digest.hexdigest()[:16]}"


def _start(model: nn.Module, config: LoraConfig, folder: Path) -> None:
    try:
        theirs = json.loads((folder / PEFT_CONFIG).read_text())
        weights = {
            n.removeprefix(PEFT_PREFIX): w for n, w in load_file(folder / PEFT_WEIGHTS).items()
        }
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"lora.start={folder} is no readable peft folder ({error}); name <run>/{FOLDER}"
        ) from None
    there = {name: tuple(weight.shape) for name, weight in weights.items()}
    here = {
        name: tuple(weight.shape) for name, weight in peft.get_peft_model_state_dict(model).items()
    }
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
    differing = [
        n
        for n, w in peft.get_peft_model_state_dict(model).items()
        if not torch.equal(w.cpu(), weights[n])
    ]
    if differing:
        raise ValueError(
            f"lora.start={folder}: {differing[0]} is not shared there; leave it out of lora.shared"
        )
