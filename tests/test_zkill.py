import signal, pytest, os, time
from pathlib import Path
from tests.test_train import *
from tests.test_train import train_in_two, train, losses
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_k(tmp_path, kill, strategy):
    args = ["trainer.max_steps=12", "trainer.checkpoint_every_s=0", "data.num_workers=1", "trainer.devices=2", f"trainer.strategy={strategy}"]
    whole = train(tmp_path / "whole", *args, stage="encoder")
    assert whole.returncode == 0, whole.err
    train_in_two(tmp_path / "cut", *args, stage="encoder", kill=kill)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
