"""Train a stage with LoRA-drop: probe, importance, choice of the linears that keep an adapter of their own, training.

    python lora_drop.py configs/preset/tiny.yaml configs/stage/instruct.yaml lora_drop.threshold=0.9

The probe is a run of its own, runs/<stage>-<preset>-<fingerprint>, and takes beside its files importance.json and
importance.png. What is chosen becomes `lora.targets` and `lora.shared` of the training, and thereby part of its
configuration, checkpoints and hand-over: it is the same in every process and wherever it is loaded.
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor

from configs.loading import load_config
from configs.schema import Config
from datamodules.data import Corpora
from duplexmamba.models.lora import FOLDER, PEFT_CONFIG, PEFT_PREFIX, PEFT_WEIGHTS, kind_of
from duplexmamba.models.lora_drop import added, importance, keep
from lightning_modules.assembly import build
from lightning_modules.trainer.checkpoint import FILE, StageCheckpoint
from lightning_modules.trainer.hardware import exit_cleanly, quiet_libraries
from lightning_modules.trainer.sweep_trial import sweep_point
from train import main as train
from train import sources, train_with_prerequisites


def main(args: list[str]) -> dict[str, float]:
    """Returns the summary of the training."""
    args = [*args, "lora.enabled=true", "lora.shared=[]"]
    drop = load_config(args).lora_drop
    if drop.choice == "full":
        return train([*args, "lora.enabled=false"])
    probing = [
        *args,
        f"lora.sample={drop.sample}",
        f"trainer.max_steps={drop.steps}",
        "trainer.average_last=1",
    ]
    probing += ["run.id=null", "run.sweep=null", "wandb.mode=disabled"]
    trained: dict[str, tuple[Path, dict[str, float]]] = {}
    probe, _ = train_with_prerequisites(probing, load_config(probing), trained)
    config = load_config([*probing, f"lora.start={probe / FOLDER}"])
    given = {s: trained[s][0] if s in trained else Path(s) for s in sources(config)}
    shares = importance(measure(config, given, probe), drop)
    kept = keep(shares, drop, config.seed)
    report(shares, kept, probe, config)
    return train([*args, *layout(shares, kept, probe, config)])


def measure(config: Config, given: dict[str, Path], folder: Path) -> dict[str, float]:
    """What each of the probe's adapters adds over the sample, item for item as it was trained on."""
    checkpoints = {source: StageCheckpoint.load(path / FILE) for source, path in given.items()}
    module, data = build(config, Corpora(config), checkpoints, folder)
    module.eval().to(
        "cuda" if torch.cuda.is_available() and config.trainer.accelerator != "cpu" else "cpu"
    )
    seen = 0
    with added(module.model) as total, torch.no_grad():
        for batch in data.train_dataloader():
            if len(batch):
                module.model_step(batch.to(module.device))
            seen += len(batch) + len(batch.skipped)
            if seen >= config.lora_drop.sample:
                break
    return total


def layout(shares: dict[str, float], kept: set[str], probe: Path, config: Config) -> list[str]:
    """The words of the configuration that say which linears have what, and from where they start."""
    if config.lora_drop.choice == "equal":
        return [f"lora.rank={plain_rank(shares, kept, probe, config)}"]
    rest, drop = sorted(shares.keys() - kept), config.lora_drop
    names, word = (
        (sorted(kept), "lora.targets") if drop.rest == "dropped" else (rest, "lora.shared")
    )
    words = [
        f"{word}=[{','.join(names)}]",
        f"lora.shared_trainable={str(drop.rest != 'frozen').lower()}",
    ]
    return (
        words
        if drop.start == "new"
        else [*words, f"lora.start={write_start(shares, kept, probe, drop.rest)}"]
    )


def write_start(shares: dict[str, float], kept: set[str], probe: Path, rest: str) -> Path:
    """A folder of its own for each layout: adapters kept as the probe left them; those shared as new, or, where they
    are not to learn, as the probe left the most important of their kind."""
    layout = hashlib.sha256(" ".join([rest, *sorted(kept)]).encode()).hexdigest()[:8]
    folder, left = probe / f"start-{layout}", load_file(probe / FOLDER / PEFT_WEIGHTS)
    weights: dict[str, Tensor] = {}
    first: dict[tuple[str, str], Tensor] = {}
    for linear, name in sorted(
        ((linear_of(name), name) for name in left), key=lambda named: -shares[named[0]]
    ):
        kind = kind_of(linear), name.removeprefix(PEFT_PREFIX + linear)
        if linear in kept:
            weights[name] = left[name]
        elif rest != "dropped":
            new = left[name] if rest == "frozen" or "lora_A" in name else 0 * left[name]
            weights[name] = first.setdefault(kind, new).clone()
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / PEFT_WEIGHTS)
    shutil.copy(probe / FOLDER / PEFT_CONFIG, folder)
    return folder


def linear_of(name: str) -> str:
    """The linear that a factor in a peft folder belongs to."""
    return name.removeprefix(PEFT_PREFIX).split(".lora_")[0]


def report(shares: dict[str, float], kept: set[str], probe: Path, config: Config) -> None:
    """The importances as a table, importance.json and importance.png."""
    kinds = sorted({kind_of(name) for name in shares})
    rows = {
        kind: [name for name in sorted(shares, key=natural) if kind_of(name) == kind]
        for kind in kinds
    }
    table = Table("layer", *kinds, box=None, title="importance; * keeps an adapter of its own")
    for layer in range(max(map(len, rows.values()))):
        cells = [row[layer] if layer < len(row) else None for row in rows.values()]
        shown = [
            f"{shares[name]:.1%}{' *' if name in kept else '  '}" if name else "" for name in cells
        ]
        table.add_row(str(layer), *shown)
    Console(width=max(120, Console().width)).print(table)
    rank = plain_rank(shares, kept, probe, config)
    print(
        f"{len(kept)} of {len(shares)} are kept; plain LoRA has as many parameters with lora.rank={rank}: {probe}"
    )
    found = {name: {"importance": share, "kept": name in kept} for name, share in shares.items()}
    (probe / "importance.json").write_text(
        json.dumps({"linears": found, "plain_rank": rank}, indent=1) + "\n"
    )
    draw(rows, shares, kept, probe / "importance.png")


def plain_rank(shares: dict[str, float], kept: set[str], probe: Path, config: Config) -> int:
    """The rank at which adapters on all linears have about as many parameters as what was chosen."""
    sizes = dict.fromkeys(shares, 0)
    for name, weight in load_file(probe / FOLDER / PEFT_WEIGHTS).items():
        sizes[linear_of(name)] += weight.numel()
    own = sum(sizes[name] for name in kept)
    if config.lora_drop.rest == "shared":
        own += sum({kind_of(name): sizes[name] for name in shares.keys() - kept}.values())
    return max(1, round(config.lora.rank * own / sum(sizes.values())))


def draw(rows: dict[str, list[str]], shares: dict[str, float], kept: set[str], path: Path) -> None:
    """A panel of bars for each kind of linear; what is kept is dark."""
    figure = Figure(figsize=(3 * len(rows), 3), layout="constrained")
    axes = figure.subplots(1, len(rows), squeeze=False)
    for axis, (kind, names) in zip(axes[0], rows.items(), strict=True):
        colours = ["tab:blue" if name in kept else "lightgrey" for name in names]
        axis.bar(range(len(names)), [shares[name] for name in names], color=colours)
        axis.set(title=kind, xlabel="layer")
    axes[0][0].set_ylabel("importance")
    figure.savefig(path, dpi=110)


def natural(name: str) -> list[tuple[int, str]]:
    """Layer 10 stands behind layer 9."""
    return [(int(word), "") if word.isdigit() else (-1, word) for word in name.split(".")]


if __name__ == "__main__":
    quiet_libraries()
    with exit_cleanly(), sweep_point(sys.argv[1:]) as words:
        main(words)
