"""Score a finished run.

    python evaluate.py wer runs/latest                          # on the test speech of its own configuration
    python evaluate.py wer runs/latest data.path=my/speech      # on the test split of a folder or manifest
    python evaluate.py duplex runs/latest                       # live sessions on test dialogues
    python evaluate.py full-duplex-bench runs/latest FOLDER     # a folder of Full-Duplex-Bench items
    python evaluate.py turnbench runs/latest FOLDER             # two-channel conversations of TurnBench

Writes <run>/scores/<score>.json (or the file that --json names), flat, and what it was taken from beside it: a line per
utterance or dialogue; duplex_curve.json and duplex.png; turnbench_submission.json. Full-Duplex-Bench items get their
output.json.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import lightning as L
import numpy as np
import torch

from datamodules.audio import read_audio
from datamodules.corpus import UnusableAudio
from datamodules.data import Corpora
from datamodules.dialogue import Dialogue, Dialogues
from datamodules.dialogue_data import DialogueData
from duplexmamba.config import load_config, override, stage_file
from duplexmamba.schema import Config
from evaluation.duplex import full_duplex_bench, turnbench
from evaluation.duplex.dialogues import Heard, Turn
from evaluation.duplex.listen import Read, hear
from evaluation.duplex.report import report, report_bench, watched
from lightning_modules.assembly import KINDS
from lightning_modules.entry import exit_cleanly, quieten, trainer_settings
from lightning_modules.handover import FILE, HandOver
from lightning_modules.live import open_sessions
from lightning_modules.stage import StageModule
from lightning_modules.summary import print_summary

WARM_UP_S = 2
"""Heard before anything is timed: what is built or fetched at first use is."""


def main(args: list[str]) -> dict[str, float]:
    """Returns the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked_for = parser.add_subparsers(dest="score", required=True)
    for name in SCORES:
        score = asked_for.add_parser(name)
        score.add_argument("run", type=Path, help="folder of a finished run")
        if name in BENCHES:
            score.add_argument("folder", type=Path, help="of the benchmark's data")
        score.add_argument("overrides", nargs="*", metavar="key=value", help="as for train.py")
        score.add_argument("--json", type=Path, help="file for the scores")
    asked = parser.parse_args(args)
    given, run = HandOver.load(asked.run / FILE), asked.run.resolve()
    (run / "scores").mkdir(exist_ok=True)
    if asked.score == "duplex":
        given = of_whole_dialogues(given)
    config = override(given.config, asked.overrides)
    if asked.score in BENCHES:
        scores = BENCHES[asked.score](given, config, run, asked.folder.resolve())
    else:
        scores = OWN[asked.score](given, config, run)
    (asked.json or run / "scores" / f"{asked.score}.json").write_text(json.dumps(scores, indent=1) + "\n")
    return scores


def score_wer(given: HandOver, config: Config, run: Path) -> dict[str, float]:
    """Word and character error rate of the run's test speech, decoded greedily.

    Raises:
        ValueError: the run is of stage lm, which hears nothing.
    """
    if config.stage.name == "lm":
        raise ValueError(f"{run} is a run of stage lm, which hears nothing; name a run of stage encoder or asr")
    model_kind, module_kind, data_kind = KINDS["encoder" if config.stage.name == "encoder" else "asr"]
    corpora = Corpora(config, splits=["test"])
    module: StageModule = module_kind(config, model_kind(config), given.tokens)
    module.model.load_state_dict(given.weights)
    trainer = L.Trainer(**trainer_settings(config), logger=False)
    trainer.test(module, data_kind(config, corpora), verbose=False)
    scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
    lines = [json.dumps({"text": said, "understood": understood}) for said, understood in module.scored]
    (run / "scores" / "wer.jsonl").write_text("\n".join(lines) + "\n")
    print_summary(run, scores, module.scored, module.skipped, "make help")
    return scores


def score_duplex(given: HandOver, config: Config, run: Path) -> dict[str, float]:
    """Live sessions on test dialogues, on one thread."""
    open_session = open_sessions(given, config, run)
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
        script = Heard(dialogue.id, dialogues.slices.seconds, turns_of(dialogue, dialogues), dialogue.labels)
        heard.append(hear(open_session, dialogue.samples, script))
    apart = {"fork": "", "multiplex": " that do not tell incomplete from ignore"}[config.duplex.kind]
    what = f"{len(heard)} test dialogues in live sessions{apart}, on {open_session().device.type}"
    return report(heard, run / "scores", titled(run, config, what))


def of_whole_dialogues(given: HandOver) -> HandOver:
    """A run of stage state learnt from dialogues of one event: it is scored on those of stage streaming."""
    if given.config.stage.name != "state":
        return given
    dialogue = load_config([str(stage_file("streaming")), "encoder.context=carried"]).dialogue
    return dataclasses.replace(given, config=dataclasses.replace(given.config, dialogue=dialogue))


def turns_of(dialogue: Dialogue, dialogues: Dialogues) -> list[Turn]:
    """The turns of a dialogue, with what should come of them."""
    slice_s = dialogues.slices.seconds
    windows = dialogue.reply_windows(slice_s)
    asking = {answer.turn: (answer, window) for answer, window in zip(dialogue.answers, windows, strict=True)}
    turns = []
    for i, turn in enumerate(dialogue.turns):
        window, disturbed_by = range(0), ""
        if i in asking:
            answer, window = asking[i]
            end_s = (answer.begin + 1) * slice_s + dialogues.answer_s(turn.answer)
            disturbed_by = next((later.kind for later in dialogue.turns[i + 1 : i + 2] if later.start_s < end_s), "")
        turns.append(Turn(turn.kind, turn.start_s, turn.end_s, turn.pause_s, turn.answer, window, disturbed_by))
    return turns


def score_full_duplex_bench(given: HandOver, config: Config, run: Path, folder: Path) -> dict[str, float]:
    """Text-emission variant; writes every item's output.json."""
    found = full_duplex_bench.run(folder, open_sessions(given, config, run), reader(config))
    return report_bench(
        full_duplex_bench.scores(found), titled(run, config, "Full-Duplex-Bench, text-emission variant")
    )


def score_turnbench(given: HandOver, config: Config, run: Path, folder: Path) -> dict[str, float]:
    """Writes turnbench_submission.json; scores the conversations that have gold times."""
    found, gold = turnbench.run(folder, open_sessions(given, config, run), reader(config))
    file = run / "scores" / "turnbench_submission.json"
    file.write_text(json.dumps(turnbench.submission(found), indent=1) + "\n")
    of = f"TurnBench, {len(gold)} of {len(found)} conversations with gold times; submission: {file}"
    return report_bench(turnbench.scores(found, gold), titled(run, config, of))


def titled(run: Path, config: Config, what: str) -> str:
    return f"{run.name} (stage {config.stage.name}): {what}"


def reader(config: Config) -> Read:
    """Reads a file, or one channel of it, of any length, as the model hears it."""

    def read(file: Path, channel: int | None) -> np.ndarray:
        try:
            return read_audio(file, config.features.sample_rate_hz, channel=channel, min_s=0, max_s=float("inf"))
        except UnusableAudio as error:
            raise ValueError(f"{error}; mend or remove it") from None

    return read


OWN = {"wer": score_wer, "duplex": score_duplex}
BENCHES = {"full-duplex-bench": score_full_duplex_bench, "turnbench": score_turnbench}
SCORES = [*OWN, *BENCHES]

if __name__ == "__main__":
    quieten()
    with exit_cleanly():
        main(sys.argv[1:])
