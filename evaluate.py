"""Score a finished run.

    python evaluate.py wer runs/latest                          # on the test speech of its own configuration
    python evaluate.py wer runs/latest data.path=my/speech      # on the test split of a folder or manifest

Writes <run>/scores/wer.json (or the file that --json names) and <run>/scores/wer.jsonl, one line per utterance.
"""

import argparse
import json
import sys
from pathlib import Path

import lightning as L

from datamodules.data import Corpora
from duplexmamba.config import override
from lightning_modules.assembly import KINDS
from lightning_modules.entry import exit_cleanly, quieten, trainer_settings
from lightning_modules.handover import FILE, HandOver
from lightning_modules.stage import StageModule
from lightning_modules.summary import print_summary


def main(args: list[str]) -> dict[str, float]:
    """Returns the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("score", choices=["wer"])
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for train.py")
    parser.add_argument("--json", type=Path, help="file for the scores")
    asked = parser.parse_args(args)
    given = HandOver.load(asked.run / FILE)
    return score_wer(given, asked.run.resolve(), asked.overrides, asked.json)


def score_wer(given: HandOver, run: Path, overrides: list[str], json_file: Path | None) -> dict[str, float]:
    """Word and character error rate of the run's test speech, decoded greedily.

    Raises:
        ValueError: the run is of stage lm, which hears nothing.
    """
    config = override(given.config, overrides)
    if config.stage.name == "lm":
        raise ValueError(f"{run} is a run of stage lm, which hears nothing; name a run of stage encoder or asr")
    model_kind, module_kind, data_kind = KINDS["encoder" if config.stage.name == "encoder" else "asr"]
    corpora = Corpora(config, splits=["test"])
    module: StageModule = module_kind(config, model_kind(config), given.tokens)
    module.model.load_state_dict(given.weights)
    trainer = L.Trainer(**trainer_settings(config), logger=False)
    trainer.test(module, data_kind(config, corpora), verbose=False)
    scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
    folder = run / "scores"
    folder.mkdir(exist_ok=True)
    (json_file or folder / "wer.json").write_text(json.dumps(scores, indent=1) + "\n")
    lines = [json.dumps({"text": said, "understood": understood}) for said, understood in module.scored]
    (folder / "wer.jsonl").write_text("\n".join(lines) + "\n")
    print_summary(run, scores, module.scored, module.skipped, "make help")
    return scores


if __name__ == "__main__":
    quieten()
    with exit_cleanly():
        main(sys.argv[1:])
