"""GPU memory of a training, estimated without a GPU:

    python -m lightning_modules.trainer.plan 6 configs/preset/paper.yaml configs/stage/asr.yaml

Parameters are counted on torch's meta device. Activations are measured on the CPU, in models of one
layer and of two, over a few seconds of speech; those of all layers and of a whole batch follow from
them.
"""

import dataclasses
import sys
from collections.abc import Sequence

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
from lightning_modules.stages import STAGE_REGISTRY
from lightning_modules.trainer.activation_checkpointing import BLOCKS, checkpoint_activations
from lightning_modules.trainer.exits import EXIT_BAD_INPUT
from lightning_modules.trainer.fsdp import layers

GB = 1e9
BYTES_PER_FLOAT = 4
CARDS_GB = (24, 80, 141)
"""Memory of common GPUs."""
PROBE_S = 4
"""Seconds of speech over which activations are measured."""
TEXT_PER_S = 4
"""Text tokens in a second of speech: English read aloud."""
USABLE_SHARE = 0.9
"""Share of a GPU's memory that can be filled.

The rest is for the driver, the allocator, and temporary tensors within a layer.
"""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Memory of each rank in bytes, and tokens of a whole update."""

    parameters: dict[str, int]
    """Part of the model -> number of its parameters."""
    trained: int
    """Number of parameters that are trained."""
    weights: int
    """Bytes of the weights."""
    gradients: int
    """Bytes of the gradients."""
    optimizer: int
    """Bytes of the optimiser's state."""
    activations: int
    """Bytes that are saved for the backward pass."""
    activations_recomputed: int
    """Bytes that are saved with trainer.activation_checkpointing."""
    speech_tokens: int
    """Speech embeddings on each rank in an update."""
    text_tokens: int
    """Text tokens on each rank in an update, estimated."""

    def total(self, recomputed: bool) -> int:
        """Return all bytes on a rank, with or without activation checkpointing."""
        activations = self.activations_recomputed if recomputed else self.activations
        return self.weights + self.gradients + self.optimizer + activations


def plan(config: Config, gpus: int) -> Plan:
    """Compute memory and tokens of a training on a number of GPUs.

    Raises:
        ValueError: the stage is lm, which has no speech.
    """
    if not STAGE_REGISTRY[config.stage.name].has_speech_encoder:
        raise ValueError(
            f"STAGE={config.stage.name} has no speech, by the seconds of which memory is planned; "
            "plan STAGE=asr"
        )
    with torch.device("meta"):
        model = _build_model(config)
    parameters: dict[str, int] = {}
    for name, weight in model.named_parameters():
        part = part_of(name)
        parameters[part] = parameters.get(part, 0) + weight.numel()
    num_parameters = sum(parameters.values())
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    weights = BYTES_PER_FLOAT * num_parameters
    gradients = BYTES_PER_FLOAT * trained
    # AdamW has two moments
    optimizer = 2 * BYTES_PER_FLOAT * trained
    if config.trainer.strategy == "fsdp" and gpus > 1:
        num_gathered = count_gathered(model)
        weights = weights // gpus + BYTES_PER_FLOAT * num_gathered
        gradients = gradients // gpus + BYTES_PER_FLOAT * min(num_gathered, trained)
        optimizer //= gpus
    elif gpus > 1:
        # DistributedDataParallel sends gradients from buffers of its own
        gradients *= 2
    activations, activations_recomputed = batch_activations(config)
    batch_s = config.data.batch_s
    update_s = config.trainer.accumulate * batch_s
    return Plan(
        parameters=parameters,
        trained=trained,
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        activations_recomputed=activations_recomputed,
        speech_tokens=int(update_s * 1000 / FrameTiming.of(config.model).token_ms),
        text_tokens=int(update_s * TEXT_PER_S),
    )


def count_gathered(model: nn.Module) -> int:
    """Return the largest number of gathered weights that a rank holds at a time.

    These are the weights that belong to no layer, and the two largest layers: one computes while
    the next is gathered.
    """
    sizes = [sum(weight.numel() for weight in layer.parameters()) for layer in layers(model)]
    sizes.sort()
    num_parameters = sum(weight.numel() for weight in model.parameters())
    return num_parameters - sum(sizes) + sum(sizes[-2:])


def batch_activations(config: Config) -> tuple[int, int]:
    """Return the activations of a batch in bytes, without and with checkpointing."""
    scale = config.data.batch_s / PROBE_S
    saved, largest_block = saved_by_all_layers(config, recomputed=False)
    saved_recomputed, _ = saved_by_all_layers(config, recomputed=True)
    # when its turn comes in the backward pass, a block has all of its activations again
    return int(scale * saved), int(scale * (saved_recomputed + largest_block))


