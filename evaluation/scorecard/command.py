"""The scorecard: the scores of runs on one page; missing scores are computed first if possible."""

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
from evaluation.arguments import compute, parser
from evaluation.record import Score
from evaluation.saved_scores import load_scores, save_scores, settings_of
from evaluation.scorecard.card import Card, Gap, SavedScores, flat_scores
from evaluation.scorecard.page import page
from evaluation.scores import SCORES
from lightning_modules.trainer.checkpoint import StageCheckpoint, run_path
from lightning_modules.trainer.logging import log_artifact


def make(args: argparse.Namespace) -> dict[str, float | None]:
    """Write scorecard.html and scorecard.json and log both to W&B.

    Returns:
        All scores of all runs.

    Raises:
        ValueError: a run has no checkpoint, or two runs have the same name.
    """
    runs = [run_path(name) for name in args.runs.split(",") if name]
    # All checkpoints are opened first, so that a mistyped run is noticed before hours of scoring.
    configs: dict[Path, Config] = {}
    for run in runs:
        checkpoint = StageCheckpoint.load(run)
        configs[run.resolve()] = override(checkpoint.config, args.overrides)
    # Runs are told apart by the names of their folders, on the page and in the keys of scores.
    distinct_names = {folder.name for folder in configs}
    if not runs or len(distinct_names) < len(runs):
        raise ValueError(f"CKPT={args.runs}: name one run, or several that have different names")
    cards = [make_card(run, configs[run.resolve()], args) for run in runs]
    scores = flat_scores(cards)
    folder = scorecard_folder(list(configs))
    # Saved before logging, since W&B may be unreachable.
    folder.mkdir(parents=True, exist_ok=True)
    html_file = folder / "scorecard.html"
    json_file = folder / "scorecard.json"
    html_file.write_text(page(cards))
    json_file.write_text(json.dumps(scores, indent=1) + "\n")
    first_config = next(iter(configs.values()))
    names = [card.name for card in cards]
    log_line = log_artifact("scorecard", names, [html_file, json_file], scores, first_config)
    for card in cards:
        for gap in card.gaps:
            print(f"{card.name}: {gap.name}: {gap.reason}. {gap.command}")
    print(log_line)
    print(html_file)
    return scores


def scorecard_folder(runs: Sequence[Path]) -> Path:
    """Folder of the page: in the folder of a single run, next to the folders of several."""
    if len(runs) == 1:
        return runs[0] / "scores" / "scorecard"
    return runs[0].parent / "scorecards" / "+".join(run.name for run in runs)


def make_card(run: Path, config: Config, args: argparse.Namespace) -> Card:
    """Collect the scores of one run and list what is missing.

    Args:
        run: its folder, as named on the command line.
        config: its configuration with the overrides.
        args: arguments of the scorecard.
    """
    folder = run.resolve()
    saved: dict[str, SavedScores] = {}
    gaps: list[Gap] = []
    unsuitable = []
    for score in SCORES.values():
        if config.stage.name not in score.stages:
            unsuitable.append(score.name)
            continue
        arguments = arguments_for(score, run, args)
        scores = load_or_compute(score, arguments, folder, args.as_is)
        if isinstance(scores, SavedScores):
            saved[score.name] = scores
        else:
            gaps.append(Gap(score.name, scores, command_line(arguments)))
    if unsuitable:
        gaps.append(Gap(", ".join(unsuitable), f"cannot score a run of stage {config.stage.name}"))
    # Scores that were computed may still be incomplete, such as those of a part of the items.
    for name, present in saved.items():
        score = SCORES[name]
        if score.gaps is None:
            continue
        own_command = command_line(arguments_for(score, run, args))
        complete_command = command_line([name, str(run), *args.overrides])
        gaps += score.gaps(present.scores, own_command, complete_command)
    summary = folder / "summary.json"
    if summary.exists():
        saved["training"] = SavedScores(json.loads(summary.read_text()), {})
    return Card(folder.name, flatten_config(to_dict(config)), saved, gaps)


def load_or_compute(
    score: Score, arguments: Sequence[str], folder: Path, as_is: bool
) -> SavedScores | str:
    """Load the scores of a command, or compute them if the saved ones have other settings.

    Args:
        score: entry of the registry.
        arguments: command line of the score.
        folder: of the run.
        as_is: load whatever is saved, and compute nothing.

    Returns:
        The scores, or the reason why there are none.
    """
    # Parsed as if typed, so that the saved settings are those of the command of the same name.
    parsed = parser().parse_args(arguments)
    saved = load_scores(folder, score.name)
    cannot_compute = as_is or score.has_own_data
    if saved is not None and (cannot_compute or saved.settings == settings_of(parsed)):
        return saved
    if score.has_own_data:
        return "needs your own copy of the data"
    if as_is:
        return "not scored yet"
    num_threads = torch.get_num_threads()
    try:
        scores = compute(parsed)
    # The page shows the reason; the other scores are computed all the same.
    except (ValueError, ImportError) as error:
        return str(error)
    finally:
        # Scores that measure time set the number of threads to one.
        torch.set_num_threads(num_threads)
    save_scores(parsed, scores)
    return SavedScores(scores, settings_of(parsed))


def arguments_for(score: Score, run: Path, args: argparse.Namespace) -> list[str]:
    """Command line of a score, with the overrides and options of the scorecard passed on."""
    arguments = [score.name, str(run)]
    if score.has_own_data:
        arguments.append("FOLDER")
    arguments += args.overrides
    for option in score.options:
        if not option.on_scorecard:
            continue
        value = getattr(args, option.name)
        if value and value != option.default:
            arguments += [option.flag, str(value)]
    return arguments


def command_line(arguments: Sequence[str]) -> str:
    """The command that a user types."""
    return f"python evaluate.py {shlex.join(arguments)}"


def flatten_config(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested configuration -> dotted keys, without those that do not change the experiment."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = prefix + name
        if key in EXECUTION_ONLY:
            continue
        if isinstance(value, Mapping):
            flat |= flatten_config(value, f"{key}.")
        else:
            flat[key] = value
    return flat
