"""GPU memory of a training, estimated without a GPU:

    python -m lightning_modules.trainer.plan 6 configs/preset/paper.yaml configs/stage/asr.yaml

Parameters are counted on torch's meta device. Activations are measured on the CPU, in models of one
layer and of two, over a few seconds of speech; those of all layers and of a whole batch follow from
them. For dialogues the steps of a whole batch are counted too (`plan_dialogues`).

Pretrained models are built from their config.json with all their layers, each weight of which is one
number that is repeated, so that they take no memory; their own weights are not read.

Precision bf16-mixed changes little: most of what is saved for the backward pass stays in float32, and
there is a copy in bfloat16 of every weight that is multiplied, one for each use of a frozen weight.
"""

import dataclasses
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from configs.loading import load_config, override
from configs.schema import Config
from duplexmamba.models import lora
from duplexmamba.models.encoders import ENCODERS, PretrainedEncoder
from duplexmamba.models.language_models import LANGUAGE_MODELS
from duplexmamba.models.language_models.hybrid_formats import letters_of
from duplexmamba.models.pretrained_encoders import find_encoder
from duplexmamba.models.speech_lm import SpeechEncoder, SpeechLM, part_of
from duplexmamba.models.timing import FrameTiming
from duplexmamba.streaming import state as states
from duplexmamba.streaming.padded import Padded
from duplexmamba.text.losses import token_loss
from lightning_modules.stage import freeze
from lightning_modules.stages import STAGE_REGISTRY
from lightning_modules.trainer.activation_checkpointing import BLOCKS, checkpoint_activations
from lightning_modules.trainer.exits import EXIT_BAD_INPUT
from lightning_modules.trainer.fsdp import layers
from lightning_modules.trainer.plan_dialogues import DialogueWork, dialogue_work

Loss = Callable[[nn.Module, Config], torch.Tensor]
"""The loss of a model over a short input."""

GB = 1e9
BYTES_PER_FLOAT = 4
BYTES_PER_BF16 = 2
CARDS_GB = (24, 80, 141)
"""Memory of common GPUs."""
PROBE_S = 4
"""Seconds of speech over which activations are measured."""
PROBE_STEPS = 64
"""Steps of the language model over which its activations in dialogues are measured."""
PROBE_VOCAB = 1024
"""Embeddings of the models of dialogues, whose logits are counted and not measured."""
SCAN_CHUNK = 32
"""Steps between the states that the scan on a GPU saves (`duplexmamba.ops.scan_triton`)."""
UTTERANCE_S = 16
"""Seconds of an utterance beside dialogues, padding included: read books, which are longer than the
synthetic utterances."""
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
    copies: int
    """Bytes of weights in bfloat16 that are saved for the backward pass; none when recomputed."""
    activations: int
    """Bytes of everything else that is saved for the backward pass."""
    activations_recomputed: int
    """Bytes that are saved with trainer.activation_checkpointing."""
    speech_tokens: int
    """Speech embeddings on each rank in an update."""
    text_tokens: int
    """Text tokens on each rank in an update, estimated."""

    def total(self, recomputed: bool) -> int:
        """Return all bytes on a rank, with or without activation checkpointing."""
        activations = self.activations_recomputed
        if not recomputed:
            activations = self.activations + self.copies
        return self.weights + self.gradients + self.optimizer + activations


