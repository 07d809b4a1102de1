"""The C++ kernels: built by the system's compiler at first use, kept in the user's cache, called through ctypes."""

import ctypes
import functools
import hashlib
import os
import subprocess
import tempfile
import warnings
from pathlib import Path

FOLDER = Path(__file__).with_name("kernels")
KERNELS = (
    "scan_forward", "scan_backward", "conv_forward", "conv_backward", "mamba_step", "matrix_vectors", "silu_forward",
    "silu_backward", "softplus_forward", "softplus_backward", "gated_forward", "gated_backward",
)  # fmt: skip
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-shared")


@functools.cache
def load_library(flags: tuple[str, ...]) -> ctypes.CDLL:
    """The built kernels. Raises OSError without a compiler, RuntimeError with its message where it fails."""
    built = ctypes.CDLL(str(build_library(flags)))
    sizes = *[ctypes.c_int64] * 6, ctypes.c_int
    built.scan_forward.argtypes = *[ctypes.c_void_p] * 10, *sizes
    built.scan_backward.argtypes = *[ctypes.c_void_p] * 17, *sizes
    built.mamba_step.argtypes = *[ctypes.c_void_p] * 15, *[ctypes.c_int64] * 6, ctypes.c_int
    built.conv_forward.argtypes = *[ctypes.c_void_p] * 4, *[ctypes.c_int64] * 4, *[ctypes.c_int] * 2
    built.conv_backward.argtypes = (
        *[ctypes.c_void_p] * 7,
        *[ctypes.c_int64] * 4,
        *[ctypes.c_int] * 2,
    )
    for name in ("silu", "softplus"):
        getattr(built, f"{name}_forward").argtypes = (
            *[ctypes.c_void_p] * 2,
            ctypes.c_int64,
            ctypes.c_int,
        )
        getattr(built, f"{name}_backward").argtypes = (
            *[ctypes.c_void_p] * 3,
            ctypes.c_int64,
            ctypes.c_int,
        )
    built.gated_forward.argtypes = *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 3, ctypes.c_int
    built.gated_backward.argtypes = *[ctypes.c_void_p] * 5, *[ctypes.c_int64] * 3, ctypes.c_int
    built.matrix_vectors.argtypes = *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 3, ctypes.c_int
    for kernel in KERNELS:
        getattr(built, kernel).restype = None
    return built


def library() -> ctypes.CDLL:
    """The kernels for this processor; raises as `load_library`."""
    return load_library(FLAGS)


def vector_width() -> int:
    """What the channels of a kernel must be a multiple of."""
    return library().vector_width()


def build_library(flags: tuple[str, ...] = FLAGS) -> Path:
    """The shared library for these flags, compiler ($CXX or c++) and processor, built if the user's cache lacks it."""
    compiler = os.environ.get("CXX", "c++")
    # The predefined macros name the compiler's version and every instruction set that -march=native stands for here.
    target = _run(compiler, *flags, "-dM", "-E", "-x", "c++", os.devnull)
    texts = [file.read_text() for file in sorted(FOLDER.iterdir())]
    key = hashlib.sha256("\0".join([*texts, *flags, target]).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "duplexmamba"
    built = cache / f"kernels_{key}.so"
    if not built.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=cache
        ) as scratch:  # same disk, so that the move into place is atomic
            fresh = os.path.join(scratch, built.name)
            _run(compiler, *flags, "-o", fresh, *map(str, sorted(FOLDER.glob("*.cpp"))))
            os.replace(fresh, built)
    return built


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


@functools.cache
def kernels_work() -> bool:
    """Whether they can be built here; warns once where they cannot."""
    try:
        library()
    except (OSError, RuntimeError) as error:
        warnings.warn(
            f"The scan runs in plain torch, several times slower, because its C++ kernel could not be built: {error}\n"
            "Install a C++ compiler (Debian and Ubuntu: apt install g++) or set CXX; "
            "DUPLEXMAMBA_SCAN=torch silences this.",
            stacklevel=2,
        )
        return False
    return True
