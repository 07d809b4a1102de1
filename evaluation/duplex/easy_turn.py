"""Easy-Turn (arXiv 2509.23938): is a clip a complete turn, an incomplete one, a back-channel, or a
request to wait?

Clips are found by lists (`*.jsonl`, `*.list`: a JSON object a line, with `wav` and with `state` or
a `txt` that ends with <COMPLETE>, ...), or by folders named after the states.
"""

import argparse
import json
import re
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evaluation.console import print_scores, with_progress
from evaluation.duplex.systems import open_baselines, setting_name
from evaluation.duplex.systems.own import NAME as MODEL
from evaluation.duplex.systems.own import open_model
from evaluation.duplex.turn_scores import TIME_SLACK_S, TurnScores
from evaluation.finished_run import open_run, read_recording
from evaluation.record import ScoreValue

EXPECTED = {
    "complete": "response",
    "incomplete": "incomplete",
    "backchannel": "ignore",
    "wait": "ignore",
}
"""State of a clip -> turn state that is right. Systems here do not tell a back-channel from a request
to wait, as the published ones do, so the accuracies of these two are not official."""
TAG = re.compile(r"<(COMPLETE|INCOMPLETE|BACKCHANNEL|WAIT)>\s*$")
SILENCE_S = 0.4
"""Silence after a clip: two slices, in the first of which a turn has settled."""


class Clip(NamedTuple):
    """A sound and its state."""

    wav: Path
    state: str


def find_clips(folder: Path) -> list[Clip]:
    """Find the clips below a folder.

    Raises:
        ValueError: there is none, or a line of a list has no sound or an unknown state.
    """
    # Where there are lists, wav files that none of them names are no clips.
    lists = sorted([*folder.rglob("*.jsonl"), *folder.rglob("*.list")])
    clips = [clip for file in lists for clip in _listed(file)]
    if not lists:
        clips = [clip for clip in map(_in_folder, sorted(folder.rglob("*.wav"))) if clip]
    if not clips:
        raise ValueError(
            f"{folder}: no list (*.jsonl, *.list) and no folders {', '.join(EXPECTED)} with wav in "
            "it; download ASLP-lab/Easy-Turn-Testset"
        )
    return clips


def _listed(file: Path) -> Iterator[Clip]:
    for number, line in enumerate(file.read_text().split("\n"), 1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            entry = json.loads(line)
            wav = file.parent / entry["wav"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{where}: no JSON with `wav` ({error}); fetch it again") from None
        tag = TAG.search(entry.get("txt", ""))
        state = str(entry.get("state") or (tag[1] if tag else "")).lower()
        if state not in EXPECTED:
            raise ValueError(
                f"{where}: unknown state {state!r}; it must be one of {', '.join(EXPECTED)}"
            )
        if not wav.is_file():
            raise ValueError(f"{where}: no file {wav}; put the sounds beside the list")
        yield Clip(wav, state)


def _in_folder(wav: Path) -> Clip | None:
    """A clip whose state is the name of a folder above it; None: there is no such folder."""
    for folder in wav.parents:
        if folder.name.lower() in EXPECTED:
            return Clip(wav, folder.name.lower())
    return None


def turn_state(scores: TurnScores, clip_s: float, threshold: float) -> str:
    """Turn state that a system gives to a clip.

    Args:
        scores: of the clip and `SILENCE_S` after it.
        clip_s: length of the clip.
        threshold: on `ended`.

    Returns:
        `response` if the turn ends in the last 0.4 s of the clip or in the silence after it: clips
        end with silence of unknown length. Else the likelier other state at the end.
    """
    settled = scores.ended[scores.times_s > clip_s - SILENCE_S + TIME_SLACK_S]
    if len(settled) and settled.max() >= threshold:
        return "response"
    # 1 - ignore = response + incomplete, so this is where incomplete is at least as likely.
    ignored = 1 - scores.addressed[-1]
    incomplete = scores.addressed[-1] - scores.ended[-1]
    return "incomplete" if incomplete >= ignored else "ignore"


def scores_of(predicted: Mapping[Clip, str]) -> dict[str, ScoreValue]:
    """Accuracy of each state."""
    values = {}
    for state, expected in EXPECTED.items():
        cases = [named == expected for clip, named in predicted.items() if clip.state == state]
        if cases:
            values[f"{state}/accuracy"] = ScoreValue(statistics.fmean(cases), len(cases))
    return values


def score(args: argparse.Namespace) -> dict[str, float]:
    """Score a run and baselines.

    Raises:
        ValueError: the run was not trained on dialogues, or the folder has no clips.
        ImportError: a baseline needs a package that is not installed.
    """
    run = open_run(args.run, args.overrides)
    rate_hz = run.config.features.sample_rate_hz
    systems = [open_model(run), *open_baselines(args.baseline, rate_hz)]
    clips = find_clips(args.folder.resolve())
    predicted: dict[str, dict[Clip, str]] = {}
    for clip in with_progress(clips, "clips"):
        samples = read_recording(clip.wav, run.config)
        silence = np.zeros(round(SILENCE_S * rate_hz), np.float32)
        for system in systems:
            scores = system.listen(np.concatenate([samples, silence]))
            for setting, threshold in system.operating_points.items():
                name = MODEL if system.name == MODEL else setting_name(system.name, setting)
                state = turn_state(scores, len(samples) / rate_hz, threshold)
                predicted.setdefault(name, {})[clip] = state
    values: dict[str, ScoreValue] = {}
    for name, states in predicted.items():
        prefix = "" if name == MODEL else f"baseline/{name}/"
        values |= {prefix + key: value for key, value in scores_of(states).items()}
    return print_scores(values, run.titled(f"Easy-Turn, {len(clips)} clips"))
