"""Scores TurnBench's tasks for a model and for baselines, and writes what the benchmark accepts."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from evaluation.console import print_scores, with_progress
from evaluation.duplex.systems import open_baselines
from evaluation.duplex.systems.own import NAME as MODEL
from evaluation.duplex.systems.own import open_model
from evaluation.duplex.turn_scores import System, TurnScores, at
from evaluation.duplex.turnbench import SPEAKERS, TASKS
from evaluation.duplex.turnbench.conversations import (
    NUM_DEV,
    Conversation,
    check_gold,
    read_conversations,
)
from evaluation.duplex.turnbench.files import (
    check_predictions,
    check_probabilities,
    predictions_file,
    probabilities_file,
    write,
)
from evaluation.duplex.turnbench.floor import held_by, holders
from evaluation.duplex.turnbench.gold import TaskGold
from evaluation.duplex.turnbench.scoring import Tally, scores_of, tally
from evaluation.duplex.turnbench.sweep import Probabilities, choose, commit_all, num_frames
from evaluation.finished_run import open_run, read_recording
from evaluation.record import ScoreValue

MAX_FRAME_RATE_HZ = 25.0
"""Baselines that score more often are sampled at this rate, to keep the files small."""
INT_THRESHOLD = 0.5
"""Threshold of interruptions where there is no gold to choose one with."""

Heard = Mapping[str, Mapping[str, Probabilities]]
"""Task -> conversation -> speaker -> probability in each frame."""


class SystemRun:
    """Probabilities of one system in all conversations."""

    def __init__(self, system: System):
        self.system = system
        self.frame_rate_hz = 0.0
        self.heard: dict[str, dict[str, Probabilities]] = {task: {} for task in TASKS}

    def hear(
        self,
        conversation: Conversation,
        channels: Mapping[int, np.ndarray],
        holder: np.ndarray,
        duration_s: float,
    ) -> None:
        """Score both channels of a conversation.

        Args:
            conversation: names the scores.
            channels: speaker -> (n,) samples.
            holder: who holds the floor, from `holders`.
            duration_s: length of the audio at its own sample rate.
        """
        heard: dict[str, dict[int, list[float]]] = {task: {} for task in TASKS}
        for speaker in SPEAKERS:
            # The other speaker is left out: a session takes all speech for that of its user.
            scores = self.system.listen(channels[speaker])
            self.frame_rate_hz = frame_rate_of(scores)
            count = num_frames(duration_s, self.frame_rate_hz)
            ends_s = np.arange(1, count + 1) / self.frame_rate_hz
            heard["eot"][speaker] = at(scores, scores.ended, ends_s).tolist()
            # Speech that the model takes for speech to it interrupts whoever holds the floor.
            interrupts = at(scores, scores.addressed, ends_s)
            interrupts = interrupts * held_by(holder, 3 - speaker, ends_s)
            heard["int"][speaker] = interrupts.tolist()
        for task in TASKS:
            self.heard[task][conversation.id] = heard[task]


def frame_rate_of(scores: TurnScores) -> float:
    """Steps of a system in a second, at most `MAX_FRAME_RATE_HZ`."""
    # Ends of steps of 0.2 s are multiples of it up to rounding.
    step_s = round(float(np.median(np.diff(scores.times_s, prepend=0.0))), 6)
    return min(MAX_FRAME_RATE_HZ, round(1 / step_s, 6))


def score(args: argparse.Namespace) -> dict[str, float]:
    """Score a run and the baselines on the conversations that have gold.

    Writes predictions-dev.json, predictions-test.json, probs-eot.json and probs-int.json for each
    system into scores/turnbench/<system>/.

    Raises:
        ValueError: the run was not trained on dialogues, or the data are not as published.
        ImportError: a baseline needs a package that is not installed.
    """
    run = open_run(args.run, args.overrides)
    rate_hz = run.config.features.sample_rate_hz
    # The model first: its scores have no prefix, and its files are those to submit.
    systems = [open_model(run), *open_baselines(args.baseline, rate_hz)]
    runs = [SystemRun(system) for system in systems]
    conversations = read_conversations(args.folder.resolve())
    # All are checked before the first is heard, which takes hours.
    durations_s = {each.id: each.duration_s() for each in conversations}
    for conversation in conversations:
        check_gold(conversation, durations_s[conversation.id])
    for conversation in with_progress(conversations, "conversations"):
        channels = {}
        for speaker, (source, channel) in conversation.audio.items():
            channels[speaker] = read_recording(source, run.config, channel)
        # The same for all systems, since it is a property of the conversation.
        holder = holders(channels, rate_hz)
        for each in runs:
            each.hear(conversation, channels, holder, durations_s[conversation.id])
    values: dict[str, ScoreValue] = {}
    for each in runs:
        prefix = "" if each.system.name == MODEL else f"baseline/{each.system.name}/"
        folder = run.folder / "scores" / "turnbench" / each.system.name
        for key, value in score_system(each, conversations, durations_s, folder).items():
            values[prefix + key] = value
    # Gold is published for dev alone.
    num_dev = sum(each.gold is not None for each in conversations)
    values["data/official"] = ScoreValue(float(num_dev == NUM_DEV), num_dev)
    submission = run.folder / "scores" / "turnbench" / MODEL
    title = (
        f"TurnBench, {num_dev} of {len(conversations)} conversations with gold; submission: "
        f"{submission}"
    )
    return print_scores(values, run.titled(title))


def score_system(
    heard: SystemRun,
    conversations: Sequence[Conversation],
    durations_s: Mapping[str, float],
    folder: Path,
) -> dict[str, ScoreValue]:
    """Choose the thresholds of a system on the dev split, write its files and score it.

    Args:
        heard: the system and its probabilities.
        conversations: those with gold are the dev split.
        durations_s: conversation -> length.
        folder: receives the files.

    Returns:
        Scores of each task over all conversations with gold, and over those of each type.
    """
    thresholds: dict[str, float] = {}
    values: dict[str, ScoreValue] = {}
    dev = [each for each in conversations if each.gold is not None]
    for task in TASKS:
        # Each task by itself, as the benchmark chooses for its baselines.
        choice = choose(_with_gold(heard, dev, task), heard.frame_rate_hz)
        if choice is not None:
            thresholds[task] = choice.threshold
        elif task == "eot":
            # No gold, or too many false positives at every threshold: as in use.
            thresholds[task] = next(iter(heard.system.operating_points.values()))
        else:
            thresholds[task] = INT_THRESHOLD
        values[f"{task}/num_threshold"] = ScoreValue(thresholds[task], len(dev))
    predicted = {each.id: _predict(heard, each.id, thresholds) for each in conversations}
    _write_files(heard, predicted, dev, durations_s, folder)
    for task in TASKS:
        tallies: dict[str, Tally] = {"": Tally()}
        for conversation in dev:
            assert conversation.gold is not None
            result = tally(conversation.gold[task], predicted[conversation.id][task])
            tallies[""] += result
            # The kind is not known where the audio is not from the published files.
            if conversation.kind:
                key = f"by_type/{conversation.kind}/"
                tallies[key] = tallies.get(key, Tally()) + result
        for prefix, result in tallies.items():
            for name, value in scores_of(result).items():
                values[f"{task}/{prefix}{name}"] = value
    return values


def _with_gold(
    heard: SystemRun, dev: Sequence[Conversation], task: str
) -> list[tuple[Probabilities, TaskGold]]:
    pairs = []
    for conversation in dev:
        assert conversation.gold is not None
        pairs.append((heard.heard[task][conversation.id], conversation.gold[task]))
    return pairs


def _predict(
    heard: SystemRun, name: str, thresholds: Mapping[str, float]
) -> dict[str, dict[int, list[float]]]:
    """Times of the events of a conversation, by task and speaker."""
    times_s = {}
    for task, threshold in thresholds.items():
        probabilities = heard.heard[task][name]
        times_s[task] = commit_all(probabilities, heard.frame_rate_hz, threshold)
    return times_s


def _write_files(
    heard: SystemRun,
    predicted: Mapping[str, Mapping[str, Mapping[int, Sequence[float]]]],
    dev: Sequence[Conversation],
    durations_s: Mapping[str, float],
    folder: Path,
) -> None:
    """Write predictions of both splits, and probabilities of dev, which alone is swept."""
    folder.mkdir(parents=True, exist_ok=True)
    dev_names = [each.id for each in dev]
    splits = {"dev": dev_names, "test": [name for name in predicted if name not in dev_names]}
    for split, names in splits.items():
        # A folder may hold one split alone; the checker refuses files without conversations.
        if not names:
            continue
        lengths_s = {name: durations_s[name] for name in names}
        content = predictions_file({name: predicted[name] for name in names})
        check_predictions(content, lengths_s)
        write(content, folder / f"predictions-{split}.json")
        if split == "dev":
            _write_probabilities(heard, lengths_s, folder)


def _write_probabilities(heard: SystemRun, lengths_s: Mapping[str, float], folder: Path) -> None:
    for task in TASKS:
        probabilities = {name: heard.heard[task][name] for name in lengths_s}
        content = probabilities_file(task, heard.frame_rate_hz, probabilities)
        check_probabilities(content, lengths_s)
        write(content, folder / f"probs-{task}.json")
