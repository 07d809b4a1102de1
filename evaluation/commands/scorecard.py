"""Checkpoints on one page: scores that are there, scores that are made for it, and what cannot be had."""

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from configs.fingerprint import EXECUTION_ONLY
from configs.loading import override, to_dict
from configs.recipes import DIALOGUE_STAGES
from configs.schema import Config
from evaluation.commands.arguments import BATCH, parser, score
from evaluation.commands.finished_run import HEARING
from evaluation.commands.saved_scores import keep, kept, settings_of
from evaluation.scorecard import voicebench
from evaluation.scorecard.card import Card, Gap, Part, flat
from evaluation.scorecard.page import page
from lightning_modules.trainer.checkpoint import FILE, StageCheckpoint
from lightning_modules.trainer.logging import log_artifact

STAGES = {
    "wer": ("encoder", *HEARING), "voicebench": HEARING, "duplex": DIALOGUE_STAGES,
    "speed": ("encoder", "lm", *HEARING), "full-duplex-bench": DIALOGUE_STAGES, "turnbench": DIALOGUE_STAGES,
}  # fmt: skip
"""Whose runs can be scored so, by command."""
NEED_DATA = ("full-duplex-bench", "turnbench")
"""Cannot be made here: their data are the user's own."""


def make(asked: argparse.Namespace) -> dict[str, float | None]:
    """Writes scorecard.html and scorecard.json and logs both to W&B; returns all scores.

    Raises:
        ValueError: a run that is not there, or is named twice.
    """
    runs = [Path(word) for word in asked.runs.split(",") if word]
    configs = {
        run.resolve(): override(StageCheckpoint.load(run / FILE).config, asked.overrides)
        for run in runs
    }
    if not runs or len({folder.name for folder in configs}) < len(runs):
        raise ValueError(f"CKPT={asked.runs}: name one run, or several that have different names")
    cards = [card(run, configs[run.resolve()], asked) for run in runs]
    values, names = flat(cards), [card.name for card in cards]
    folder = place([*configs])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scorecard.html").write_text(page(cards))
    (folder / "scorecard.json").write_text(json.dumps(values, indent=1) + "\n")
    files = [folder / "scorecard.html", folder / "scorecard.json"]
    sent = log_artifact("scorecard", names, files, values, next(iter(configs.values())))
    missing = [
        f"{one.name}: {gap.what}: {gap.why}. {gap.command}" for one in cards for gap in one.gaps
    ]
    print("\n".join([*missing, sent, str(files[0])]))
    return values


def place(runs: Sequence[Path]) -> Path:
    """The folder of a scorecard: in that of its run, or beside those of its runs."""
    if len(runs) == 1:
        return runs[0] / "scores" / "scorecard"
    return runs[0].parent / "scorecards" / "+".join(run.name for run in runs)


def card(run: Path, config: Config, asked: argparse.Namespace) -> Card:
    """All of one checkpoint."""
    folder, stage = run.resolve(), config.stage.name
    parts: dict[str, Part] = {}
    gaps: list[Gap] = []
    for command, stages in STAGES.items():
        if stage not in stages:
            continue
        words = words_of(command, run, asked)
        found = part(words, folder, asked.as_is)
        if isinstance(found, Part):
            parts[command] = found
        else:
            gaps.append(Gap(command, found, said(words)))
    if unfit := [command for command, stages in STAGES.items() if stage not in stages]:
        gaps.append(Gap(", ".join(unfit), f"cannot score a run of stage {stage}"))
    if "voicebench" in parts:
        whole = said(["voicebench", str(run), *asked.overrides])
        own = said(words_of("voicebench", run, asked))
        gaps += voicebench.gaps(parts["voicebench"].scores, own, whole)
    if (summary := folder / "summary.json").exists():
        parts["training"] = Part(json.loads(summary.read_text()), {})
    return Card(folder.name, flattened(to_dict(config)), parts, gaps)


def part(words: Sequence[str], folder: Path, as_is: bool) -> Part | str:
    """The scores of a command: those that are there if it would find the same, else new ones; or why there are none."""
    own = parser().parse_args(words)
    there = kept(folder, own.score)
    if there is not None and (
        as_is or own.score in NEED_DATA or there.settings == settings_of(own)
    ):
        return there
    if as_is or own.score in NEED_DATA:
        return "needs your own copy of the data" if own.score in NEED_DATA else "not scored yet"
    threads = torch.get_num_threads()
    try:
        scores = score(own)
    except (ValueError, ImportError) as error:
        return str(error)
    finally:
        torch.set_num_threads(threads)  # some commands are timed on one
    keep(own, scores)
    return Part(scores, settings_of(own))


def words_of(command: str, run: Path, asked: argparse.Namespace) -> list[str]:
    """What evaluate.py is asked."""
    words = [command, str(run), *(["FOLDER"] if command in NEED_DATA else []), *asked.overrides]
    if command != "voicebench":
        return words
    options = {
        "--subsets": asked.subsets, "--limit": asked.limit, "--data": asked.data, "--mode": asked.mode,
        "--batch": asked.batch if asked.batch != BATCH else None,
    }  # fmt: skip
    return words + [word for name, value in options.items() if value for word in (name, str(value))]


def said(words: Sequence[str]) -> str:
    return f"python evaluate.py {shlex.join(words)}"


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested maps -> dotted names, without what makes no other experiment."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if prefix + name not in EXECUTION_ONLY:
            nested = isinstance(value, Mapping)
            found |= flattened(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return found
