"""Hardware of a training: processes, CPU cores, precision, and how torch and the C library are set
up.
"""

import contextlib
import ctypes
import os
from typing import Any

import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from configs.schema import Config, TrainerConfig
from lightning_modules.trainer.bf16_products import Bf16Products, has_bf16_instructions
from lightning_modules.trainer.fsdp import strategy

EXACT = 1e-5
"""Largest error of a matrix product, relative to its largest value, that still counts as float32.

Products in true float32 were measured at 4e-7 to 8e-7.
"""
BF16_CAPABILITY = (8, 0)
"""Compute capability of NVIDIA's first GPUs that multiply bfloat16: Ampere, such as the A100."""
M_TRIM_THRESHOLD = -1
"""Number of this option of `mallopt` in malloc.h."""
M_MMAP_MAX = -4
"""Number of this option of `mallopt` in malloc.h."""


def trainer_settings(config: Config) -> dict[str, Any]:
    """Arguments of Lightning's trainer for hardware and precision, equal for training and scoring.

    Progress bar, model summary and checkpoints are switched off: this package has its own.
    """
    trainer = config.trainer
    set_up_torch(config)
    return {
        "accelerator": trainer.accelerator,
        "devices": trainer.devices,
        "num_nodes": trainer.num_nodes,
        "precision": numeric_precision(trainer),
        "strategy": strategy(trainer),
        # inference mode makes tensors that FSDP cannot gather
        "inference_mode": trainer.strategy == "ddp",
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
    }


def numeric_precision(config: TrainerConfig) -> str:
    """Value of Lightning's `precision`: the configured one, or what `auto` stands for here.

    torch calls bfloat16 supported on GPUs that only emulate it, slower than float32; those are told
    by their compute capability.
    """
    if config.precision != "auto":
        return config.precision
    if trains_on_cpu(config) or not torch.cuda.is_available():
        return "32-true"
    has_bf16 = torch.cuda.get_device_capability() >= BF16_CAPABILITY
    return "bf16-mixed" if has_bf16 else "32-true"


def trains_on_cpu(config: TrainerConfig) -> bool:
    """Whether this configuration trains on the CPU of this machine."""
    if config.accelerator == "auto":
        return not torch.accelerator.is_available()
    return config.accelerator == "cpu"


def training_device(config: TrainerConfig) -> torch.device:
    """Type of the device that this process trains on, or runs a trained model on."""
    device = None
    if not trains_on_cpu(config):
        device = torch.accelerator.current_accelerator(check_available=True)
    # a model that was trained on a GPU may be used on a machine without one
    return device or torch.device("cpu")


def num_cores() -> int:
    """Number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def num_processes(config: TrainerConfig) -> int:
    """Number of training processes on this machine.

    There is one process for each device. A training on the CPU may divide the batches of its one
    device among `cpu_processes` processes, as far as there are cores for all their threads.
    """
    if not trains_on_cpu(config) or config.devices > 1 or started_by_launcher():
        return config.devices
    threads = config.threads or num_cores()
    return max(1, min(config.cpu_processes, num_cores() // threads))


def started_by_launcher() -> bool:
    """Whether torchrun or Slurm has started all processes of this training.

    Raises:
        ValueError: Slurm was asked for several processes in a way in which they are not started.
    """
    if TorchElasticEnvironment.detect():
        return True
    if not SLURMEnvironment.detect():
        return False
    num_tasks = os.environ["SLURM_NTASKS"]
    if num_tasks != "1" and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise ValueError(
            f"SLURM_NTASKS={num_tasks}: tasks are given for each node: `#SBATCH --nodes=1 "
            f"--ntasks-per-node={num_tasks}`, with trainer.devices={num_tasks}; or --ntasks=1"
        )
    return True


def set_up_torch(config: Config) -> None:
    """Set precision of products, number of threads and memory policy of this process."""
    trainer = config.trainer
    precision: str = trainer.matmul_precision
    if precision in ("auto", "bf16"):
        precision = fastest_exact(training_device(trainer))
    torch.set_float32_matmul_precision(precision)
    if trainer.threads:
        torch.set_num_threads(trainer.threads)
    if trainer.keep_freed_memory:
        keep_freed_memory()


def training_products(trainer: TrainerConfig) -> contextlib.AbstractContextManager[object]:
    """Return the context in which losses are computed: that of products in bfloat16, or none."""
    in_float32 = trainer.precision in ("auto", "32-true")
    if not trains_on_cpu(trainer) or not in_float32 or trainer.strategy != "ddp":
        return contextlib.nullcontext()
    # the backward pass, which is outside the context, would recompute other values
    if trainer.activation_checkpointing:
        return contextlib.nullcontext()
    is_chosen = trainer.matmul_precision == "auto" and has_bf16_instructions()
    if is_chosen or trainer.matmul_precision == "bf16":
        return Bf16Products()
    return contextlib.nullcontext()


def fastest_exact(device: torch.device) -> str:
    """Return `medium` if its matrix products on a device are as exact as float32, else `highest`.

    Some CPUs have faster routines for `medium` that are as exact, others go down to bfloat16. NVIDIA
    GPUs since Ampere round the factors to TF32, which has as few digits as float16.
    """
    torch.set_float32_matmul_precision("medium")
    # a generator of its own leaves the random state of the training alone
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 256, 256, generator=generator)
    expected = a.double() @ b.double()
    product = (a.to(device) @ b.to(device)).cpu()
    largest_error = float((product - expected).abs().max() / expected.abs().max())
    return "medium" if largest_error <= EXACT else "highest"


def keep_freed_memory() -> None:
    """Let the C library reuse freed memory (glibc's `mallopt`); no effect with another C library.

    Without this every large tensor is mapped anew, and its pages are faulted in again.
    """
    # musl and macOS have no mallopt
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
