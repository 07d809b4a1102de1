"""Registry of the scores that `evaluate.py` computes.

A score is a function that takes the parsed command line and returns numbers by name, and an entry
here: how its command looks, the runs that it can score, and its rows on the scorecard. The command
line, its help, saved scores and the scorecard derive from the registry.
"""

import argparse
import dataclasses
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from configs.recipes import DIALOGUE_STAGES

SPEECH_LM_STAGES = ("asr", "instruct", *DIALOGUE_STAGES)
"""Stages whose model takes speech and emits text."""
BATCH_SIZE = 8
"""Default number of VoiceBench items that are answered at a time."""

Scores = Mapping[str, float | None]


class Row(NamedTuple):
    """One row of the scorecard."""

    score: str
    """Key of the number."""
    label: str
    better: int = 0
    """-1: lower is better, 1: higher is better, 0: neither."""


@dataclasses.dataclass(frozen=True)
class Score:
    """One score."""

    name: str
    """Name of its command."""
    function: str
    """`module:function`, imported on demand for the libraries that it needs. Takes the parsed
    arguments and returns numbers by name, None where one cannot be computed."""
    description: str
    stages: Sequence[str] = ()
    """Stages whose runs it can score; () for a command that is no score of a run."""
    runs: Literal["one", "optional", "several"] = "one"
    """Runs on the command line."""
    has_own_data: bool = False
    """Whether it needs a folder with the user's copy of the data."""
    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda command: None
    """Adds the options of its command."""
    scorecard_options: Callable[[argparse.Namespace], Mapping[str, Any]] = lambda args: {}
    """Options of its command for given options of the scorecard; empty values are left out."""
    settings: Callable[[], Mapping[str, Any]] = dict
    """What the numbers depend on besides weights and arguments."""
    sections: Mapping[str, Sequence[Row]] = dataclasses.field(default_factory=dict)
    """Section of the scorecard -> rows."""
    section_of_all: str = ""
    """Section of the scorecard that shows every number; "" for none."""

    def run(self, args: argparse.Namespace) -> dict[str, float | None]:
        """Compute the score for parsed arguments."""
        module, function = self.function.split(":")
        scores: dict[str, float | None] = getattr(importlib.import_module(module), function)(args)
        return scores


def positive_int(text: str) -> int:
    """Type of a command-line argument: an integer of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def add_voicebench_arguments(command: argparse.ArgumentParser) -> None:
    """Options of VoiceBench that the scorecard has too."""
    command.add_argument(
        "--subsets",
        default="",
        help="subsets, separated by commas (default: the leaderboard's nine)",
    )
    command.add_argument("--limit", type=positive_int, help="only the first LIMIT items per subset")
    command.add_argument(
        "--data",
        default="",
        help="hub, embedded, or a folder of the same schema (default: the first that is there)",
    )
    command.add_argument(
        "--mode",
        choices=["streaming", "offline"],
        help="live, or each question as a whole (default: streaming where the run has learnt it)",
    )
    command.add_argument(
        "--batch", type=positive_int, default=BATCH_SIZE, help="items answered at a time"
    )


def add_responses_arguments(command: argparse.ArgumentParser) -> None:
    """Options of VoiceBench, those for responses made elsewhere included."""
    add_voicebench_arguments(command)
    command.add_argument(
        "--responses", type=Path, help="score these instead: a file, or a folder of <subset>.jsonl"
    )
    command.add_argument("--subset", default="", help="subset of the file of responses")


def add_scorecard_arguments(command: argparse.ArgumentParser) -> None:
    """Options of the scorecard."""
    add_voicebench_arguments(command)
    command.add_argument(
        "--as-is", action="store_true", help="compute nothing: show the scores that are saved"
    )


def voicebench_options(args: argparse.Namespace) -> dict[str, Any]:
    """Options of VoiceBench's command for those of the scorecard."""
    return {
        "--subsets": args.subsets,
        "--limit": args.limit,
        "--data": args.data,
        "--mode": args.mode,
        "--batch": args.batch if args.batch != BATCH_SIZE else None,
    }


def judge_settings() -> dict[str, Any]:
    """The language model that judges VoiceBench's open answers."""
    return {"judge": os.environ.get("JUDGE_MODEL", "")}


