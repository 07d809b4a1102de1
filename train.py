"""Train a stage, and first the stages it stands on where their checkpoints are missing.

python train.py configs/preset/tiny.yaml configs/stage/asr.yaml optim.lr=1e-3
"""

import contextlib
import errno
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
import wandb
from lightning.pytorch.utilities.exceptions import SIGTERMException

from datamodules.corpus import Utterance
from datamodules.data import Corpora, StageData
from duplexmamba.config import STAGES, Config, fingerprint, load_config, save_config
from duplexmamba.lm import load_pretrained
from duplexmamba.model import Ear, SpeechLM
from duplexmamba.tokens import Tokens
from lightning_modules.callbacks import LAST, Bar, Resume
from lightning_modules.handover import FILE, AtomicCheckpoints, Average, HandOver, take_parts
from lightning_modules.kinds import KINDS
from lightning_modules.lm import TextModel
from lightning_modules.logs import JsonlLogger, draw_curves, read_metrics, wandb_logger
from lightning_modules.stage import StageModule
from lightning_modules.summary import print_summary, write_summary

FITTED_ON = 64
"""Training utterances from which the normalisation of the features is taken."""


def main(args: list[str]) -> dict[str, float]:
    """Train what is missing; returns the summary of the asked stage."""
    config = load_config(args)
    given: dict[str, HandOver] = {}
    seconds: dict[str, float] = {}
    for source in sources(config):
        folder = Path(source)
        if source in STAGES:
            beneath = load_config(args, source)
            seconds |= times(train_stage(beneath, {}, {}))
            folder = run_folder(beneath)
        given[source] = HandOver.load(folder / FILE)
    return train_stage(config, given, seconds)


def sources(config: Config) -> list[str]:
    """Stages, in their order, and run folders whose hand-over this stage starts from."""
    named = {s for part, s in config.stage.init.items() if not (part == "lm" and config.lm.pretrained)}
    return sorted(named, key=lambda s: STAGES.index(s) if s in STAGES else len(STAGES))


def run_folder(config: Config) -> Path:
    """Where a run lies: the same experiment, the same folder."""
    return Path(config.run.dir) / (config.run.id or f"{config.stage.name}-{config.preset}-{fingerprint(config)}")


def times(summary: dict[str, float]) -> dict[str, float]:
    """Stage -> seconds."""
    found = {name: s for name, s in summary.items() if name.startswith("time/") and name != "time/total_s"}
    return {name.removeprefix("time/").removesuffix("_s"): s for name, s in found.items()}


