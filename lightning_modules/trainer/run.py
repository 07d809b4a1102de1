"""One run: train a stage, average its weights, score it, and write its files."""

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import lightning as L
from lightning.pytorch.utilities.exceptions import SIGTERMException

from configs.recipes import STAGES
from configs.schema import Config
from datamodules.corpora import Corpora
from datamodules.data import StageData
from duplexmamba.models import lora
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.text.jsonl import read_complete_lines
from lightning_modules.assembly import build, unsharded
from lightning_modules.stage import StageModule
from lightning_modules.trainer.averaging import WeightAveraging
from lightning_modules.trainer.callbacks import LAST, PREVIOUS, ProgressBar, ResumeCheckpoint
from lightning_modules.trainer.checkpoint import FILE, AtomicCheckpoints, StageCheckpoint
from lightning_modules.trainer.exits import is_rank_zero
from lightning_modules.trainer.hardware import num_processes, trainer_settings
from lightning_modules.trainer.identity import check_identity, inputs_of, save_identity
from lightning_modules.trainer.locks import run_lock
from lightning_modules.trainer.logging import (
    METRICS_FILE,
    JsonlLogger,
    finish_wandb,
    wandb_logger,
)
from lightning_modules.trainer.resume import resume_point
from lightning_modules.trainer.slurm import slurm_plugins
from lightning_modules.trainer.starts import log_start
from lightning_modules.trainer.summary import SUMMARY, print_summary, read_summary, write_summary
from lightning_modules.trainer.throughput import METRICS as THROUGHPUT_METRICS
from lightning_modules.trainer.throughput import ThroughputLogger
from lightning_modules.trainer.unseen import score_unseen
from reporting.learning_curves import draw_curves

LOG_EVERY_STEPS = 10


def train_stage(
    config: Config,
    folder: Path,
    checkpoints: Mapping[str, Path],
    training_times: Mapping[str, float],
) -> dict[str, float]:
    """Train and score one stage, unless its folder holds a finished run; returns its summary.

    Args:
        config: configuration of the stage.
        folder: the run's folder.
        checkpoints: stage or folder -> file of the checkpoint to start from.
        training_times: seconds of training of each stage that this one depends on.

    Raises:
        ValueError: the folder holds a run of another configuration or other data, or a file in it
            is damaged; the configuration or the data cannot be used; the training has diverged.
    """
    inputs = inputs_of(config, checkpoints)
    # a finished run needs no lock, which could not be made in a folder of other people
    if not (folder / SUMMARY).exists():
        with run_lock(folder):
            # another process may have trained it meanwhile
            if not (folder / SUMMARY).exists():
                check_identity(config, folder, inputs)
                save_identity(config, folder, inputs)
                return _train(config, folder, checkpoints, training_times)
    check_identity(config, folder, inputs)
    if is_rank_zero():
        print(f"{config.stage.name}: already trained, {folder}", flush=True)
    return read_summary(folder)


def _train(
    config: Config,
    folder: Path,
    checkpoints: Mapping[str, Path],
    training_times: Mapping[str, float],
) -> dict[str, float]:
    stage = config.stage.name
    log_start(folder)
    corpora = Corpora(config)
    print_surveys(corpora)
    loaded = {source: StageCheckpoint.load(file) for source, file in checkpoints.items()}
    module, data = build(config, corpora, loaded, folder)
    print_surveys(data)

    resume = ResumeCheckpoint(folder / LAST, config.trainer.checkpoint_every_s)
    progress = ProgressBar(stage, config.trainer.max_steps)
    # the average first: a checkpoint must hold the snapshot of its own update
    trainer = build_trainer(config, folder, [WeightAveraging(config), resume, progress])
    data.check_ranks(trainer.world_size)
    with death_of_helpers_is_a_stop(resume):
        fit(trainer, module, data, folder)

    # from here on every rank has all weights: export and scoring need them
    module = unsharded(module)
    module.check_finite()
    num_trained = module.num_trained()
    export(config, trainer, module, folder)
    # before scoring, which is not training time
    elapsed_s = resume.elapsed_s
    scores = test(trainer, module, data)
    if config.stage.data == "speech":
        scores |= score_unseen(config, corpora, trainer, module)
    summary = scores
    if trainer.is_global_zero:
        scores = {**scores, "params/trained": num_trained}
        summary = write_summary(folder, scores, {**training_times, stage: elapsed_s})
        finish_folder(folder)
        print_summary(folder, summary, module.scored, module.skipped, next_command(stage, folder))
    finish_wandb()
    # other ranks must not go on to a stage that starts from files which the first rank still writes
    trainer.strategy.barrier()
    return summary


def print_surveys(corpora: Corpora | StageData) -> None:
    """Print what the recorded corpora contain, under their names where there are several."""
    if not is_rank_zero():
        return
    surveys = corpora.surveys
    for name, survey in surveys.items():
        heading = f"{name}:\n" if len(surveys) > 1 else ""
        print(f"{heading}{survey}", flush=True)