def plan(config: Config, gpus: int) -> Plan:
    """Compute memory and tokens of a training on a number of GPUs.

    Raises:
        ValueError: the stage is lm, which has no speech, or the config.json of a pretrained model
            cannot be read.
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
    num_outside = count_outside(config)
    if num_outside:
        parameters["features"] = num_outside
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
    # every rank has the whole of them
    weights += BYTES_PER_FLOAT * num_outside
    batch_s = config.data.batch_s
    num_uses = 1
    if config.stage.data == "dialogues":
        work = dialogue_work(config)
        batch_s = work.audio_s + utterances_s(config)
        # the utterances are one more batch of the language model
        num_uses = work.num_batches + 1
        activations, activations_recomputed = dialogue_activations(config, work)
    else:
        activations, activations_recomputed = batch_activations(config)
    update_s = config.trainer.accumulate * batch_s
    return Plan(
        parameters=parameters,
        trained=trained,
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        copies=bf16_copies(config, model, num_uses),
        activations=activations,
        activations_recomputed=activations_recomputed,
        speech_tokens=int(update_s * 1000 / FrameTiming.of(config.model).token_ms),
        text_tokens=int(update_s * TEXT_PER_S),
    )


def count_outside(config: Config) -> int:
    """Return the weights of a frozen pretrained encoder on the GPU, which are not in the model."""
    encoder = config.encoder
    if not ENCODERS[encoder.kind].is_pretrained or encoder.trainable:
        return 0
    is_repeated = config.data.train_size > 0 or config.data.train_dialogues > 0
    # data workers compute features that are kept, and onnxruntime those of a wheel
    if is_repeated or find_encoder(encoder.pretrained).wheel is not None:
        return 0
    # imported here, because transformers takes seconds
    from duplexmamba.models.encoders.library import build_library_encoder

    with torch.device("meta"):
        built = build_library_encoder(str(encoder.pretrained)).model
    return sum(weight.numel() for weight in built.parameters())


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


def bf16_copies(config: Config, model: nn.Module, num_uses: int) -> int:
    """Return the bytes of the weights that autocast converts and the backward pass needs.

    autocast keeps the copy of a trained weight for all its uses. A frozen language model, through
    which the gradient passes, is converted for each use; other frozen parts come before all trained
    ones, and nothing of them is saved.

    Args:
        config: configuration of the training.
        model: the model, with `requires_grad` as in the training.
        num_uses: forward passes of the language model in a batch.
    """
    if config.trainer.precision == "32-true":
        return 0
    num_converted = 0
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            num_converted += weight.numel()
        elif part_of(name) == "lm":
            num_converted += num_uses * weight.numel()
    return BYTES_PER_BF16 * num_converted


def utterances_s(config: Config) -> float:
    """Return the seconds of the utterances beside a batch of dialogues."""
    num_utterances = config.data.batch_dialogues * config.stage.utterances_per_dialogue
    return float(num_utterances * UTTERANCE_S)


def dialogue_activations(config: Config, work: DialogueWork) -> tuple[int, int]:
    """Return the activations of a batch of dialogues in bytes, without and with checkpointing.

    Args:
        config: configuration of a stage on dialogues.
        work: what the batch makes the model compute.
    """
    probe = config
    if _has_own_sizes(config):
        probe = override(config, ["lm.pretrained=null", f"lm.vocab_size={PROBE_VOCAB}"])
    num_probes = (work.audio_s + utterances_s(config)) / PROBE_S
    steps_per_s = 1000 / FrameTiming.of(config.model).token_ms + TEXT_PER_S
    num_steps = work.lm_steps + utterances_s(config) * steps_per_s
    num_lm_probes = num_steps / PROBE_STEPS
    speech, speech_block = saved_by_all_layers(probe, False, speech_loss)
    lm, lm_block = saved_by_all_layers(probe, False, lm_loss)
    speech_recomputed, _ = saved_by_all_layers(probe, True, speech_loss)
    lm_recomputed, _ = saved_by_all_layers(probe, True, lm_loss)
    # logits and their probabilities, in all positions of the utterances
    num_logits = work.num_labels + utterances_s(config) * TEXT_PER_S
    kept = 2 * BYTES_PER_FLOAT * config.lm.vocab_size * num_logits
    kept += work.num_states * state_bytes(probe, work.conversation_steps)
    plain = num_probes * speech + num_lm_probes * lm + second_scan_bytes(config, work) + kept
    largest_block = max(
        work.audio_s / PROBE_S * speech_block,
        work.largest_batch_steps / PROBE_STEPS * lm_block,
    )
    # when its turn comes in the backward pass, a block has all of its activations again
    recomputed = num_probes * speech_recomputed + num_lm_probes * lm_recomputed + kept
    return int(plain), int(recomputed + largest_block)


def second_scan_bytes(config: Config, work: DialogueWork) -> int:
    """Return what the scans for the states at forks save: their inputs, and some of their states.

    An attention cache needs no scan, and pretrained models return states where rows are cut.
    """
    lm = config.lm
    if lm.kind == "transformer" or not _has_own_sizes(config):
        return 0
    channels = lm.expand * lm.d_model
    floats_per_step = channels * (2 + lm.d_state / SCAN_CHUNK)
    num_scans = lm_letters(config).count("M")
    return math.ceil(BYTES_PER_FLOAT * work.fork_steps * num_scans * floats_per_step)


@torch.no_grad()
def state_bytes(config: Config, num_steps: int) -> int:
    """Return the bytes of the language model's state of one row after a number of steps."""
    if not _has_own_sizes(config):
        # each step adds the same, if any
        first = _lm_state_bytes(config, "", 1)
        each = _lm_state_bytes(config, "", 2) - first
        return first + (num_steps - 1) * each
    total = 0
    for letter, number in Counter(lm_letters(config)).items():
        one = _lm_state_bytes(config, "M", num_steps)
        if letter != "M":
            one = _lm_state_bytes(config, f"M{letter}", num_steps) - one
        total += number * one
    return total


