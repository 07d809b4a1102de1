"""Live sessions of a finished run on test dialogues."""

import argparse
import dataclasses
from collections.abc import Mapping

import torch

from configs.loading import load_config, override
from configs.recipes import stage_file
from configs.schema import Config, SharesConfig
from datamodules.corpora import Corpora
from datamodules.corpus import UnusableAudio
from datamodules.dialogue.data import DialogueData
from datamodules.dialogue.dialogues import Dialogue, Dialogues, open_dialogues
from datamodules.synthetic.voices import Voices, open_unseen_voices
from evaluation.console import with_progress
from evaluation.duplex.dialogues import PlayedDialogue, Turn
from evaluation.duplex.heard_turns import HeardTurns
from evaluation.duplex.play import ObserveState, OpenSession, play
from evaluation.duplex.report import report
from evaluation.duplex.systems import open_baselines
from evaluation.duplex.systems.own import never_answering
from evaluation.duplex.systems_report import report_systems
from evaluation.duplex.unaddressed import find_recordings, play_unaddressed
from evaluation.finished_run import Run, open_run
from lightning_modules.sessions import open_sessions

WARM_UP_S = 2
"""Seconds of silence before timing starts: kernels are built and memory is allocated at first
use."""
UTTERANCES_PER_DIALOGUE = 2
"""Utterances outside the grammar that are scored for each of `data.test_dialogues`."""
UTTERANCE_GAP_S = [0.3, 1.0]
"""Range of the silence before such an utterance, and after the expected response to it."""
RESTRICTIONS = {"multiplex": " that do not tell incomplete from ignore"}
"""Kind of session -> what the title says about it; nothing about other kinds."""


def score(args: argparse.Namespace) -> dict[str, float]:
    """Play the test dialogues of a run to live sessions, on one CPU thread or the GPU.

    With data.test_voices they are spoken by those synthesisers.

    Raises:
        ValueError: the run was not trained on dialogues.
    """
    run = with_whole_dialogues(open_run(args.run, []), args.overrides)
    config = run.config
    open_session = open_sessions(run.checkpoint, config, run.folder)
    # A slice is too little work to gain from several threads.
    torch.set_num_threads(1)
    open_session().push(torch.zeros(WARM_UP_S * config.features.sample_rate_hz))
    data = DialogueData(config, Corpora(config, splits=["test"]))
    voices = None
    speakers = ""
    if config.data.test_voices:
        voices = open_unseen_voices(config.data)
        speakers = f" in the voices of {', '.join(config.data.test_voices)}"
    dialogues = data.dialogues("test", config.data.test_dialogues, voices)
    # Opened first, so that a missing package or folder is not noticed only after minutes.
    if config.data.test_unaddressed is not None:
        find_recordings(config.data.test_unaddressed)
    heard = open_comparison(run, args.baseline)
    played = play_all(open_session, dialogues, config.data.test_dialogues, heard)
    count = UTTERANCES_PER_DIALOGUE * config.data.test_dialogues
    utterances = play_all(open_session, outside_the_grammar(config, count, voices), count)
    unaddressed: list[PlayedDialogue] = []
    if config.data.test_unaddressed is not None:
        unaddressed = play_unaddressed(config.data.test_unaddressed, open_session)
    restriction = RESTRICTIONS.get(config.duplex.kind, "")
    device = open_session().device.type
    title = f"{len(played)} test dialogues{speakers} in live sessions{restriction}, on {device}"
    values = report(played, utterances, unaddressed, run.folder, run.titled(title))
    if heard is not None:
        values |= report_systems(heard.of_system, config, run.folder, run.titled(title))
    return values


def open_comparison(run: Run, names: str) -> HeardTurns | None:
    """Open the baselines that BASELINE names; None if it names none.

    Raises:
        ValueError: a name is unknown.
        ImportError: a baseline needs a package that is not installed.
    """
    if not names:
        return None
    baselines = open_baselines(names, run.config.features.sample_rate_hz)
    listener = open_sessions(run.checkpoint, never_answering(run.config), run.folder)
    return HeardTurns(listener, baselines)


def play_all(
    open_session: OpenSession,
    dialogues: Dialogues,
    count: int,
    heard: HeardTurns | None = None,
) -> list[PlayedDialogue]:
    """Play the first `count` dialogues; those with unusable audio are named and left out.

    Args:
        open_session: opens a session for each dialogue.
        dialogues: at least `count`.
        count: number of dialogues.
        heard: collects what other systems say of the same dialogues; None for no comparison.
    """
    played = []
    for index in with_progress(range(count), "dialogues"):
        try:
            dialogue = dialogues[index]
        except UnusableAudio as error:
            print(f"left out: {error}")
            continue
        turns = turns_of(dialogue, dialogues)
        script = PlayedDialogue(dialogue.id, dialogues.slices.seconds, turns, dialogue.known_labels)
        observers: Mapping[int, ObserveState] = {}
        if heard is not None:
            observers = heard.observers(script, dialogue.samples)
        played.append(play(open_session, dialogue.samples, script, observers))
    return played


def outside_the_grammar(config: Config, count: int, voices: Voices | None = None) -> Dialogues:
    """Open test dialogues of a single question or order each that is outside the grammar."""
    kinds = dataclasses.asdict(config.dialogue.shares)
    shares = SharesConfig(**dict.fromkeys(kinds, 0.0) | {"out_of_grammar": 1.0})
    dialogue = dataclasses.replace(
        config.dialogue, events=[1, 1], shares=shares, overlap_share=0.0, gap_s=UTTERANCE_GAP_S
    )
    single = dataclasses.replace(config, dialogue=dialogue)
    return open_dialogues(single, "test", count, voices=voices)


def with_whole_dialogues(run: Run, overrides: list[str]) -> Run:
    """Apply overrides; a run of stage state is given the dialogue settings of stage streaming.

    Stage state trains on dialogues with a single event, which are too short to score.
    """
    config = run.config
    if config.stage.name == "state":
        streaming = load_config([str(stage_file("streaming")), "encoder.context=causal"])
        config = dataclasses.replace(config, dialogue=streaming.dialogue)
    return run._replace(config=override(config, overrides))


def turns_of(dialogue: Dialogue, dialogues: Dialogues) -> list[Turn]:
    """The turns of a dialogue with the expected reactions.

    Args:
        dialogue: one of `dialogues`.
        dialogues: gives the length of a slice and of an answer.
    """
    slice_s = dialogues.slices.seconds
    windows = dialogue.response_windows(slice_s)
    answer_of_turn = {}
    for answer, window in zip(dialogue.answers, windows, strict=True):
        answer_of_turn[answer.turn] = (answer, window)
    turns = []
    for index, turn in enumerate(dialogue.turns):
        # Sounds that should be ignored have no answer, so no response belongs to them.
        window = range(0)
        disturbed_by = ""
        if index in answer_of_turn:
            answer, window = answer_of_turn[index]
            # The decision is made at the end of the slice in which the answer begins.
            decision_s = (answer.begin + 1) * slice_s
            answer_end_s = decision_s + dialogues.answer_s(turn.answer)
            next_turns = dialogue.turns[index + 1 : index + 2]
            if next_turns and next_turns[0].start_s < answer_end_s:
                disturbed_by = next_turns[0].kind
        turns.append(
            Turn(
                turn.kind,
                turn.start_s,
                turn.end_s,
                turn.pause_s,
                turn.answer,
                window,
                disturbed_by,
            )
        )
    return turns
