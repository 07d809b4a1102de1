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
from configs.schema import Config
from evaluation.commands.arguments import parser, score
from evaluation.commands.saved_scores import keep, kept, settings_of
from evaluation.scorecard import voicebench
from evaluation.scorecard.card import Card, Gap, Part, flat
from evaluation.scorecard.page import page
from evaluation.scores import SCORES
from lightning_modules.trainer.checkpoint import StageCheckpoint
from lightning_modules.trainer.logging import log_artifact

RUN_SCORES = {name: score for name, score in SCORES.items() if score.stages}
"""Scores of single runs, which a scorecard shows."""


def make(asked: argparse.Namespace) -> dict[str, float | None]:
    """Writes scorecard.html and scorecard.json and logs both to W&B; returns all scores.

    Raises:
        ValueError: a run that is not there, or is named twice.
    """
    runs = [Path(word) for word in asked.runs.split(",") if word]
    configs = {
        run.resolve(): override(StageCheckpoint.load(run).config, asked.overrides) for run in runs
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
    for command, entry in RUN_SCORES.items():
        if stage not in entry.stages:
            continue
        words = words_of(command, run, asked)
        found = part(words, folder, asked.as_is)
        if isinstance(found, Part):
            parts[command] = found
        else:
            gaps.append(Gap(command, found, said(words)))
    if unfit := [command for command, entry in RUN_SCORES.items() if stage not in entry.stages]:
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
        as_is or SCORES[own.score].has_own_data or there.settings == settings_of(own)
    ):
        return there
    if SCORES[own.score].has_own_data:
        return "needs your own copy of the data"
    if as_is:
        return "not scored yet"
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
    entry = SCORES[command]
    folder = ["FOLDER"] if entry.has_own_data else []
    words = [command, str(run), *folder, *asked.overrides]
    for name, value in entry.scorecard_options(asked).items():
        if value:
            words += [name, str(value)]
    return words


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
