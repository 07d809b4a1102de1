"""Training with LoRA-drop: a probe selects the linear layers that get their own adapters.

The probe is a short training with adapters on all linear layers. It is a run of its own,
runs/<stage>-<preset>-<fingerprint>, which gets two more files: importance.json and importance.png.
The selected layers become `lora.targets` or `lora.shared` of the training, and so are part of its
configuration and its checkpoints: every process, and everything that loads the checkpoint, sees the
same selection.

The method and its variants are described in `duplexmamba.models.lora_drop`.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

from configs.loading import load_config
from configs.schema import Config
from datamodules.corpora import Corpora
from duplexmamba.models.lora import FOLDER, PEFT_CONFIG, PEFT_PREFIX, PEFT_WEIGHTS, kind_of
from duplexmamba.models.lora_drop import added, importance, keep
from lightning_modules.assembly import build
from lightning_modules.trainer.checkpoint import StageCheckpoint
from lightning_modules.trainer.stage_graph import (
    FinishedRun,
    checkpoint_sources,
    train_with_prerequisites,
)
from reporting.lora_importance import draw_importance, importance_table

MIN_TABLE_WIDTH = 120
"""Columns of the table of importances, even where the terminal reports fewer."""


@dataclasses.dataclass(frozen=True)
class Probe:
    """A finished probe, and the linear layers that it selects."""

    folder: Path
    config: Config
    """Configuration of the probe."""
    importance: dict[str, float]
    """Linear layer -> its share of the importance."""
    selected: set[str]
    """Linear layers with an adapter of their own."""

    @property
    def others(self) -> set[str]:
        """Linear layers without an adapter of their own."""
        return self.importance.keys() - self.selected


def train_with_lora_drop(args: Sequence[str]) -> FinishedRun:
    """Run the probe, select linear layers, and train with adapters on them.

    Args:
        args: configuration files and overrides of the command.
    """
    args = [*args, "lora.enabled=true", "lora.shared=[]"]
    if load_config(args).lora_drop.choice == "full":
        # a control: all weights are trained, without adapters and without a probe
        return _train([*args, "lora.enabled=false"])
    probe = run_probe(args)
    report(probe)
    return _train([*args, *adapter_overrides(probe)])


def _train(args: list[str]) -> FinishedRun:
    return train_with_prerequisites(args, load_config(args), {})


def run_probe(args: Sequence[str]) -> Probe:
    """Train the probe, measure what its adapters add, and select linear layers."""
    settings = load_config(list(args)).lora_drop
    probe_args = [
        *args,
        f"lora.sample={settings.sample}",
        f"trainer.max_steps={settings.steps}",
        "trainer.average_last=1",
        # a trial of a sweep names only the training after the probe, so that trials can share the
        # probe
        "run.id=null",
        "run.sweep=null",
        "wandb.mode=disabled",
    ]
    prerequisites: dict[str, FinishedRun] = {}
    run = train_with_prerequisites(probe_args, load_config(probe_args), prerequisites)
    config = load_config([*probe_args, f"lora.start={run.folder / FOLDER}"])
    checkpoints = _load_checkpoints(config, prerequisites)
    shares = importance(measure(config, checkpoints, run.folder), config.lora_drop)
    selected = keep(shares, config.lora_drop, config.seed)
    return Probe(run.folder, config, shares, selected)


def _load_checkpoints(
    config: Config, prerequisites: Mapping[str, FinishedRun]
) -> dict[str, StageCheckpoint]:
    """The checkpoints that the probe started from, by stage or folder."""
    checkpoints = {}
    for source in checkpoint_sources(config):
        folder = Path(source)
        if source in prerequisites:
            folder = prerequisites[source].folder
        checkpoints[source] = StageCheckpoint.load(folder)
    return checkpoints


def measure(
    config: Config, checkpoints: dict[str, StageCheckpoint], folder: Path
) -> dict[str, float]:
    """Return the energy that each adapter of the probe adds over the sample it was trained on.

    Args:
        config: configuration of the probe, with `lora.start` set to its trained adapters.
        checkpoints: stage or folder -> checkpoint that the probe started from.
        folder: the probe's folder.
    """
    module, data = build(config, Corpora(config), checkpoints, folder)
    uses_gpu = torch.cuda.is_available() and config.trainer.accelerator != "cpu"
    module.eval().to("cuda" if uses_gpu else "cpu")
    num_seen = 0
    with added(module.model) as energies, torch.no_grad():
        for batch in data.train_dataloader():
            if len(batch):
                module.training_loss(batch.to(module.device))
            num_seen += len(batch) + len(batch.skipped)
            if num_seen >= config.lora_drop.sample:
                break
    return energies


def adapter_overrides(probe: Probe) -> list[str]:
    """Return overrides that say which layers have which adapters, and how these start."""
    settings = probe.config.lora_drop
    if settings.choice == "equal":
        return [f"lora.rank={plain_rank(probe)}"]
    if settings.rest == "dropped":
        adapters = f"lora.targets=[{','.join(sorted(probe.selected))}]"
    else:
        adapters = f"lora.shared=[{','.join(sorted(probe.others))}]"
    shared_trainable = str(settings.rest != "frozen").lower()
    overrides = [adapters, f"lora.shared_trainable={shared_trainable}"]
    if settings.start == "probe":
        overrides.append(f"lora.start={write_start(probe)}")
    return overrides


def write_start(probe: Probe) -> Path:
    """Write the adapters that the training starts from; returns the selection's folder.

    Selected layers start from the adapters of the probe. A shared adapter starts as a new one does,
    with factor B at zero, or, where it is not to be trained, as the probe's adapter of the most
    important layer of its kind.
    """
    rest = probe.config.lora_drop.rest
    selection = " ".join([rest, *sorted(probe.selected)])
    digest = hashlib.sha256(selection.encode()).hexdigest()[:8]
    folder = probe.folder / f"start-{digest}"
    folder.mkdir(exist_ok=True)
    save_file(_start_weights(probe), folder / PEFT_WEIGHTS)
    shutil.copy(probe.folder / FOLDER / PEFT_CONFIG, folder)
    return folder


def _start_weights(probe: Probe) -> dict[str, Tensor]:
    rest = probe.config.lora_drop.rest
    trained = load_file(probe.folder / FOLDER / PEFT_WEIGHTS)
    weights: dict[str, Tensor] = {}
    shared: dict[tuple[str, str], Tensor] = {}
    # the most important layer of a kind comes first and gives the shared adapter its weights
    for name in sorted(trained, key=lambda name: -probe.importance[layer_of(name)]):
        layer = layer_of(name)
        factor = name.removeprefix(PEFT_PREFIX + layer)
        if layer in probe.selected:
            weights[name] = trained[name]
        elif rest != "dropped":
            start = trained[name]
            if rest == "shared" and "lora_A" not in name:
                start = 0 * start
            # one copy for each layer: safetensors refuses tensors that share memory
            weights[name] = shared.setdefault((kind_of(layer), factor), start).clone()
    return weights


def layer_of(name: str) -> str:
    """Return the linear layer to which a factor in a peft file belongs."""
    return name.removeprefix(PEFT_PREFIX).split(".lora_")[0]


def report(probe: Probe) -> None:
    """Print the importances as a table, and write importance.json and importance.png."""
    layers_by_kind: dict[str, list[str]] = {}
    for kind in sorted({kind_of(name) for name in probe.importance}):
        layers_by_kind[kind] = []
    for name in sorted(probe.importance, key=_natural_order):
        layers_by_kind[kind_of(name)].append(name)
    table = importance_table(layers_by_kind, probe.importance, probe.selected)
    Console(width=max(MIN_TABLE_WIDTH, Console().width)).print(table)
    rank = plain_rank(probe)
    print(
        f"{len(probe.selected)} of {len(probe.importance)} linear layers have their own adapter; "
        f"plain LoRA has as many parameters with lora.rank={rank}: {probe.folder}"
    )
    linears = {}
    for name, share in probe.importance.items():
        linears[name] = {"importance": share, "kept": name in probe.selected}
    content = {"linears": linears, "plain_rank": rank}
    (probe.folder / "importance.json").write_text(json.dumps(content, indent=1) + "\n")
    picture = probe.folder / "importance.png"
    draw_importance(layers_by_kind, probe.importance, probe.selected, picture)


def plain_rank(probe: Probe) -> int:
    """Return the rank at which plain LoRA has about as many parameters as the selection."""
    sizes = dict.fromkeys(probe.importance, 0)
    for name, weight in load_file(probe.folder / FOLDER / PEFT_WEIGHTS).items():
        sizes[layer_of(name)] += weight.numel()
    num_parameters = sum(sizes[name] for name in probe.selected)
    if probe.config.lora_drop.rest == "shared":
        # all layers of a kind have the same size and share one adapter
        size_by_kind = {kind_of(name): sizes[name] for name in probe.others}
        num_parameters += sum(size_by_kind.values())
    rank = probe.config.lora.rank * num_parameters / sum(sizes.values())
    return max(1, round(rank))


def _natural_order(name: str) -> list[tuple[int, str]]:
    """Sort key by which layer 10 comes after layer 9."""
    key = []
    for part in name.split("."):
        key.append((int(part), "") if part.isdigit() else (-1, part))
    return key
