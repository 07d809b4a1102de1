"""Score a finished run.

    python evaluate.py wer runs/latest                          # on the test speech of its own configuration
    python evaluate.py wer runs/latest data.path=my/speech      # on the test split of a folder or manifest
    python evaluate.py duplex runs/latest                       # live sessions on test dialogues
    python evaluate.py full-duplex-bench runs/latest FOLDER     # a folder of Full-Duplex-Bench items
    python evaluate.py turnbench runs/latest FOLDER             # two-channel conversations of TurnBench
    python evaluate.py voicebench runs/latest --limit 10        # its answers to VoiceBench's questions
    python evaluate.py voicebench --responses FILE --subset bbh # responses made elsewhere

Writes <run>/scores/<score>.json (or the file that --json names), flat, and what it was taken from beside it: a line per
utterance or dialogue; duplex_curve.json and duplex.png; turnbench_submission.json; voicebench/. Full-Duplex-Bench items
get their output.json. VoiceBench's judge is named by the environment: JUDGE_URL, JUDGE_MODEL, JUDGE_KEY.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path

from lightning_modules.entry import exit_cleanly, quieten

COMMANDS = {
    "wer": "wer.score", "duplex": "duplex.score", "full-duplex-bench": "benches.score_full_duplex_bench",
    "turnbench": "benches.score_turnbench", "voicebench": "voicebench.run",
}  # fmt: skip
"""Functions of `evaluation.commands`; each is imported only when it is asked for, for what it needs."""


def main(args: list[str]) -> dict[str, float | None]:
    """Returns the scores; None where one cannot be had."""
    asked = parser().parse_args(args)
    module, function = COMMANDS[asked.score].split(".")
    scores: dict[str, float | None]
    scores = getattr(importlib.import_module(f"evaluation.commands.{module}"), function)(asked)
    file = asked.json or (None if asked.run is None else asked.run / "scores" / f"{asked.score}.json")
    if file is not None:
        file.write_text(json.dumps(scores, indent=1) + "\n")
    return scores


def parser() -> argparse.ArgumentParser:
    """Every score takes a run, overrides and --json; VoiceBench also does without a run."""
    whole = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked_for = whole.add_subparsers(dest="score", required=True)
    for name in COMMANDS:
        score = asked_for.add_parser(name)
        runs = "?" if name == "voicebench" else None
        score.add_argument("run", type=Path, nargs=runs, help="folder of a finished run")
        if name in ("full-duplex-bench", "turnbench"):
            score.add_argument("folder", type=Path, help="of the benchmark's data")
        score.add_argument("overrides", nargs="*", metavar="key=value", help="as for train.py")
        score.add_argument("--json", type=Path, help="file for the scores")
        if name == "voicebench":
            add_voicebench(score)
    return whole


def add_voicebench(score: argparse.ArgumentParser) -> None:
    score.add_argument("--subsets", default="", help="names, separated by commas; all nine of the leaderboard")
    score.add_argument("--limit", type=positive, help="items of each subset, the first")
    score.add_argument("--data", default="", help="hub, embedded, or a folder of the same schema; the first there is")
    score.add_argument("--mode", choices=["streaming", "offline"], help="streaming where the run has learnt it")
    score.add_argument("--batch", type=positive, default=8, help="items at a time")
    score.add_argument("--responses", type=Path, help="score these instead: a file, or a folder of <subset>.jsonl")
    score.add_argument("--subset", default="", help="of the file of responses")


def positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{word} is less than 1")
    return number


if __name__ == "__main__":
    quieten()
    with exit_cleanly():
        main(sys.argv[1:])
