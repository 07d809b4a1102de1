"""Scores Full-Duplex-Bench's items for a model and for baselines."""

import argparse
import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import soundfile as sf
import torch

from duplexmamba.duplex.events import Event
from evaluation.console import print_scores, with_progress, write_lines
from evaluation.duplex.full_duplex_bench.baseline_replies import replies
from evaluation.duplex.full_duplex_bench.items import Item, find_items, listeners_of
from evaluation.duplex.full_duplex_bench.judged import judge_behaviour, rate_interruptions
from evaluation.duplex.full_duplex_bench.rules import Output, scores
from evaluation.duplex.full_duplex_bench.spoken import speak_responses
from evaluation.duplex.full_duplex_bench.words import Word, transcript, words_of
from evaluation.duplex.systems import open_baselines, setting_name
from evaluation.duplex.systems.spans import FindSpans, Span, open_spans
from evaluation.duplex.turn_scores import System
from evaluation.finished_run import Run, open_run, read_recording
from evaluation.voicebench.command import judge_from_environment
from lightning_modules.sessions import open_sessions

EMITTED = "text_emission"
SPOKEN = "spoken"
"""Ways from a model that answers in text to words with times."""
INPUTS = {"input.wav": "output", "clean_input.wav": "clean_output"}
"""Recording -> stem of the files of the model's output."""
Hear = Callable[[np.ndarray], list[Event]]
"""(n,) samples -> events of a new session."""


class Played(NamedTuple):
    """What the model and the baselines said to one item."""

    item: Item
    duration_s: float
    user_spans: list[Span]
    emitted: list[Word]
    spoken: list[Word]
    """Empty if nothing is spoken."""
    clean: list[Word]
    """Words emitted to the recording without the event; empty if there is none."""
    of_baselines: dict[str, list[Word]]
    """Baseline and setting -> words."""


def score(args: argparse.Namespace) -> dict[str, float]:
    """Score both ways of a run, and baselines; writes every item's output.json and clean_output.json.

    With --speak also output.wav and clean_output.wav, for the benchmark's own scripts. Behaviour
    and relevance are rated if the environment names a judge.

    Raises:
        ValueError: the run was not trained on dialogues, or the folder has no items.
        ImportError: a baseline needs a package that is not installed.
    """
    run = open_run(args.run, args.overrides)
    rate_hz = run.config.features.sample_rate_hz
    judge = judge_from_environment()
    baselines = open_baselines(args.baseline, rate_hz)
    open_session = open_sessions(run.checkpoint, run.config, run.folder)
    root = args.folder.resolve()
    items = find_items(root)
    listeners = listeners_of(root)
    find_spans, finder = open_spans(rate_hz)

    # At once: a session computes slice by slice whatever the length of the push.
    def hear(samples: np.ndarray) -> list[Event]:
        return open_session().push(torch.from_numpy(samples))

    # One after the other, so that an interruption leaves the files of the items so far.
    played = []
    for item in with_progress(items, "items"):
        speak = bool(args.speak)
        played.append(play_item(item, run, hear, baselines, find_spans, speak=speak))
    values = scores(_outputs(played, [each.emitted for each in played], listeners), EMITTED)
    if args.speak:
        values |= scores(_outputs(played, [each.spoken for each in played], listeners), SPOKEN)
    # Every item has the same baselines.
    for name in played[0].of_baselines:
        words = [each.of_baselines[name] for each in played]
        for key, value in scores(_outputs(played, words, listeners), EMITTED).items():
            values[f"baseline/{name}/{key}"] = value
    if judge is not None:
        file = run.folder / "scores" / "full_duplex_bench_judge.jsonl"
        rated, problems = rate_interruptions(_interruptions(played), judge, file)
        behaved, more_problems = judge_behaviour(_overlaps(played), judge, file)
        values |= {f"{EMITTED}/{key}": value for key, value in (rated | behaved).items()}
        write_lines(file.with_suffix(".troubles.jsonl"), [*problems, *more_problems])
    title = f"Full-Duplex-Bench, text-emission variant; speech of the user found by {finder}"
    return print_scores(values, run.titled(title))


def play_item(
    item: Item,
    run: Run,
    hear: Hear,
    baselines: Sequence[System],
    find_spans: FindSpans,
    *,
    speak: bool,
) -> Played:
    """Play an item to a session of its own, and write what it says into the item's folder.

    Args:
        item: to be played; one of v1.5 is played without the event too.
        run: gives the sample rate and the pace.
        hear: plays samples to a new session.
        baselines: hear the same recording.
        find_spans: finds the user's speech.
        speak: also write the responses as speech.
    """
    rate_hz = run.config.features.sample_rate_hz
    words: dict[str, list[Word]] = {stem: [] for stem in INPUTS.values()}
    spoken: list[Word] = []
    for name, stem in INPUTS.items():
        if not (item.folder / name).exists():
            continue
        samples = read_recording(item.folder / name, run.config)  # (n,)
        events = hear(samples)
        words[stem] = words_of(events, run.config.duplex.tokens_per_s)
        content = json.dumps(transcript(words[stem]), indent=1)
        (item.folder / f"{stem}.json").write_text(content + "\n")
        if speak:
            said = speak_responses(events, len(samples), rate_hz)
            sf.write(item.folder / f"{stem}.wav", said.samples, rate_hz)
            spoken = said.words if stem == "output" else spoken
    samples = read_recording(item.folder / "input.wav", run.config)
    of_baselines = {}
    for system in baselines:
        heard = system.listen(samples)
        for setting, threshold in system.operating_points.items():
            of_baselines[setting_name(system.name, setting)] = replies(heard, threshold)
    # Only v1.5 measures overlaps with the user's speech.
    user_spans = find_spans(samples) if item.kind == "overlap" else []
    return Played(
        item,
        len(samples) / rate_hz,
        user_spans,
        words["output"],
        spoken,
        words["clean_output"],
        of_baselines,
    )


def _outputs(
    played: Sequence[Played],
    words: Sequence[Sequence[Word]],
    listeners: dict[str, list[float]],
) -> list[tuple[Item, Output]]:
    """Items, and what one system said to them."""
    outputs = []
    for each, of_item in zip(played, words, strict=True):
        timing = listeners.get(each.item.folder.name)
        outputs.append((each.item, Output(of_item, each.duration_s, each.user_spans, timing)))
    return outputs


def _interruptions(played: Sequence[Played]) -> list[tuple[Item, list[Word]]]:
    return [(each.item, each.emitted) for each in played if each.item.kind == "user_interruption"]


def _overlaps(played: Sequence[Played]) -> list[tuple[Item, dict[str, list[Word]]]]:
    """Items of v1.5 with both recordings; the benchmark leaves the others out too."""
    overlaps = []
    for each in played:
        if each.item.kind == "overlap" and each.item.has_clean_input:
            texts = {"output_noisy": each.emitted, "output_clean": each.clean}
            overlaps.append((each.item, texts))
    return overlaps
