"""Two ranks with sharded weights have the gradients, updates and files of ranks that hold full
weights.
"""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.utils.data import DataLoader

from configs.loading import load_config, override
from datamodules.batching import SpeechBatch, collate
from datamodules.corpus import Utterance
from datamodules.dialogue.data import DialogueBatch, collate_dialogues
from duplexmamba.models import lora
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.text.decoding import is_sharded
from duplexmamba.text.tokenizer import Tokenizer
from lightning_modules.assembly import learn_marker_rows, unsharded
from lightning_modules.encoder import CTCRecogniser, EncoderStage
from lightning_modules.stage import StageModule
from lightning_modules.stages import STAGE_REGISTRY
from lightning_modules.trainer.activation_checkpointing import checkpoint_activations
from lightning_modules.trainer.averaging import WeightAveraging
from lightning_modules.trainer.callbacks import LAST, ResumeCheckpoint
from lightning_modules.trainer.fsdp import full_tensor, max_over_ranks, shard, shared_modules
from lightning_modules.trainer.run import build_trainer, fit
from tests.conftest import SMALL_SIZES, TINY
from tests.test_branch_targets import SCRIPTS, dialogue_of

RANKS = 2
TOKEN_SAMPLES = 3200
"""Samples of a speech embedding."""
LEARNING_LM = ["stage.trained=[connector,lm]"]
CASES = {
    "asr": [],
    "asr, recomputed": [
        "trainer.activation_checkpointing=true",
        "connector.kind=ctc",
        "encoder.dropout=0.2",
    ],
    "instruct, adapters in common": [
        "lora.enabled=true",
        "lora.rank=2",
        "lora.shared=[in_proj]",
        *LEARNING_LM,
    ],
    "streaming": LEARNING_LM,
    "streaming, transformer": [*LEARNING_LM, "lm.kind=transformer", "lm.num_heads=2"],
    "asr, marker rows": ["lm.pretrained=somewhere"],
    "streaming, hybrid": [*LEARNING_LM, "lm.kind=hybrid", "lm.num_heads=2"],
    "streaming, multiplex": ["duplex.kind=multiplex"],
}
pytestmark = pytest.mark.timeout(300)


def speech(seed: int, count: int) -> SpeechBatch:
    """Noise with words to it."""
    noise = torch.randn(
        count, TOKEN_SAMPLES * (5 + seed), generator=torch.Generator().manual_seed(seed)
    ).numpy()
    return collate(
        [Utterance(f"{seed}", row, f"word {seed} and more", "an answer", "s") for row in noise],
        TOKEN_SAMPLES,
    )


def dialogues(scripts: list[str], utterances: SpeechBatch) -> DialogueBatch:
    made = collate_dialogues(
        [(dialogue_of(script, TOKEN_SAMPLES), []) for script in scripts], TOKEN_SAMPLES
    )
    return DialogueBatch(made.samples, made.dialogues, utterances, [])


def stage_of(case: str) -> StageModule:
    """The same on every rank."""
    stage = case.split(",")[0]
    config = load_config([TINY[0], f"configs/stage/{stage}.yaml", *SMALL_SIZES, *CASES[case]])
    torch.manual_seed(1)
    model = SpeechLM(config.model)
    if config.lora.enabled:
        lora.adapt(model, config.lora, config.stage.trained)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(weight, std=0.1)
    tokenizer = Tokenizer.train(["word and more", "an answer"])
    learn_marker_rows(model, config, tokenizer)
    if config.trainer.activation_checkpointing:
        checkpoint_activations(model)
    return STAGE_REGISTRY[stage].module(config, model, tokenizer).train()


def batches_of(case: str) -> list:
    """One for each rank; the dialogue of the first has fewer fork_schedule of rows."""
    if not case.startswith("streaming"):
        return [speech(1, 2), speech(2, 3)]
    return [dialogues([SCRIPTS[3]], speech(1, 1)), dialogues([SCRIPTS[2]], speech(2, 2))]


def gradients(module: StageModule) -> dict[str, torch.Tensor]:
    found = {
        name: full_tensor(p.grad) for name, p in module.named_parameters() if p.grad is not None
    }
    module.zero_grad()
    return found