def build_trainer(config: Config, folder: Path, callbacks: list[L.Callback]) -> L.Trainer:
    """Return Lightning's trainer for endless training data, set up as configured."""
    settings = config.trainer
    hardware = trainer_settings(config)
    hardware["devices"] = num_processes(settings)
    loggers = [JsonlLogger(folder / METRICS_FILE), wandb_logger(config, folder)]
    throughput = ThroughputLogger(config)
    return L.Trainer(
        **hardware,
        max_steps=settings.max_steps,
        max_epochs=-1,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=config.optim.clip,
        # Lightning counts batches here, the configuration counts updates
        val_check_interval=settings.valid_every_steps * settings.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=[logger for logger in loggers if logger is not None],
        log_every_n_steps=LOG_EVERY_STEPS,
        # throughput first: what other callbacks do after a batch belongs to its next interval
        callbacks=[throughput, *callbacks],
        profiler=throughput.data_wait,
        default_root_dir=folder,
        plugins=[AtomicCheckpoints(), *slurm_plugins()],
    )


@contextlib.contextmanager
def death_of_helpers_is_a_stop(resume: ResumeCheckpoint) -> Iterator[None]:
    """Take an error after SIGTERM for what it is: a helper process has got the signal too.

    Slurm signals all processes of a step, among them synthesisers and workers that read data.

    Args:
        resume: callback that has got the signal.

    Raises:
        SIGTERMException: in place of any error after SIGTERM.
    """
    try:
        yield
    except Exception as error:
        if resume.stop_requested:
            raise SIGTERMException from error
        raise


def fit(trainer: L.Trainer, module: StageModule, data: StageData, folder: Path) -> None:
    """Train to the end, from the last checkpoint if an earlier training was killed."""
    point = resume_point(folder)
    if point is None:
        (folder / METRICS_FILE).unlink(missing_ok=True)
        trainer.fit(module, data)
        return
    step = point.step
    if is_rank_zero():
        print(f"{module.config.stage.name}: resuming from update {step}, {point.path}", flush=True)
    # batch k is a function of the configuration and k: those before the checkpoint are left out
    data.start_batch = step * module.config.trainer.accumulate
    JsonlLogger(folder / METRICS_FILE).truncate_after(step)
    trainer.fit(module, data, ckpt_path=point.path, weights_only=True)


def export(config: Config, trainer: L.Trainer, module: StageModule, folder: Path) -> None:
    """Write the stage checkpoint with merged adapters, and the adapters by themselves."""
    if config.lora.enabled:
        if trainer.is_global_zero:
            lora.export(module.model, folder / lora.FOLDER)
        lora.merge(module.model)
    if isinstance(module.model, SpeechLM):
        module.model.lm.merge_rows()
    if trainer.is_global_zero:
        checkpoint = StageCheckpoint(config, module.tokenizer, module.model.state_dict())
        checkpoint.save(folder / FILE)


def test(trainer: L.Trainer, module: StageModule, data: StageData) -> dict[str, float]:
    """Score the stage on its test set; returns the scores by their names, test/..."""
    trainer.test(module, data, verbose=False)
    scores = {}
    for name, value in trainer.callback_metrics.items():
        if name.startswith("test/"):
            scores[name] = float(value)
    return scores


def finish_folder(folder: Path) -> None:
    """Draw learning curves, point runs/latest to the run, remove the resume checkpoints."""
    metrics = []
    for line in read_complete_lines(folder / METRICS_FILE):
        metrics.append({n: v for n, v in line.items() if n not in THROUGHPUT_METRICS})
    draw_curves(metrics, folder / "curves.png", folder.name)
    point_latest(folder)
    for name in (LAST, PREVIOUS):
        (folder / name).unlink(missing_ok=True)


def point_latest(folder: Path) -> None:
    """Make runs/latest a link to a run; where that is not possible, print a note.

    Some file systems have no links, and copies of a folder of runs may have a folder in its place.
    """
    latest = folder.parent / "latest"
    # replaced in one step: another training may end at the same time
    temporary = folder.parent / f".latest.{os.getpid()}"
    try:
        # a relative link, so that the folder of all runs can be moved
        temporary.symlink_to(folder.name)
        os.replace(temporary, latest)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        print(
            f"{latest} cannot be a link to {folder.name} ({error.strerror}): "
            f"name the run itself, RUN={folder}",
            flush=True,
        )


def next_command(stage: str, folder: Path) -> str:
    """Return the command to suggest after a stage: the next stage or an evaluation."""
    for earlier, later in itertools.pairwise(STAGES):
        if earlier == stage:
            return f"make train STAGE={later}"
    return f"make eval-wer RUN={folder} DATA=your/speech"