def _lm_state_bytes(config: Config, letters: str, num_steps: int) -> int:
    """Bytes of the state of layers by letter; of all those of a pretrained language model."""
    model = _build_model(_with_layers(config, encoder=1, lm=letters))
    assert isinstance(model, SpeechLM)
    _, state = model.lm(Padded(torch.zeros(1, num_steps, config.lm.d_model)))
    return states.num_bytes(state)


def lm_letters(config: Config) -> str:
    """Return a letter for each layer of the language model; layers of one letter are alike."""
    if config.lm.kind == "hybrid":
        return letters_of(config.lm)
    return "M" * config.lm.num_layers


def saved_by_all_layers(
    config: Config, recomputed: bool, loss: Loss | None = None
) -> tuple[int, int]:
    """Return the activations of a short input in bytes, of all layers and the largest.

    Each additional layer of a kind costs what the second layer of that kind does.

    Args:
        config: configuration of the model.
        recomputed: with activation checkpointing.
        loss: runs the model over the input; None: over PROBE_S seconds of speech with text.
    """
    # a pretrained encoder may have no blocks behind it, and another clock with some
    fewest = min(config.encoder.num_layers, 1)
    one_each = measure_saved(_with_layers(config, fewest, lm="M"), recomputed, loss)
    encoder_layer = 0
    if fewest:
        two_in_encoder = measure_saved(_with_layers(config, encoder=2, lm="M"), recomputed, loss)
        encoder_layer = two_in_encoder - one_each
    total = one_each + (config.encoder.num_layers - fewest) * encoder_layer
    largest = encoder_layer
    if not _has_own_sizes(config):
        return total, max(largest, _largest_pretrained_block(config, loss))
    num_more = Counter(lm_letters(config))
    num_more["M"] -= 1
    for letter, number in num_more.items():
        two_in_lm = measure_saved(_with_layers(config, fewest, f"M{letter}"), recomputed, loss)
        lm_layer = two_in_lm - one_each
        total += number * lm_layer
        largest = max(largest, lm_layer)
    return total, largest


def _largest_pretrained_block(config: Config, loss: Loss | None) -> int:
    """Activations in bytes of a block of the pretrained models, as the mean over all blocks."""
    model = _build_model(config)
    num_blocks = sum(isinstance(module, BLOCKS) for module in model.modules())
    saved = measure_saved(config, False, loss) - measure_saved(config, True, loss)
    return saved // max(num_blocks, 1)


def _with_layers(config: Config, encoder: int, lm: str) -> Config:
    """Change the number of layers of the encoder, and the layers of the language model by letter."""
    overrides = [f"encoder.num_layers={encoder}"]
    if not _has_own_sizes(config):
        return override(config, overrides)
    overrides.append(f"lm.num_layers={len(lm)}")
    # only a hybrid reads the pattern
    return override(config, [*overrides, f"lm.pattern={lm}"])


