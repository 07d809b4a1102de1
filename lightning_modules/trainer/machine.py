"""What a training runs on: its first line, and what is wrong with the choice of a device."""

import os
from pathlib import Path

import torch
from rich.console import Console

from configs.schema import Config, TrainerConfig
from duplexmamba.ops.scan import scan_path
from lightning_modules.trainer.bf16_products import Bf16Products
from lightning_modules.trainer.exits import is_rank_zero
from lightning_modules.trainer.hardware import (
    num_cores,
    num_processes,
    numeric_precision,
    training_device,
    training_products,
    trains_on_cpu,
)

PCI_DEVICES = Path("/sys/bus/pci/devices")
"""Linux: a folder for each device on the PCI bus."""
NVIDIA_VENDOR = "0x10de"
"""NVIDIA's number as a vendor of PCI devices."""
DISPLAY_CLASS = "0x03"
"""Beginning of the class of PCI devices that are display or 3D controllers."""


def announce(config: Config) -> None:
    """Print device, precision and scan path, and in red where a GPU of the machine is not used.

    The first of several processes prints it.
    """
    if not is_rank_zero():
        return
    print(describe(config), flush=True)
    problem = unused_card(config.trainer)
    if problem is not None:
        out = Console(stderr=True, soft_wrap=True)
        out.print(f"WARNING: {problem}", style="bold red", markup=False, highlight=False)


def describe(config: Config) -> str:
    """One line that names device, number of processes, precision, and what runs the scan."""
    trainer = config.trainer
    device = training_device(trainer)
    name = f"CPU of {num_cores()} usable cores"
    if device.type == "cuda":
        name = torch.cuda.get_device_name()
    elif device.type != "cpu":
        name = device.type
    precision = numeric_precision(trainer)
    if isinstance(training_products(trainer), Bf16Products):
        precision += ", products in bfloat16"
    path = scan_path(torch.zeros(0, device=device))
    return (
        f"device: {name}; processes on this machine: {num_processes(trainer)}; "
        f"precision: {precision}; scan: {path}"
    )


def unused_card(config: TrainerConfig) -> str | None:
    """Say why a training runs on the CPU of a machine with an NVIDIA card, and the remedy.

    Returns:
        None where there is no such card, it is used, or the CPU was asked for.
    """
    if config.accelerator == "cpu" or not trains_on_cpu(config) or not has_nvidia_card():
        return None
    return (
        f"this machine has an NVIDIA card, but the training runs on its CPU, many times slower: "
        f"{why_no_gpu()}; trainer.accelerator=cpu asks for the CPU"
    )


def has_nvidia_card() -> bool:
    """Whether Linux sees a graphics card of NVIDIA on the PCI bus, with or without a driver."""
    for device in PCI_DEVICES.glob("*"):
        vendor = (device / "vendor").read_text().strip()
        device_class = (device / "class").read_text().strip()
        if vendor == NVIDIA_VENDOR and device_class.startswith(DISPLAY_CLASS):
            return True
    return False


def why_no_gpu() -> str:
    """Say why torch sees no GPU, and the remedy."""
    if not torch.backends.cuda.is_built():
        return (
            f"torch {torch.__version__} is built for the CPU alone; install torch's CUDA build "
            "(docs/scale.md)"
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return f"CUDA_VISIBLE_DEVICES={visible!r} leaves none; unset it, or name one"
    return (
        f"torch {torch.__version__} needs a driver for CUDA {torch.version.cuda}; install or update "
        "the driver, whose version nvidia-smi prints"
    )


def check_device(config: TrainerConfig) -> None:
    """Check that the GPUs that a configuration asks for are there.

    Raises:
        ValueError: there are none, or fewer; names field, value and remedy.
    """
    if config.accelerator in ("auto", "cpu") and trains_on_cpu(config):
        return
    num_gpus = torch.accelerator.device_count()
    if num_gpus == 0:
        raise ValueError(
            f"trainer.accelerator={config.accelerator}: torch sees no GPU: {why_no_gpu()}, or set "
            "trainer.accelerator=cpu"
        )
    if config.devices > num_gpus:
        raise ValueError(
            f"trainer.devices={config.devices}: this machine has {num_gpus}, as far as torch may "
            f"use them; set trainer.devices={num_gpus} or fewer"
        )
