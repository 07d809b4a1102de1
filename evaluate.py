"""Score a finished run.

    python evaluate.py wer runs/latest                          # on the test speech of its own configuration
    python evaluate.py wer runs/latest data.path=my/speech      # on the test split of a folder or manifest
    python evaluate.py duplex runs/latest                       # live sessions on test dialogues
    python evaluate.py full-duplex-bench runs/latest FOLDER     # a folder of Full-Duplex-Bench items
    python evaluate.py turnbench runs/latest FOLDER             # two-channel conversations of TurnBench
    python evaluate.py voicebench runs/latest --limit 10        # its answers to VoiceBench's questions
    python evaluate.py voicebench --responses FILE --subset bbh # responses made elsewhere
    python evaluate.py speed runs/latest                        # of hearing and answering; size of the state
    python evaluate.py scorecard runs/one,runs/other            # all of that on one page, side by side

Writes <run>/scores/<score>.json, flat (also into the file that --json names), <score>.settings.json, and what it was
taken from: a line per utterance or dialogue; duplex_curve.json and duplex.png; turnbench_submission.json; voicebench/.
Full-Duplex-Bench items get their output.json. VoiceBench's judge is named by the environment: JUDGE_URL, JUDGE_MODEL,
JUDGE_KEY.
"""

import json
import sys

from evaluation.commands.arguments import parser, score
from evaluation.commands.saved_scores import keep
from lightning_modules.trainer.hardware import exit_cleanly, quiet_libraries


def main(args: list[str]) -> dict[str, float | None]:
    """Returns the scores; None where one cannot be had."""
    asked = parser(__doc__).parse_args(args)
    scores = score(asked)
    if asked.run is not None:
        keep(asked, scores)
    if asked.json is not None:
        asked.json.write_text(json.dumps(scores, indent=1) + "\n")
    return scores


if __name__ == "__main__":
    quiet_libraries()
    with exit_cleanly():
        main(sys.argv[1:])