SCORES = {
    score.name: score
    for score in (
        Score(
            "wer",
            "evaluation.commands.wer:score",
            "word and character error rate",
            stages=("encoder", *SPEECH_LM_STAGES),
            sections={
                "Word error rate": [
                    Row("test/wer", "word error rate", -1),
                    Row("test/cer", "character error rate", -1),
                ]
            },
        ),
        Score(
            "voicebench",
            "evaluation.commands.voicebench:run",
            "responses to VoiceBench's questions",
            stages=SPEECH_LM_STAGES,
            runs="optional",
            add_arguments=add_responses_arguments,
            scorecard_options=voicebench_options,
            settings=judge_settings,
        ),
        Score(
            "duplex",
            "evaluation.commands.duplex:score",
            "live sessions on test dialogues",
            stages=DIALOGUE_STAGES,
            sections={
                "Conversation": [
                    Row("state/accuracy", "state of each slice: accuracy", 1),
                    Row("state/macro_f1", "state of each slice: macro F1", 1),
                    Row("turn/takeover_rate", "questions answered", 1),
                    Row("turn/latency_s", "how soon after their end", -1),
                    Row("answer/exact_match", "answers word for word right", 1),
                    Row("interruption/takeover_rate", "interruptions that take over", 1),
                    Row("interruption/stop_s", "time until a response stops for one", -1),
                    Row("pause/false_takeover_rate", "answers in the pause of a question", -1),
                    Row(
                        "ignore/false_takeover_rate/talking_to_other",
                        "answers to speech to somebody else",
                        -1,
                    ),
                    Row(
                        "ignore/false_takeover_rate/background_speech",
                        "answers to background speech",
                        -1,
                    ),
                    Row("ignore/false_takeover_rate/backchannel", "answers to back-channels", -1),
                    Row("ignore/false_takeover_rate/noise", "answers to noise", -1),
                    Row(
                        "silence/false_takeover_per_hour",
                        "answers to nothing, in an hour of silence",
                        -1,
                    ),
                    Row(
                        "answer/resumed_after_ignore",
                        "answers that continue as if a sound had not occurred",
                        1,
                    ),
                ],
                "Speed": [
                    Row("slice/median_ms", "a slice of a live session, median", -1),
                    Row("slice/p99_ms", "a slice of a live session, 99th percentile", -1),
                    Row("slice/real_time_factor", "live session, share of real time", -1),
                ],
                "State and size": [
                    Row("memory/lm_bytes", "live session: one branch of the language model", -1),
                    Row("memory/all_bytes", "live session: everything", -1),
                ],
            },
        ),
        Score(
            "speed",
            "evaluation.commands.speed:score",
            "speed of encoding and answering, size of the state",
            stages=("encoder", "lm", *SPEECH_LM_STAGES),
            sections={
                "Speed": [
                    Row("slice/median_ms", "encoding a slice, median", -1),
                    Row("slice/real_time_factor", "encoding by slices, share of real time", -1),
                    Row("whole/real_time_factor", "encoding 10 s at once, share of real time", -1),
                    Row("token/median_ms", "decoding a token", -1),
                ],
                "State and size": [
                    Row("state/lm_bytes", "state of the language model, after 20 s", -1),
                    Row("state/all_bytes", "state of everything, after 20 s", -1),
                    Row("state/growth_bytes_per_s", "growth of the state in a second", -1),
                    Row("size/all_parameters", "parameters"),
                ],
            },
        ),
        Score(
            "full-duplex-bench",
            "evaluation.commands.turn_benchmarks:score_full_duplex_bench",
            "Full-Duplex-Bench, in its text-emission variant",
            stages=DIALOGUE_STAGES,
            has_own_data=True,
            section_of_all="Full-Duplex-Bench, text-emission variant",
        ),
        Score(
            "turnbench",
            "evaluation.commands.turn_benchmarks:score_turnbench",
            "two-channel conversations of TurnBench",
            stages=DIALOGUE_STAGES,
            has_own_data=True,
            section_of_all="TurnBench",
        ),
        Score(
            "scorecard",
            "evaluation.commands.scorecard:make",
            "all scores of one run, or of several side by side, on one page",
            runs="several",
            add_arguments=add_scorecard_arguments,
        ),
    )
}
"""Every command of evaluate.py by its name."""
