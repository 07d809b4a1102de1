"""The graph of stages: which runs a training starts from; missing ones are trained first.

A run's folder is named by a fingerprint of its configuration and of the runs that it starts from.
The same command therefore finds the stages that are trained already, and two trainings share the
stages that they have in common.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from configs.fingerprint import earlier_fingerprint, fingerprint
from configs.loading import load_config
from configs.recipes import STAGES
from configs.schema import Config
from datamodules.corpus_digest import corpus_contents
from duplexmamba.models.connectors import CONNECTORS
from duplexmamba.models.encoders import ENCODERS
from lightning_modules.assembly import check_adapters
from lightning_modules.trainer.checkpoint import checkpoint_file
from lightning_modules.trainer.hardware import (
    num_cores,
    num_processes,
    started_by_launcher,
    trains_on_cpu,
)
from lightning_modules.trainer.identity import INPUTS, holds_training
from lightning_modules.trainer.parallel import run_to_completion, stage_command
from lightning_modules.trainer.run import train_stage
from lightning_modules.trainer.summary import SUMMARY, stage_times


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A run that can be started from."""

    folder: Path
    summary: dict[str, float]
    """Content of its summary.json."""


def train_with_prerequisites(
    args: Sequence[str],
    config: Config,
    finished: dict[str, FinishedRun],
    is_prerequisite: bool = False,
) -> FinishedRun:
    """Train a stage, and before it those that it starts from, each unless that was done before.

    Args:
        args: configuration files and overrides of the command.
        config: configuration of the stage.
        finished: stage -> run, for the stages that this process has finished so far; new ones are
            added.
        is_prerequisite: the requested stage depends on this one.

    Raises:
        ValueError: the configuration does not fit the stage, or a checkpoint does not fit the
        configuration.
    """
    check_adapters(config)
    if is_prerequisite and config.lora_drop.enabled:
        raise ValueError(
            f"lora_drop.enabled=true: stage {config.stage.name} is a prerequisite here; set it on "
            "the command line, where it holds for the requested stage only, or train that stage "
            "by a command of its own and name its folder in stage.init"
        )
    training_times: dict[str, float] = {}
    folders: dict[str, Path] = {}
    for source in checkpoint_sources(config):
        if source not in STAGES:
            folders[source] = Path(source)
            continue
        # two stages may depend on the same one
        if source not in finished:
            source_config = load_config(list(args), source)
            finished[source] = train_with_prerequisites(
                args, source_config, finished, is_prerequisite=True
            )
        folders[source] = finished[source].folder
        training_times |= stage_times(finished[source].summary)
    folder = run_folder(config, [path.name for path in folders.values()])
    if is_prerequisite and _needs_own_command(config, folder):
        run_to_completion(stage_command(args, config.stage.name))
    checkpoints = {source: checkpoint_file(path) for source, path in folders.items()}
    summary = train_stage(config, folder, checkpoints, training_times)
    return FinishedRun(folder, summary)


def _needs_own_command(config: Config, folder: Path) -> bool:
    """Whether the stage has several processes: Lightning starts them by this command again."""
    has_several_processes = num_processes(config.trainer) > 1 and not started_by_launcher()
    return has_several_processes and not (folder / SUMMARY).exists()


def checkpoint_sources(config: Config) -> list[str]:
    """Return the stages, in their order, and then the run folders that a stage starts from."""
    sources = set(config.stage.init.values())
    if config.lm.pretrained:
        # a pretrained language model takes the place of stage lm
        sources.discard("lm")
    if ENCODERS[config.encoder.kind].is_pretrained and not _needs_ctc_head(config):
        sources.discard("encoder")
    return sorted(sources, key=_source_order)


def _needs_ctc_head(config: Config) -> bool:
    """Whether the connector starts from the CTC head that stage encoder trains."""
    return CONNECTORS[config.connector.kind].starts_from_ctc_head


def _source_order(source: str) -> tuple[int, str]:
    position = STAGES.index(source) if source in STAGES else len(STAGES)
    return position, source


def run_folder(config: Config, source_runs: Sequence[str] = ()) -> Path:
    """Return the folder of a run; the same experiment always has the same folder.

    Recorded corpora count by their content. Runs of earlier versions, whose fingerprints did not
    know the content or were made in another way, are found under their own names.

    Args:
        config: configuration of the run.
        source_runs: names of the folders of the runs that it starts from.
    """
    runs = Path(config.run.dir)
    if config.run.id:
        return runs / config.run.id
    prefix = f"{config.stage.name}-{config.preset}"
    digests = [contents.digest for contents in corpus_contents(config).values()]
    folder = runs / f"{prefix}-{fingerprint(config, [*source_runs, *digests])}"
    if folder.exists():
        return folder
    for make_fingerprint in (fingerprint, earlier_fingerprint):
        earlier = runs / f"{prefix}-{make_fingerprint(config, source_runs)}"
        # versions that wrote the inputs also have their digests in the name
        if holds_training(earlier) and not (earlier / INPUTS).exists():
            return earlier
    return folder


def is_trained(args: Sequence[str], config: Config) -> bool:
    """Whether the run of a stage is finished, with the runs that it would start from now.

    Args:
        args: configuration files and overrides of the command.
        config: configuration of the stage.
    """
    return (stage_folder(args, config) / SUMMARY).exists()


def stage_folder(args: Sequence[str], config: Config) -> Path:
    """Return the folder of the run of a stage, trained or not.

    Args:
        args: configuration files and overrides of the command.
        config: configuration of the stage.
    """
    source_runs = []
    for source in checkpoint_sources(config):
        folder = Path(source)
        if source in STAGES:
            folder = stage_folder(args, load_config(list(args), source))
        source_runs.append(folder.name)
    return run_folder(config, source_runs)


def parallel_commands(args: Sequence[str]) -> list[list[str]]:
    """Return commands for root stages to be trained while this process trains another.

    Root stages depend on no other stage. They are trained at the same time where this machine has
    CPU cores for all processes of all of them.

    Args:
        args: configuration files and overrides of the command.
    """
    config = load_config(list(args))
    if not trains_on_cpu(config.trainer) or config.trainer.devices > 1:
        return []
    roots = untrained_roots(args, config)
    num_cores_needed = 0
    for root in roots.values():
        # 0 threads means torch's own choice: one for each core
        threads = root.trainer.threads or num_cores()
        num_cores_needed += threads * num_processes(root.trainer)
    if num_cores_needed > num_cores():
        return []
    # this process trains the first of them itself
    return [stage_command(args, stage) for stage in list(roots)[1:]]


def untrained_roots(args: Sequence[str], config: Config) -> dict[str, Config]:
    """Return the untrained root stages that a stage depends on, in the order of training."""
    untrained: dict[str, Config] = {}
    for source in checkpoint_sources(config):
        if source not in STAGES:
            continue
        source_config = load_config(list(args), source)
        # not a root itself, but its own prerequisites may be
        if checkpoint_sources(source_config):
            untrained |= untrained_roots(args, source_config)
        elif not (run_folder(source_config) / SUMMARY).exists():
            untrained[source] = source_config
    return untrained
