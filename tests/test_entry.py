"""Settings that make a run faster and change nothing else."""

import torch

from configs.loading import override
from configs.schema import Config
from lightning_modules.trainer import hardware

CPU = torch.device("cpu")


def test_auto_precision_is_the_fastest_that_is_exact(monkeypatch) -> None:
    chosen = hardware.fastest_exact(CPU)
    torch.set_float32_matmul_precision(chosen)
    a, b = torch.randn(2, 64, 64)
    torch.testing.assert_close((a @ b).double(), a.double() @ b.double(), atol=1e-4, rtol=1e-5)
    monkeypatch.setattr(hardware, "EXACT", 0.0)
    assert hardware.fastest_exact(CPU) == "highest"


def test_a_configured_precision_is_used(config: Config) -> None:
    hardware.trainer_settings(override(config, ["trainer.matmul_precision=high"]))
    assert torch.get_float32_matmul_precision() == "high"
    torch.set_float32_matmul_precision("highest")


def test_freed_memory_is_kept_where_the_library_supports_it(monkeypatch) -> None:
    calls = []
    library = type("Library", (), {"mallopt": staticmethod(lambda *x: calls.append(x))})
    monkeypatch.setattr(hardware.ctypes, "CDLL", lambda name: library)
    hardware.keep_freed_memory()
    assert calls == [(-4, 0), (-1, -1)]
    monkeypatch.setattr(hardware.ctypes, "CDLL", lambda name: object())
    hardware.keep_freed_memory()
    assert len(calls) == 2
