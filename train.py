"""Train a stage, and first the stages it stands on where their checkpoints are missing.

    python train.py configs/preset/tiny.yaml configs/stage/asr.yaml optim.lr=1e-3

Stages that stand on nothing are trained at the same time where there are CPU cores for all of them.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import torch

from configs.fingerprint import fingerprint
from configs.loading import load_config, save_config
from configs.recipes import DIALOGUE_STAGES, STAGES
from configs.schema import Config
from datamodules.data import Corpora, StageData
from datamodules.dialogue.data import DialogueData
from duplexmamba.models import lora
from duplexmamba.text.jsonl import whole_lines
from lightning_modules.assembly import build, check_adapters, unsharded
from lightning_modules.stage import StageModule
from lightning_modules.trainer.callbacks import LAST, ProgressBar, ResumeCheckpoint
from lightning_modules.trainer.checkpoint import (
    FILE,
    AtomicCheckpoints,
    StageCheckpoint,
    WeightAveraging,
)
from lightning_modules.trainer.hardware import (
    exclusive,
    exit_cleanly,
    num_cores,
    num_processes,
    quiet_libraries,
    started_from_outside,
    trainer_settings,
    trains_on_cpu,
)
from lightning_modules.trainer.logging import JsonlLogger, draw_curves, finish_wandb, wandb_logger
from lightning_modules.trainer.parallel import run_parallel, run_to_end
from lightning_modules.trainer.starts import log_start
from lightning_modules.trainer.summary import SUMMARY, print_summary, write_summary
from lightning_modules.trainer.sweep_trial import scheduler, sweep_point


def main(args: list[str], upstream: str | None = None) -> dict[str, float]:
    """Train what is missing; returns the summary of the asked stage, or of one upstream it."""
    config = load_config(args, upstream)
    if (
        config.stage.name in DIALOGUE_STAGES
    ):  # what speaks against the dialogues is to be known before hours of training
        DialogueData(config, Corpora(config)).dialogues("train", 0)
    return train_with_prerequisites(args, config, {})[1]


def train_with_prerequisites(
    args: list[str],
    config: Config,
    trained: dict[str, tuple[Path, dict[str, float]]],
    upstream: bool = False,
) -> tuple[Path, dict[str, float]]:
    """Folder and summary of a stage, after those it stands on.

    Args:
        trained: the stages this command has been at.
        upstream: another stands on it. Lightning starts further processes by repeating this one's command, so that a
            stage upstream that has several needs a command of its own.
    """
    check_adapters(config)
    seconds: dict[str, float] = {}
    folders: dict[str, Path] = {}
    for source in sources(config):
        folders[source] = Path(source)
        if source in STAGES:
            if source not in trained:
                trained[source] = train_with_prerequisites(
                    args, load_config(args, source), trained, upstream=True
                )
            folders[source], summary = trained[source]
            seconds |= times(summary)
    folder = run_folder(config, [f.name for f in folders.values()])
    several = num_processes(config.trainer) > 1 and not started_from_outside()
    if upstream and several and not (folder / SUMMARY).exists():
        run_to_end(command(args, config.stage.name))
    given = {source: f / FILE for source, f in folders.items()}
    return folder, train_stage(config, folder, given, seconds)


def sources(config: Config) -> list[str]:
    """Stages, in their order, and run folders, by name, whose hand-over this stage starts from."""
    named = {s for s in config.stage.init.values() if not (s == "lm" and config.lm.pretrained)}
    return sorted(named, key=lambda s: (STAGES.index(s) if s in STAGES else len(STAGES), s))


def untrained_roots(args: list[str], config: Config) -> dict[str, Config]:
    """Stages upstream that stand on nothing and are not trained yet, in the order of their training."""
    found: dict[str, Config] = {}
    for stage in (source for source in sources(config) if source in STAGES):
        below = load_config(args, stage)
        found |= untrained_roots(args, below) if sources(below) else {stage: below}
    return {stage: c for stage, c in found.items() if not (run_folder(c) / SUMMARY).exists()}


def parallel_commands(args: list[str]) -> list[list[str]]:
    """What trains all but the first of those at the same time as it, if each finds cores of its own."""
    config = load_config(args)
    bottom, c = untrained_roots(args, config), config.trainer
    needed = [
        (below.trainer.threads or num_cores()) * num_processes(below.trainer)
        for below in bottom.values()
    ]
    if not trains_on_cpu(c) or c.devices > 1 or sum(needed) > num_cores():
        return []
    return [command(args, stage) for stage in list(bottom)[1:]]


def command(args: list[str], upstream: str) -> list[str]:
    """What trains a stage upstream, and no further."""
    return [sys.executable, __file__, *args, f"--upstream={upstream}"]


def run_folder(config: Config, upstream: Sequence[str] = ()) -> Path:
    """Where a run lies: the same experiment on the same runs upstream, the same folder."""
    name = f"{config.stage.name}-{config.preset}-{fingerprint(config, upstream)}"
    return Path(config.run.dir) / (config.run.id or name)


def times(summary: dict[str, float]) -> dict[str, float]:
    """Stage -> seconds."""
    found = {
        name: s
        for name, s in summary.items()
        if name.startswith("time/") and name != "time/total_s"
    }
    return {name.removeprefix("time/").removesuffix("_s"): s for name, s in found.items()}


def train_stage(
    config: Config, folder: Path, given: dict[str, Path], seconds: dict[str, float]
) -> dict[str, float]:
    """Train, score and hand over one stage, or find that this was done.

    Args:
        folder: of this run.
        given: files of the hand-overs it starts from, by stage or folder.
        seconds: what those stages took.
    """
    done = folder / SUMMARY
    with exclusive(folder):
        if not done.exists():
            return train_now(config, folder, given, seconds)
    print(f"{config.stage.name}: trained before, {folder}", flush=True)
    return json.loads(done.read_text())


def train_now(
    config: Config, folder: Path, given: dict[str, Path], seconds: dict[str, float]
) -> dict[str, float]:
    """The same for what was not done."""
    stage = config.stage.name
    save_config(config, folder / "config.yaml")
    log_start(folder)
    corpora = Corpora(config)
    for name, survey in corpora.surveys.items():
        print(f"{name}:\n{survey}" if len(corpora.surveys) > 1 else survey, flush=True)
    checkpoints = {source: StageCheckpoint.load(file) for source, file in given.items()}
    module, data = build(config, corpora, checkpoints, folder)
    resume = ResumeCheckpoint(folder / LAST, config.trainer.checkpoint_every_s)
    trainer = build_trainer(
        config,
        folder,
        [resume, WeightAveraging(config), ProgressBar(stage, config.trainer.max_steps)],
    )
    data.check_ranks(trainer.world_size)
    fit(trainer, module, data, folder)
    module = unsharded(module)
    counts = {"params/trained": module.num_trained()}
    if config.lora.enabled:
        if trainer.is_global_zero:
            lora.export(module.model, folder / lora.FOLDER)
        lora.merge(module.model)
    if trainer.is_global_zero:
        StageCheckpoint(config, module.tokens, module.model.state_dict()).save(folder / FILE)
    elapsed = resume.elapsed_s
    trainer.test(module, data, verbose=False)
    scores = {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith("test/")
    }
    summary = scores
    if trainer.is_global_zero:
        summary = write_summary(folder, {**scores, **counts}, {**seconds, stage: elapsed})
        draw_curves(whole_lines(folder / "metrics.jsonl"), folder / "curves.png", folder.name)
        point_latest(folder)
        (folder / LAST).unlink(missing_ok=True)
        print_summary(folder, summary, module.scored, module.skipped, next_command(stage, folder))
    finish_wandb()
    trainer.strategy.barrier()
    return summary


def build_trainer(config: Config, folder: Path, callbacks: list[L.Callback]) -> L.Trainer:
    """Lightning's trainer over endless data."""
    c = config.trainer
    loggers = [JsonlLogger(folder / "metrics.jsonl"), wandb_logger(config, folder)]
    return L.Trainer(
        **{**trainer_settings(config), "devices": num_processes(c)},
        max_steps=c.max_steps, max_epochs=-1, accumulate_grad_batches=c.accumulate,
        gradient_clip_val=config.optim.clip, val_check_interval=c.valid_every_steps * c.accumulate,
        check_val_every_n_epoch=None, num_sanity_val_steps=0, logger=[logger for logger in loggers if logger],
        log_every_n_steps=10, callbacks=callbacks, default_root_dir=folder,
        plugins=[AtomicCheckpoints(), *scheduler()],
    )  # fmt: skip


def fit(trainer: L.Trainer, module: StageModule, data: StageData, folder: Path) -> None:
    """Train to the end, from the last checkpoint if a run of this experiment was killed."""
    last = folder / LAST
    if not last.exists():
        (folder / "metrics.jsonl").unlink(missing_ok=True)
        trainer.fit(module, data)
        return
    step = torch.load(last, map_location="cpu", weights_only=True)["global_step"]
    print(f"{module.config.stage.name}: going on from update {step}, {last}", flush=True)
    data.start_batch = step * module.config.trainer.accumulate
    JsonlLogger(folder / "metrics.jsonl").cut_after(step)
    trainer.fit(module, data, ckpt_path=last, weights_only=True)


def point_latest(folder: Path) -> None:
    """runs/latest -> this run."""
    link = folder.parent / "latest"
    link.unlink(missing_ok=True)
    link.symlink_to(folder.name)


def next_command(stage: str, folder: Path) -> str:
    """What a newcomer does after this stage."""
    after = {stage: f"make train STAGE={later}" for stage, later in itertools.pairwise(STAGES)}
    return after.get(stage, f"make eval-wer RUN={folder} DATA=your/speech")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "words", nargs="*", help="YAML files and key=value words of the configuration"
    )
    parser.add_argument(
        "--upstream", choices=STAGES, help="train this one of the stages upstream, and no further"
    )
    asked = parser.parse_intermixed_args()
    quiet_libraries()
    with (
        exit_cleanly(),
        sweep_point(asked.words) as words,
        run_parallel([] if asked.upstream else parallel_commands(words)),
    ):
        main(words, asked.upstream)