def train_stage(config: Config, given: dict[str, HandOver], seconds: dict[str, float]) -> dict[str, float]:
    """Train, score and hand over one stage, or find that this was done.

    Args:
        given: the hand-overs it starts from, by stage or folder.
        seconds: what those stages took.
    """
    folder, stage = run_folder(config), config.stage.name
    done = folder / "summary.json"
    if done.exists():
        print(f"{stage}: trained before, {folder}", flush=True)
        return json.loads(done.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    save_config(config, folder / "config.yaml")
    corpora = Corpora(config)
    if corpora.survey:
        print(corpora.survey, flush=True)
    module, data = build(config, corpora, given, folder)
    resume = Resume(folder / LAST, config.trainer.checkpoint_every_s)
    trainer = build_trainer(config, folder, [resume, Average(config), Bar(stage, config.trainer.max_steps)])
    fit(trainer, module, data, folder)
    if trainer.is_global_zero:
        HandOver(config, module.tokens, module.model.state_dict()).save(folder / FILE)
    elapsed = resume.elapsed_s
    trainer.test(module, data, verbose=False)
    scores = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
    summary = scores
    if trainer.is_global_zero:
        summary = write_summary(folder, scores, {**seconds, stage: elapsed})
        draw_curves(read_metrics(folder / "metrics.jsonl"), folder / "curves.png", folder.name)
        point_latest(folder)
        (folder / LAST).unlink(missing_ok=True)
        print_summary(folder, summary, module.scored, module.skipped, next_command(config))
    wandb.finish()  # the next stage of this process is a run of its own
    trainer.strategy.barrier()
    return summary


def build(config: Config, corpora: Corpora, given: dict[str, HandOver], folder: Path) -> tuple[StageModule, StageData]:
    """The stage's module, with the weights it starts from, and its data."""
    model_kind, module_kind, data_kind = KINDS[config.stage.name]
    tokens = find_tokens(config, corpora, given, folder)
    torch.manual_seed(config.seed)
    model = model_kind(config)
    for source, hand_over in given.items():
        take_parts(model, hand_over, [part for part, s in config.stage.init.items() if s == source], source)
    if config.lm.pretrained and isinstance(model, SpeechLM | TextModel):
        load_pretrained(model.lm, config.lm.pretrained)
    if isinstance(model, Ear) and "features" not in config.stage.init:
        fit_features(model, corpora)
    return module_kind(config, model, tokens), data_kind(config, corpora)


def fit_features(model: Ear, corpora: Corpora) -> None:
    """Take the normalisation of the features from the first training utterances that can be read."""
    heard = [corpora.stream[i] for i in range(FITTED_ON)]
    usable = [torch.from_numpy(u.samples) for u in heard if isinstance(u, Utterance)]
    if not usable:
        raise ValueError(f"none of the first {FITTED_ON} training utterances can be used: {heard[0]}; mend the corpus")
    model.features.fit(usable)


def find_tokens(config: Config, corpora: Corpora, given: dict[str, HandOver], folder: Path) -> Tokens | None:
    """Those of the language model; the encoder needs none."""
    if config.stage.name == "encoder":
        return None
    if config.stage.init.get("lm") in given:
        return given[config.stage.init["lm"]].tokens
    made = folder / "tokenizer.json"
    if config.tokenizer.source != "bpe":
        tokens = Tokens.load(config.tokenizer.source)
    else:
        tokens = Tokens.from_json(made.read_text()) if made.exists() else Tokens.train(corpora.training_texts())
    made.write_text(tokens.to_json())
    if tokens.size > config.lm.vocab_size:
        raise ValueError(
            f"lm.vocab_size={config.lm.vocab_size} is less than the tokenizer's {tokens.size}; set it to that or more"
        )
    return tokens


def build_trainer(config: Config, folder: Path, callbacks: list[L.Callback]) -> L.Trainer:
    """Lightning's trainer over endless data."""
    c = config.trainer
    loggers = [JsonlLogger(folder / "metrics.jsonl"), wandb_logger(config, folder)]
    return L.Trainer(
        **trainer_settings(config), max_steps=c.max_steps, max_epochs=-1, accumulate_grad_batches=c.accumulate,
        gradient_clip_val=config.optim.clip, val_check_interval=c.valid_every_steps * c.accumulate,
        check_val_every_n_epoch=None, num_sanity_val_steps=0, logger=[logger for logger in loggers if logger],
        log_every_n_steps=10, callbacks=callbacks, default_root_dir=folder,
        plugins=[AtomicCheckpoints()],
    )  # fmt: skip


def trainer_settings(config: Config) -> dict[str, Any]:
    """Hardware and precision, the same for training and scoring; progress and checkpoints are ours."""
    c = config.trainer
    torch.set_float32_matmul_precision(c.matmul_precision)
    if c.threads:
        torch.set_num_threads(c.threads)
    precision = c.precision
    if precision == "auto":
        precision = "bf16-mixed" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "32-true"
    return {
        "accelerator": c.accelerator, "devices": c.devices, "precision": precision, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "use_distributed_sampler": False,
    }  # fmt: skip


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


def next_command(config: Config) -> str:
    """What a newcomer does after this stage."""
    after = {"encoder": "make train STAGE=lm", "lm": "make train STAGE=asr"}
    return after.get(config.stage.name, f"make eval-wer RUN={run_folder(config)} DATA=your/speech")


def quieten() -> None:
    """Keep the libraries' advertisements and known, harmless warnings off the screen."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")  # 1-channel convolution


@contextlib.contextmanager
def exit_cleanly() -> Iterator[None]:
    """Turn what a user can mend into one sentence and an exit code: 2 bad input, 1 disk full, 143 SIGTERM."""
    try:
        yield
    except SIGTERMException:
        print("stopped by SIGTERM: the same command goes on from here", file=sys.stderr)
        sys.exit(143)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (OSError, RuntimeError) as error:
        if not disk_full(error):
            raise
        print(f"error: disk full ({error}); make room: the same command goes on where it was", file=sys.stderr)
        sys.exit(1)


def disk_full(error: BaseException | None) -> bool:
    """Whether that is what an error, or one beneath it, comes from: torch wraps what it meets while it writes."""
    while error is not None:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return True
        error = error.__context__
    return False


if __name__ == "__main__":
    quieten()
    with exit_cleanly():
        main(sys.argv[1:])
