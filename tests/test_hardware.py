"""Precision by the device that trains, and what a training says about its device."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from configs.loading import override
from configs.schema import Config
from lightning_modules.trainer import hardware, machine

CPU = torch.device("cpu")


class Tf32(TorchFunctionMode):
    """Products as a GPU with TF32 computes them: below `highest` the factors keep 10 bits."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        is_float32 = (
            isinstance(args[0], Tensor) and args[0].dtype == torch.float32 if args else False
        )
        is_product = func in (Tensor.matmul, Tensor.__matmul__)
        if is_product and is_float32 and torch.get_float32_matmul_precision() != "highest":
            args = [(factor.view(torch.int32) & -(1 << 13)).view(torch.float32) for factor in args]
        return func(*args, **(kwargs or {}))


@pytest.fixture
def no_precision_left() -> None:
    yield
    torch.set_float32_matmul_precision("highest")


def test_a_device_that_rounds_to_tf32_computes_in_float32(no_precision_left: None) -> None:
    with Tf32():
        assert hardware.fastest_exact(CPU) == "highest"


def test_the_device_that_trains_decides_on_the_precision_of_products(
    config: Config, monkeypatch: pytest.MonkeyPatch, no_precision_left: None
) -> None:
    gpu, tested = torch.device("cuda"), []
    monkeypatch.setattr(
        hardware, "fastest_exact", lambda device: tested.append(device) or "highest"
    )
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: gpu)
    for accelerator in ("auto", "gpu", "cpu"):
        hardware.set_up_torch(override(config, [f"trainer.accelerator={accelerator}"]))
    assert tested == [gpu, gpu, CPU] and torch.get_float32_matmul_precision() == "highest"
    # a model that was trained on a GPU, on a machine without one
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    hardware.set_up_torch(override(config, ["trainer.accelerator=gpu"]))
    assert tested[-1] == CPU


@pytest.mark.parametrize(
    ("capability", "overrides", "expected"),
    [
        ((9, 0), [], "bf16-mixed"),
        ((8, 0), [], "bf16-mixed"),
        ((7, 5), [], "32-true"),
        ((7, 0), [], "32-true"),
        ((9, 0), ["trainer.accelerator=cpu"], "32-true"),
        ((7, 0), ["trainer.precision=bf16-mixed"], "bf16-mixed"),
    ],
)
def test_bfloat16_is_chosen_on_gpus_that_multiply_it(
    capability: tuple[int, int],
    overrides: list[str],
    expected: str,
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    # true on V100 and T4, which emulate it
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    assert hardware.numeric_precision(override(config, overrides).trainer) == expected


def add_card(folder: Path, vendor: str, device_class: str) -> None:
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(f"{vendor}\n")
    (folder / "class").write_text(f"{device_class}\n")


def test_the_first_line_names_device_precision_and_scan(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUPLEXMAMBA_SCAN", "torch")
    config = override(config, ["trainer.accelerator=cpu", "trainer.matmul_precision=bf16"])
    line = machine.describe(config)
    assert line.startswith("device: CPU") and line.count("\n") == 0
    assert "precision: 32-true, products in bfloat16; scan: torch" in line


def test_a_card_that_is_left_unused_is_announced(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(machine, "PCI_DEVICES", tmp_path)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    # NVIDIA's sound device, and the card of another vendor
    add_card(tmp_path / "a", "0x10de", "0x040300")
    add_card(tmp_path / "b", "0x1002", "0x030000")
    machine.announce(config)
    out, err = capsys.readouterr()
    assert out.startswith("device: CPU") and not err

    add_card(tmp_path / "c", "0x10de", "0x030200")
    machine.announce(config)
    assert "WARNING: this machine has an NVIDIA card" in (err := capsys.readouterr().err)
    assert "update the driver" in err
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES=''" in str(machine.unused_card(config.trainer))
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    assert "install torch's CUDA build" in str(machine.unused_card(config.trainer))
    assert machine.unused_card(override(config, ["trainer.accelerator=cpu"]).trainer) is None


def test_gpus_that_are_not_there_are_refused(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 0)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    asked = override(config, ["trainer.accelerator=gpu"]).trainer
    with pytest.raises(ValueError, match="trainer.accelerator=gpu: torch sees no GPU"):
        machine.check_device(asked)
    # on a CPU, several devices are several processes
    machine.check_device(override(config, ["trainer.devices=3"]).trainer)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    with pytest.raises(ValueError, match="trainer.devices=8: this machine has 4"):
        machine.check_device(override(config, ["trainer.devices=8"]).trainer)
    machine.check_device(override(config, ["trainer.devices=4"]).trainer)
