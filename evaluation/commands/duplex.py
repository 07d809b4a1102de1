"""Live sessions on test dialogues of the run's own making."""

import argparse
import dataclasses

import torch

from configs.loading import load_config, override
from configs.recipes import stage_file
from datamodules.corpus import UnusableAudio
from datamodules.data import Corpora
from datamodules.dialogue.data import DialogueData
from datamodules.dialogue.dialogues import Dialogue, Dialogues
from evaluation.commands.finished_run import Run, open_run
from evaluation.duplex.dialogues import Heard, Turn
from evaluation.duplex.listen import hear
from evaluation.duplex.report import report, watched
from lightning_modules.sessions import open_sessions

WARM_UP_S = 2
"""Heard before anything is timed: what is built or fetched at first use is."""


def score(asked: argparse.Namespace) -> dict[str, float]:
    """On one thread."""
    run = of_whole_dialogues(open_run(asked.run, []), asked.overrides)
    config = run.config
    open_session = open_sessions(run.given, config, run.folder)
    torch.set_num_threads(1)
    open_session().push(torch.zeros(WARM_UP_S * config.features.sample_rate_hz))
    count = config.data.test_dialogues
    dialogues = DialogueData(config, Corpora(config, splits=["test"])).dialogues("test", count)
    heard = []
    for index in watched(range(count), "dialogues"):
        try:
            dialogue = dialogues[index]
        except UnusableAudio as error:
            print(f"left out: {error}")
            continue
        script = Heard(
            dialogue.id, dialogues.slices.seconds, turns_of(dialogue, dialogues), dialogue.labels
        )
        heard.append(hear(open_session, dialogue.samples, script))
    apart = {"fork": "", "multiplex": " that do not tell incomplete from ignore"}[
        config.duplex.kind
    ]
    what = f"{len(heard)} test dialogues in live sessions{apart}, on {open_session().device.type}"
    return report(heard, run.folder / "scores", run.titled(what))


def of_whole_dialogues(run: Run, overrides: list[str]) -> Run:
    """A run of stage state learnt from dialogues of one event: it is scored on those of stage streaming."""
    config = run.config
    if config.stage.name == "state":
        dialogue = load_config([str(stage_file("streaming")), "encoder.context=causal"]).dialogue
        config = dataclasses.replace(config, dialogue=dialogue)
    return run._replace(config=override(config, overrides))


def turns_of(dialogue: Dialogue, dialogues: Dialogues) -> list[Turn]:
    """The turns of a dialogue, with what should come of them."""
    slice_s = dialogues.slices.seconds
    windows = dialogue.response_windows(slice_s)
    asking = {
        answer.turn: (answer, window)
        for answer, window in zip(dialogue.answers, windows, strict=True)
    }
    turns = []
    for i, turn in enumerate(dialogue.turns):
        window, disturbed_by = range(0), ""
        if i in asking:
            answer, window = asking[i]
            end_s = (answer.begin + 1) * slice_s + dialogues.answer_s(turn.answer)
            disturbed_by = next(
                (later.kind for later in dialogue.turns[i + 1 : i + 2] if later.start_s < end_s), ""
            )
        turns.append(
            Turn(
                turn.kind, turn.start_s, turn.end_s, turn.pause_s, turn.answer, window, disturbed_by
            )
        )
    return turns
