"""Build and load the C++ kernels of kernels/.

The system's compiler builds them at first use, for this processor, into a shared library in the
user's cache. Python calls them through ctypes with the addresses of tensors.
"""

import ctypes
import functools
import hashlib
import os
import subprocess
import tempfile
import warnings
from pathlib import Path

import torch

FOLDER = Path(__file__).with_name("kernels")
"""Sources of the kernels."""

KERNELS = {
    "scan_forward": (10, 6, 1),
    "scan_backward": (17, 6, 1),
    "conv_forward": (4, 4, 2),
    "conv_backward": (7, 4, 2),
    "mamba_step": (15, 6, 1),
    "matrix_vectors": (3, 3, 1),
    "silu_forward": (2, 1, 1),
    "silu_backward": (3, 1, 1),
    "softplus_forward": (2, 1, 1),
    "softplus_backward": (3, 1, 1),
    "gated_forward": (3, 3, 1),
    "gated_backward": (5, 3, 1),
}
"""Kernel -> numbers of its arguments: addresses, then int64 sizes, then ints."""

FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-shared")
"""Compiler flags."""


@functools.cache
def load_library(flags: tuple[str, ...]) -> ctypes.CDLL:
    """Build the kernels if necessary, and load them.

    Args:
        flags: compiler flags.

    Raises:
        OSError: there is no compiler, or the library cannot be loaded.
        RuntimeError: the compiler fails; the message contains its output.
    """
    library = ctypes.CDLL(str(build_library(flags)))
    for name, (num_addresses, num_sizes, num_ints) in KERNELS.items():
        kernel = getattr(library, name)
        kernel.restype = None
        # Without declared types ctypes would pass addresses as 32-bit ints.
        kernel.argtypes = (
            [ctypes.c_void_p] * num_addresses
            + [ctypes.c_int64] * num_sizes
            + [ctypes.c_int] * num_ints
        )
    return library


def library() -> ctypes.CDLL:
    """Return the kernels for this processor. Raises like `load_library`."""
    return load_library(FLAGS)


def vector_width() -> int:
    """Return how many float32 channels one vector holds; kernels take multiples of it."""
    return library().vector_width()


def num_threads(work: int, smallest: int) -> int:
    """Return how many threads a kernel uses.

    Args:
        work: numbers that the call computes or reads.
        smallest: work up to which waking other threads costs more than it saves.
    """
    return torch.get_num_threads() if work > smallest else 1


def build_library(flags: tuple[str, ...] = FLAGS) -> Path:
    """Build the shared library if the user's cache lacks it.

    The compiler is $CXX or c++. The name of the file depends on sources, flags, compiler and
    processor, so that caches can be shared between machines.

    Args:
        flags: compiler flags.

    Returns:
        Path of the library.

    Raises:
        OSError: there is no compiler.
        RuntimeError: the compiler fails; the message contains its output.
    """
    compiler = os.environ.get("CXX", "c++")
    cache_root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(cache_root) / "duplexmamba"
    built = cache / f"kernels_{_source_key(compiler, flags)}.so"
    if built.exists():
        return built
    cache.mkdir(parents=True, exist_ok=True)
    sources = [str(source) for source in sorted(FOLDER.glob("*.cpp"))]
    # On the same disk, so that moving the file into place is atomic: processes of one node may all
    # build at once.
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        fresh = os.path.join(scratch, built.name)
        _run(compiler, *flags, "-o", fresh, *sources)
        os.replace(fresh, built)
    return built


@functools.cache
def kernels_work() -> bool:
    """Check whether the kernels can be built and loaded here; warn once where they cannot."""
    try:
        library()
    except (OSError, RuntimeError) as error:
        warnings.warn(
            "The scan runs in plain torch, several times slower, because its C++ kernel could not "
            f"be built: {error}\n"
            "Install a C++ compiler (Debian and Ubuntu: apt install g++) or set CXX; "
            "DUPLEXMAMBA_SCAN=torch silences this.",
            stacklevel=2,
        )
        return False
    return True


def _source_key(compiler: str, flags: tuple[str, ...]) -> str:
    """Hash the sources, the flags and the target of the compiler."""
    # The predefined macros contain the version of the compiler and every instruction set that
    # -march=native enables on this machine.
    target = _run(compiler, *flags, "-dM", "-E", "-x", "c++", os.devnull)
    texts = [source.read_text() for source in sorted(FOLDER.iterdir())]
    hashed = "\0".join([*texts, *flags, target])
    return hashlib.sha256(hashed.encode()).hexdigest()[:16]


def _run(*command: str) -> str:
    """Run a command and return its standard output. Raises RuntimeError if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout
