"""duplexmamba evaluate: score a finished run."""

import json
from collections.abc import Sequence

from evaluation.commands.arguments import parser, score
from evaluation.commands.saved_scores import keep
from lightning_modules.trainer.exits import exit_cleanly, quiet_libraries

DESCRIPTION = """\
Score a finished run.

    evaluate wer runs/latest                          # on the test speech of its own configuration
    evaluate wer runs/latest data.path=my/speech      # on the test split of a folder or manifest
    evaluate duplex runs/latest                       # live sessions on test dialogues
    evaluate full-duplex-bench runs/latest FOLDER     # a folder of Full-Duplex-Bench items
    evaluate turnbench runs/latest FOLDER             # two-channel conversations of TurnBench
    evaluate voicebench runs/latest --limit 10        # its answers to VoiceBench's questions
    evaluate voicebench --responses FILE --subset bbh # responses made elsewhere
    evaluate speed runs/latest                        # time per slice and answer; size of the state
    evaluate scorecard runs/one,runs/other            # all of that on one page, side by side

Each of these begins with `duplexmamba`, or with `python evaluate.py` in place of `evaluate`.

Writes <run>/scores/<score>.json, flat (also into the file that --json names),
<score>.settings.json, and the data behind the scores: a line per utterance or dialogue;
duplex_curve.json and duplex.png; turnbench_submission.json; voicebench/. Full-Duplex-Bench items
get their output.json. The environment names VoiceBench's judge: JUDGE_URL, JUDGE_MODEL, JUDGE_KEY.
"""


def evaluate(args: Sequence[str]) -> dict[str, float | None]:
    """Score a run and save the scores.

    Args:
        args: name of the score, folder of the run, and options.

    Returns:
        The scores; None for a score that cannot be computed.
    """
    arguments = parser(DESCRIPTION)
    # the name of the script or module would hide the subcommand
    arguments.prog = "duplexmamba evaluate"
    parsed = arguments.parse_args(args)
    scores = score(parsed)
    if parsed.run is not None:
        keep(parsed, scores)
    if parsed.json is not None:
        parsed.json.write_text(json.dumps(scores, indent=1) + "\n")
    return scores


def main(args: Sequence[str]) -> None:
    """Score as the arguments say."""
    quiet_libraries()
    with exit_cleanly():
        evaluate(args)
