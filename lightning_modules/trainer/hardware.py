"""What the entry points share: hardware, a quiet screen, and exits that say what to do."""

import contextlib
import ctypes
import errno
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from configs.schema import Config, TrainerConfig
from lightning_modules.trainer.fsdp import strategy

EXACT = 1e-5
"""Largest error of a product, relative to its largest value, that counts as float32's; measured: 4e-7 to 8e-7."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # from malloc.h


def trainer_settings(config: Config) -> dict[str, Any]:
    """Hardware and precision, the same for training and scoring; progress and checkpoints are ours."""
    c = config.trainer
    set_up_torch(config)
    precision = c.precision
    if precision == "auto":
        precision = (
            "bf16-mixed"
            if torch.cuda.is_available() and torch.cuda.is_bf16_supported()
            else "32-true"
        )
    return {
        "accelerator": c.accelerator, "devices": c.devices, "num_nodes": c.num_nodes, "precision": precision,
        "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
        "use_distributed_sampler": False, "strategy": strategy(c), "inference_mode": c.strategy == "ddp",
    }  # fmt: skip


def trains_on_cpu(config: TrainerConfig) -> bool:
    """Whether this configuration trains on the CPU here."""
    return config.accelerator == "cpu" or (
        config.accelerator == "auto" and not torch.accelerator.is_available()
    )


def num_cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_processes(config: TrainerConfig) -> int:
    """Of a training on this machine: one for each device, or those that share out the batches of one on a CPU."""
    if not trains_on_cpu(config) or config.devices > 1 or started_from_outside():
        return config.devices
    return max(1, min(config.cpu_processes, num_cores() // (config.threads or num_cores())))


def started_from_outside() -> bool:
    """Whether torchrun or Slurm has started all processes that there are to be."""
    return TorchElasticEnvironment.detect() or SLURMEnvironment.detect()


def set_up_torch(config: Config) -> None:
    """Products, threads and memory of this process as the configuration has them."""
    c = config.trainer
    torch.set_float32_matmul_precision(
        fastest_exact() if c.matmul_precision == "auto" else c.matmul_precision
    )
    if c.threads:
        torch.set_num_threads(c.threads)
    if c.keep_freed_memory:
        keep_freed_memory()


def fastest_exact() -> str:
    """`medium` where its float32 products on this CPU are float32's, else `highest`.

    Some CPUs have faster routines for it that are as exact, others go down to bfloat16.
    """
    torch.set_float32_matmul_precision("medium")
    a, b = torch.randn(2, 256, 256, generator=torch.Generator().manual_seed(0))
    exact = a.double() @ b.double()
    error = float((a @ b - exact).abs().max() / exact.abs().max())
    return "medium" if error <= EXACT else "highest"


def keep_freed_memory() -> None:
    """Without this every large tensor is mapped and faulted in anew (glibc's mallopt)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def quiet_libraries() -> None:
    """Keep the libraries' advertisements and known, harmless warnings off the screen."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings(
        "ignore", message="Grad strides do not match bucket view strides"
    )  # 1-channel convolution


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """While it is open no other process trains in a folder, which is made: agents of a sweep share the stages upstream.

    The system opens the lock of a process that was killed. Further ranks of a training go in with the first.
    """
    if getattr(rank_zero_only, "rank", 0) != 0:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process that trains {folder}", flush=True)
        held = lock.acquire(poll_interval=0.5)
    with held:
        yield


@contextlib.contextmanager
def exit_cleanly() -> Iterator[None]:
    """Turn what a user can mend into one sentence and an exit code: 2 bad input, 1 disk full, 143 SIGTERM.

    After SIGTERM that is the first rank's: were it any other's too, Lightning would kill the first before its end.
    """
    try:
        yield
    except SIGTERMException:
        first = getattr(rank_zero_only, "rank", 0) == 0
        if first:
            print("stopped by SIGTERM: the same command goes on from here", file=sys.stderr)
        sys.exit(143 if first else 0)
    except (ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (OSError, RuntimeError) as error:
        if not disk_full(error):
            raise
        print(
            "error: disk full; make room: the same command goes on from its last checkpoint",
            file=sys.stderr,
        )
        sys.exit(1)


def disk_full(error: BaseException | None) -> bool:
    """Whether that is what an error, or one upstream it, comes from: torch wraps what it meets while it writes."""
    while error is not None:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return True
        error = error.__context__
    return False
