"""What training needs of a GPU, before one is rented:

    python -m lightning_modules.trainer.plan 6 configs/preset/paper.yaml configs/stage/asr.yaml

Parameters are counted on the meta device. What is kept for gradients is counted on the CPU in models of one layer and
of two, over a few seconds of speech; all layers and the seconds of a batch follow from that.
"""

import dataclasses
import sys

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from configs.loading import load_config, override
from configs.schema import Config
from duplexmamba.models.speech_lm import SpeechEncoder, SpeechLM, part_of
from duplexmamba.models.timing import FrameTiming
from duplexmamba.streaming.padded import Padded
from duplexmamba.text.losses import token_loss
from lightning_modules.assembly import KINDS
from lightning_modules.trainer.activation_checkpointing import BLOCKS, checkpoint_activations
from lightning_modules.trainer.fsdp import layers

GB = 1e9
CARDS_GB = (24, 80, 141)
PROBE_S = 4
"""Seconds of speech that are counted."""
TEXT_PER_S = 4
"""Tokens of text to a second of speech: English read aloud."""
SPARE = 0.9
"""Share of a card that can be filled: the rest is the driver's, the allocator's and what a layer needs for a moment."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Bytes on each rank, and tokens of a whole update."""

    parameters: dict[str, int]
    """Part -> count."""
    trained: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    activations_recomputed: int
    """With trainer.activation_checkpointing."""
    speech_tokens: int
    text_tokens: int
    """Per rank and update."""

    def total(self, recomputed: bool) -> int:
        fixed = self.weights + self.gradients + self.optimizer
        return fixed + (self.activations_recomputed if recomputed else self.activations)


def plan(config: Config, gpus: int) -> Plan:
    """Raises ValueError: stage lm, which hears no speech."""
    if config.stage.name == "lm":
        raise ValueError(
            "STAGE=lm hears no speech, by whose seconds memory is planned; plan STAGE=asr"
        )
    with torch.device("meta"):
        model = _model(config)
    parameters: dict[str, int] = {}
    for name, weight in model.named_parameters():
        parameters[part_of(name)] = parameters.get(part_of(name), 0) + weight.numel()
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    batch_s, updates = config.data.batch_s, config.trainer.accumulate
    scale = batch_s / PROBE_S
    plain, block = kept_by_all_layers(config, recomputed=False)
    again, _ = kept_by_all_layers(config, recomputed=True)
    every = sum(parameters.values())
    weights, gradients, optimizer = 4 * every, 4 * trained, 8 * trained
    if config.trainer.strategy == "fsdp" and gpus > 1:
        at_once = gathered(model)
        weights, gradients = (
            weights // gpus + 4 * at_once,
            gradients // gpus + 4 * min(at_once, trained),
        )
        optimizer //= gpus
    elif gpus > 1:
        gradients *= 2  # DistributedDataParallel sends them from buffers of its own
    return Plan(
        parameters=parameters,
        trained=trained,
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=int(scale * plain),
        activations_recomputed=int(scale * (again + block)),  # one block at a time is whole
        speech_tokens=int(updates * batch_s * 1000 / FrameTiming.of(config.model).token_ms),
        text_tokens=int(updates * batch_s * TEXT_PER_S),
    )


def gathered(model: nn.Module) -> int:
    """Weights that a rank holds at once beside its share of all: what belongs to no layer, and the two largest layers,
    since one computes while the next is on its way."""
    sizes = sorted(sum(weight.numel() for weight in layer.parameters()) for layer in layers(model))
    return sum(weight.numel() for weight in model.parameters()) - sum(sizes) + sum(sizes[-2:])


def kept_by_all_layers(config: Config, recomputed: bool) -> tuple[int, int]:
    """Bytes kept for the gradient of PROBE_S seconds, by all layers and by the largest one.

    A layer more of a kind costs what the second one does.
    """
    one = kept(_with_layers(config, 1, 1), recomputed)
    encoder_layer = kept(_with_layers(config, 2, 1), recomputed) - one
    lm_layer = kept(_with_layers(config, 1, 2), recomputed) - one
    rest = (config.encoder.num_layers - 1) * encoder_layer + (config.lm.num_layers - 1) * lm_layer
    return one + rest, max(encoder_layer, lm_layer)


def _with_layers(config: Config, encoder: int, lm: int) -> Config:
    return override(config, [f"encoder.num_layers={encoder}", f"lm.num_layers={lm}"])


def kept(config: Config, recomputed: bool) -> int:
    """Bytes that the graph of one forward pass holds besides the parameters."""
    model = _model(config).train()
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    sizes: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        note(tensor)
        return tensor

    if recomputed:
        checkpoint_activations(model)
        for block in model.modules():
            if isinstance(block, BLOCKS):  # what comes in is kept all the same
                block.register_forward_pre_hook(
                    lambda _, args: note(args[0].values if isinstance(args[0], Padded) else args[0])
                )
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = _loss(model, config)  # noqa: F841  alive, so that no address is given twice
    return sum(sizes.values())


def _model(config: Config) -> nn.Module:
    model = KINDS[config.stage.name][0](override(config, ["lm.pretrained=null"]).model)
    for name, weight in model.named_parameters():
        weight.requires_grad_(part_of(name) in {*config.stage.trained, "ctc"})
    return model


def _loss(model: nn.Module, config: Config) -> torch.Tensor:
    assert isinstance(model, SpeechEncoder)
    audio = Padded(torch.randn(1, PROBE_S * config.features.sample_rate_hz))
    if not isinstance(model, SpeechLM):
        return model.encode(audio, final=True)[0].values.square().mean()
    words = Padded(torch.zeros(1, PROBE_S * TEXT_PER_S, dtype=torch.int64))
    hidden, _ = model(Padded(words.values[:, :1]), model.embed_speech(audio, final=True)[0], words)
    return token_loss(model.lm.logits(hidden.values), words.values, config.optim.label_smoothing)


def show(found: Plan, config: Config, gpus: int) -> None:
    """The plan on the screen."""
    out = Console()
    counts = ", ".join(f"{name} {count:,}" for name, count in found.parameters.items())
    out.print(
        f"{config.stage.name}, preset {config.preset}: {counts}; trained {found.trained:,}",
        highlight=False,
    )
    tokens = found.speech_tokens, found.text_tokens
    out.print(
        f"an update of {gpus} ranks: {tokens[0]:,} tokens of speech and about {tokens[1]:,} of text on each, "
        f"{gpus * tokens[0]:,} and {gpus * tokens[1]:,} in all", highlight=False,
    )  # fmt: skip
    table = Table("GB on each rank, float32", "plain", "activation_checkpointing", box=None)
    for name in ("weights", "gradients", "optimizer"):
        table.add_row(name, *[f"{getattr(found, name) / GB:.2f}"] * 2)
    table.add_row(
        "activations", f"{found.activations / GB:.2f}", f"{found.activations_recomputed / GB:.2f}"
    )
    totals = [found.total(recomputed) / GB for recomputed in (False, True)]
    table.add_row("all", *[f"{total:.2f}" for total in totals])
    for card in CARDS_GB:
        table.add_row(
            f"fits {card} GB", *["yes" if total < SPARE * card else "no" for total in totals]
        )
    out.print(table)


if __name__ == "__main__":
    try:
        asked, ranks = load_config(sys.argv[2:]), int(sys.argv[1])
        show(plan(asked, ranks), asked, ranks)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