def measure_saved(config: Config, recomputed: bool, loss: Loss | None = None) -> int:
    """Return the bytes that the graph of one forward pass holds, in addition to the parameters.

    Args:
        config: configuration of the model.
        recomputed: with activation checkpointing.
        loss: runs the model over an input; None: over PROBE_S seconds of speech with text.
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
        graph = (loss or _loss)(model, config)  # noqa: F841
    return sum(sizes.values())


def _has_own_sizes(config: Config) -> bool:
    """Whether the section lm has the sizes of the language model, and not a config.json."""
    return LANGUAGE_MODELS[config.lm.kind].has_own_sizes


def _build_model(config: Config) -> nn.Module:
    """Build the model of a stage with its adapters, and freeze what the stage does.

    Pretrained models take no memory, on any device.
    """
    stage = STAGE_REGISTRY[config.stage.name]
    if _has_own_sizes(config):
        config = override(config, ["lm.pretrained=null"])
    is_without_weights = config.encoder.trainable or not _has_own_sizes(config)
    device = torch.device("meta") if is_without_weights else torch.get_default_device()
    with device:
        model = stage.model(config.model)
        if config.lora.enabled:
            lora.adapt(model, dataclasses.replace(config.lora, start=None), config.stage.trained)
    freeze(model, config)
    if is_without_weights and torch.get_default_device().type != "meta":
        _repeat_weights(model)
    return model


def _repeat_weights(model: nn.Module) -> None:
    """Put a model of the meta device on the CPU, each weight of it one number that is repeated."""
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            repeated = torch.zeros(()).expand(weight.shape)
            setattr(module, name, nn.Parameter(repeated, weight.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.zeros_like(buffer, device="cpu"))


def _loss(model: nn.Module, config: Config) -> torch.Tensor:
    """Loss over PROBE_S seconds of noise, with text where there is a language model."""
    assert isinstance(model, SpeechEncoder)
    frames = _frames_of_noise(model, config)
    if not isinstance(model, SpeechLM):
        return frames.values.square().mean()
    # (1, L) token ids
    text = Padded(torch.zeros(1, PROBE_S * TEXT_PER_S, dtype=torch.int64))
    prompt = Padded(text.values[:, :1])
    speech, _ = model.connector(frames)
    hidden, _ = model(prompt, speech, text)
    logits = model.lm.logits(hidden.values)
    return token_loss(logits, text.values, config.optim.label_smoothing)


def _frames_of_noise(model: SpeechEncoder, config: Config) -> Padded:
    """Encoder frames of PROBE_S seconds; nothing is saved for those of a frozen pretrained encoder."""
    features = model.features
    if isinstance(features, PretrainedEncoder) and not config.encoder.trainable:
        num_frames = int(1000 * PROBE_S / features.info.frame_ms)
        return model.encode_features(Padded(torch.randn(1, num_frames, features.width)))
    # (1, n) samples
    audio = Padded(torch.randn(1, PROBE_S * config.features.sample_rate_hz))
    frames, _ = model.encode(audio, final=True)
    return frames


def speech_loss(model: nn.Module, config: Config) -> torch.Tensor:
    """A loss over the speech embeddings of PROBE_S seconds of noise."""
    assert isinstance(model, SpeechLM)
    speech, _ = model.connector(_frames_of_noise(model, config))
    return speech.values.square().mean()


def lm_loss(model: nn.Module, config: Config) -> torch.Tensor:
    """A loss over the hidden states of the language model after PROBE_STEPS embeddings."""
    assert isinstance(model, SpeechLM)
    # a frozen language model passes the gradient on to the speech embeddings
    embeddings = torch.randn(1, PROBE_STEPS, config.lm.d_model, requires_grad=True)
    hidden, _ = model.lm(Padded(embeddings, torch.tensor([PROBE_STEPS])))
    return hidden.values.square().mean()


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
    out.print(conclusion(planned, config), highlight=False, soft_wrap=True)


def _memory_table(planned: Plan) -> Table:
    table = Table("GB on each rank", "plain", "activation_checkpointing", box=None)
    for name in ("weights", "gradients", "optimizer"):
        size = _gb(getattr(planned, name))
        table.add_row(name, size, size)
    table.add_row("weights in bfloat16", _gb(planned.copies), _gb(0))
    table.add_row("activations", _gb(planned.activations), _gb(planned.activations_recomputed))
    plain = planned.total(recomputed=False)
    recomputed = planned.total(recomputed=True)
    table.add_row("all", _gb(plain), _gb(recomputed))
    for card_gb in CARDS_GB:
        answers = ["yes" if fits(total, card_gb) else "no" for total in (plain, recomputed)]
        table.add_row(f"fits {card_gb} GB", *answers)
    return table


def fits(num_bytes: int, card_gb: float) -> bool:
    """Whether a training fits a GPU."""
    return num_bytes < USABLE_SHARE * card_gb * GB


def conclusion(planned: Plan, config: Config) -> str:
    """The smallest card that the training fits as it is configured, or the remedy."""
    is_recomputed = config.trainer.activation_checkpointing
    total = planned.total(is_recomputed)
    setting = f"trainer.activation_checkpointing={str(is_recomputed).lower()}"
    cards = [card_gb for card_gb in CARDS_GB if fits(total, card_gb)]
    if cards:
        return f"as configured, {setting}: {_gb(total)} GB, fits {cards[0]} GB"
    size = "data.batch_s"
    if config.stage.data == "dialogues":
        size = "data.batch_dialogues"
    remedies = [f"a lower {size} with a higher trainer.accumulate"]
    if not is_recomputed:
        remedies.append("trainer.activation_checkpointing=true")
    remedies.append("trainer.strategy=fsdp on more GPUs")
    return f"as configured, {setting}: {_gb(total)} GB, fits no card; try {', '.join(remedies)}"


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