def saved_by_all_layers(config: Config, recomputed: bool) -> tuple[int, int]:
    """Return the activations of PROBE_S seconds in bytes, of all layers and the largest.

    Each additional layer of a kind costs what the second layer of that kind does.
    """
    one_each = measure_saved(_with_layers(config, encoder=1, lm=1), recomputed)
    encoder_layer = measure_saved(_with_layers(config, encoder=2, lm=1), recomputed) - one_each
    lm_layer = measure_saved(_with_layers(config, encoder=1, lm=2), recomputed) - one_each
    more_encoder_layers = (config.encoder.num_layers - 1) * encoder_layer
    more_lm_layers = (config.lm.num_layers - 1) * lm_layer
    return one_each + more_encoder_layers + more_lm_layers, max(encoder_layer, lm_layer)


def _with_layers(config: Config, encoder: int, lm: int) -> Config:
    return override(config, [f"encoder.num_layers={encoder}", f"lm.num_layers={lm}"])


def measure_saved(config: Config, recomputed: bool) -> int:
    """Return the bytes that the graph of one forward pass holds, in addition to the parameters.

    Args:
        config: configuration of the model.
        recomputed: with activation checkpointing.
    """
    model = _build_model(config).train()
    parameters = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    # address of a storage -> its size: tensors that share a storage count once
    sizes: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    def note_input(_: nn.Module, args: tuple[torch.Tensor | Padded, ...]) -> None:
        note(args[0].values if isinstance(args[0], Padded) else args[0])

    if recomputed:
        checkpoint_activations(model)
        # a recomputed block still saves its input, but not through the hooks below
        for block in model.modules():
            if isinstance(block, BLOCKS):
                block.register_forward_pre_hook(note_input)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        # keeps the graph alive, so that no address is used twice
        loss = _loss(model, config)  # noqa: F841
    return sum(sizes.values())


def _build_model(config: Config) -> nn.Module:
    build_model = STAGE_REGISTRY[config.stage.name].model
    model = build_model(override(config, ["lm.pretrained=null"]).model)
    trained_parts = {*config.stage.trained, "ctc"}
    for name, weight in model.named_parameters():
        weight.requires_grad_(part_of(name) in trained_parts)
    return model


def _loss(model: nn.Module, config: Config) -> torch.Tensor:
    """Loss over PROBE_S seconds of noise, with text where there is a language model."""
    assert isinstance(model, SpeechEncoder)
    # (1, n) samples
    audio = Padded(torch.randn(1, PROBE_S * config.features.sample_rate_hz))
    if not isinstance(model, SpeechLM):
        frames, _ = model.encode(audio, final=True)
        return frames.values.square().mean()
    # (1, L) token ids
    text = Padded(torch.zeros(1, PROBE_S * TEXT_PER_S, dtype=torch.int64))
    prompt = Padded(text.values[:, :1])
    speech, _ = model.embed_speech(audio, final=True)
    hidden, _ = model(prompt, speech, text)
    logits = model.lm.logits(hidden.values)
    return token_loss(logits, text.values, config.optim.label_smoothing)


def show(planned: Plan, config: Config, gpus: int) -> None:
    """Print a plan: parameters, tokens, and a table of memory."""
    out = Console()
    counts = ", ".join(f"{name} {count:,}" for name, count in planned.parameters.items())
    out.print(
        f"{config.stage.name}, preset {config.preset}: {counts}; trained {planned.trained:,}",
        highlight=False,
    )
    speech, text = planned.speech_tokens, planned.text_tokens
    out.print(
        f"an update of {gpus} ranks: {speech:,} tokens of speech and about {text:,} of text "
        f"on each, {gpus * speech:,} and {gpus * text:,} in all",
        highlight=False,
    )
    out.print(_memory_table(planned))


def _memory_table(planned: Plan) -> Table:
    table = Table("GB on each rank, float32", "plain", "activation_checkpointing", box=None)
    for name in ("weights", "gradients", "optimizer"):
        size = _gb(getattr(planned, name))
        table.add_row(name, size, size)
    table.add_row("activations", _gb(planned.activations), _gb(planned.activations_recomputed))
    plain = planned.total(recomputed=False)
    recomputed = planned.total(recomputed=True)
    table.add_row("all", _gb(plain), _gb(recomputed))
    for card_gb in CARDS_GB:
        usable = USABLE_SHARE * card_gb * GB
        answers = ["yes" if total < usable else "no" for total in (plain, recomputed)]
        table.add_row(f"fits {card_gb} GB", *answers)
    return table


def _gb(size: int) -> str:
    return f"{size / GB:.2f}"


def main(args: Sequence[str]) -> None:
    """Print the plan of a training.

    Args:
        args: number of GPUs, then configuration files and overrides.

    Raises:
        ValueError: the configuration does not fit, or the number is no number.
    """
    num_gpus, *config_args = args
    config = load_config(config_args)
    show(plan(config, int(num_gpus)), config, int(num_gpus))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