def assert_same_gradients(rank: int, folder: Path) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS
    )
    mesh = init_device_mesh("cpu", (RANKS,))
    for case in CASES:
        plain, module, batches = stage_of(case), stage_of(case), batches_of(case)
        assert bool(shared_modules(module)) == ("in common" in case)
        expected = []
        for seed, batch in enumerate(batches):
            torch.manual_seed(seed)
            expected.append(plain.training_loss(batch))
            (expected[-1] / RANKS).backward()
        shard(module, "training_loss", mesh)
        assert is_sharded(module.model.lm)
        assert not is_sharded(plain.model.lm)
        weights = sum(w.to_local().numel() for w in module.parameters())
        assert weights < 0.6 * sum(w.numel() for w in plain.parameters()), case
        torch.manual_seed(rank)
        loss = module.training_loss(batches[rank])
        torch.testing.assert_close(loss, expected[rank], msg=case)
        loss.backward()
        of_one, of_both = gradients(plain), gradients(module)
        assert of_one.keys() == of_both.keys()
        for name, gradient in of_one.items():
            torch.testing.assert_close(
                of_both[name], gradient, atol=1e-6, rtol=1e-4, msg=f"{case}: {name}"
            )
    assert max_over_ranks(rank, module) == 1 and max_over_ranks(rank, plain) == rank
    module._no_loss().backward()
    assert all(not gradient.any() for gradient in gradients(module).values())
    distributed.destroy_process_group()
    (folder / f"passed on rank {rank}").touch()


def assert_on_all_ranks(check: Callable[[int, Path], None], folder: Path) -> None:
    """What fails on a rank fails here; each leaves a file behind its last assertion."""
    torch.multiprocessing.spawn(check, (folder,), RANKS)
    assert len([*folder.glob("passed on rank *")]) == RANKS


def test_sharded_weights_give_the_gradients_of_full_ones(tmp_path: Path) -> None:
    assert_on_all_ranks(assert_same_gradients, tmp_path)


class Few(L.LightningDataModule):
    """Other batches on each rank."""

    start_batch = 0

    def train_dataloader(self) -> DataLoader:
        batches = [speech(self.trainer.global_rank + 2 * i, 2) for i in range(self.start_batch, 8)]
        return DataLoader(batches, batch_size=None)


def trained(folder: Path, strategy: str, precision: str = "32-true") -> dict[str, torch.Tensor]:
    """Weights after four updates, those before the checkpoint in the folder left out."""
    words = [
        "trainer.devices=2",
        "trainer.max_steps=4",
        "trainer.accelerator=cpu",
        "trainer.checkpoint_every_s=0",
    ]
    words += [
        f"trainer.strategy={strategy}",
        "trainer.average_last=2",
        "trainer.average_every_steps=2",
    ]
    words += [
        "wandb.mode=disabled",
        f"trainer.precision={precision}",
        # the strategies are compared by their weights
        "trainer.matmul_precision=highest",
        "optim.warmup_steps=1",
        "optim.clip=0.1",
    ]
    config = override(load_config([TINY[0], "configs/stage/encoder.yaml", *SMALL_SIZES]), words)
    torch.manual_seed(1)
    module = EncoderStage(config, CTCRecogniser(config.model), None)
    trainer = build_trainer(
        config, folder, [ResumeCheckpoint(folder / LAST, 0), WeightAveraging(config)]
    )
    fit(trainer, module, Few(), folder)
    trainer.strategy.barrier()
    return unsharded(module).model.state_dict()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def assert_resuming(rank: int, folder: Path) -> None:
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = (folder / "port").read_text()
    unbroken = trained(folder / "fsdp", "fsdp")
    whole_weights = trained(folder / "ddp", "ddp")
    if rank == 0:
        shutil.copytree(folder / "fsdp", folder / "fsdp_ddp")
        shutil.copytree(folder / "ddp", folder / "ddp_fsdp")
    distributed.barrier()
    again = trained(folder / "fsdp", "fsdp")
    others = [
        whole_weights,
        trained(folder / "fsdp_ddp", "ddp"),
        trained(folder / "ddp_fsdp", "fsdp"),
    ]
    in_bf16, whole_in_bf16 = (
        trained(folder / f"{s}_bf16", s, "bf16-mixed") for s in ("fsdp", "ddp")
    )
    for name, weight in unbroken.items():
        torch.testing.assert_close(in_bf16[name], whole_in_bf16[name], atol=1e-3, rtol=0)
        torch.testing.assert_close(again[name], weight, atol=0, rtol=0)
        for other in others:
            torch.testing.assert_close(other[name], weight, atol=1e-5, rtol=1e-3, msg=name)
    (folder / f"passed on rank {rank}").touch()


def test_training_resumes_with_sharded_or_full_weights(tmp_path: Path) -> None:
    (tmp_path / "port").write_text(str(free_port()))
    for name in ("fsdp", "ddp", "fsdp_bf16", "ddp_bf16"):
        (tmp_path / name).mkdir()
    assert_on_all_ranks(assert_resuming, tmp_path)
