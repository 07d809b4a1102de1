"""Whatever a later stage would lack is said before the first stage is trained."""

import dataclasses
from pathlib import Path

import huggingface_hub.constants
import pytest
from tokenizers import Tokenizer as BackendTokenizer
from tokenizers import models
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedTokenizerFast,
)

from configs.loading import load_config
from lightning_modules.trainer import preflight as checks
from lightning_modules.trainer import train as command
from lightning_modules.trainer.stage_graph import run_folder
from tests.conftest import SMALL_SIZES, TINY
from tests.small_runs import SHORT
from train import main

NO_CTC = ["stages.asr.stage.ctc_weight=0"]
"""With a tokenizer of others there is no id for silence."""


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("espeakng_loader")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def args_of(runs: Path, *words: str, stage: str = "streaming") -> list[str]:
    return [TINY[0], f"configs/stage/{stage}.yaml", *SHORT, f"run.dir={runs}", *words]


def save_mamba(folder: Path, **settings: object) -> Path:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 1024}
    MambaForCausalLM(MambaConfig(**sizes, **settings)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tokenizer.source=nobody/nothing", *NO_CTC], "tokenizer.source='nobody/nothing': no read"),
        (["lm.pretrained=nobody/nothing"], "lm.pretrained='nobody/nothing': no readable folder or"),
        (["stages.lm.data.batch_s=1"], "data.batch_s=1.* is less than data.max_s"),
        (["stages.asr.lora.enabled=true"], "lora.targets: none of the linear layers"),
        (["stages.state.trainer.accelerator=gpu"], "trainer.accelerator=gpu: torch sees no GPU"),
        (["stage.init.connector={folder}"], "stage.init of stage streaming names .*, which has no"),
    ],
)  # fmt: skip
def test_what_a_later_stage_lacks_is_said_before_any_is_trained(
    words: list[str], message: str, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    with pytest.raises(ValueError, match=message):
        main(args_of(runs, *(word.format(folder=tmp_path) for word in words)))
    assert not runs.exists()


def test_a_pretrained_model_of_another_function_is_refused_before_any_stage_is_trained(
    tmp_path: Path,
) -> None:
    good, other = save_mamba(tmp_path / "a"), save_mamba(tmp_path / "b", layer_norm_epsilon=1e-2)
    args = args_of(tmp_path / "runs", f"lm.pretrained={good}", stage="asr")
    checks.preflight(args, load_config(args))
    args[-1] = f"lm.pretrained={other}"
    with pytest.raises(ValueError, match="has layer_norm_epsilon=0.01"):
        checks.preflight(args, load_config(args))
    assert not (tmp_path / "runs").exists()


def test_a_model_with_as_many_embeddings_as_its_tokenizer_has_ids_gets_three_more(
    tmp_path: Path, capsys
) -> None:
    """As SmolLM: each turn state needs an id. One remedy is enough."""
    words = ["<|endoftext|>", *"abcdefghijklmno"]
    backend = BackendTokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "a"))
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(tmp_path / "lm")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 16}
    LlamaForCausalLM(
        LlamaConfig(**sizes, num_attention_heads=2, rms_norm_eps=1e-5, tie_word_embeddings=True)
    ).save_pretrained(tmp_path / "lm")
    lm = ["lm.kind=transformer", "lm.family=llama", "lm.num_heads=2", "lm.d_ffn=48"]
    source = [f"lm.pretrained={tmp_path / 'lm'}", f"tokenizer.source={tmp_path / 'lm'}"]
    args = args_of(tmp_path / "runs", *lm, *source, "stage.ctc_weight=0", stage="asr")
    with pytest.raises(ValueError, match="lm.vocab_size=16 .*; set lm.vocab_size=19 or more"):
        checks.preflight(args, load_config([*args, "lm.vocab_size=16"]))
    checks.preflight([*args, "lm.vocab_size=19"], load_config([*args, "lm.vocab_size=19"]))
    assert "has 16 embeddings, lm.vocab_size=19: 3 new ones" in capsys.readouterr().out


def test_finished_stages_are_not_checked(tmp_path: Path) -> None:
    args = args_of(tmp_path, stage="asr")
    config = load_config(args)
    stages = [each.stage.name for each in checks.untrained_stages(args, config)]
    assert stages == ["encoder", "lm", "asr"]
    folder = run_folder(load_config(args, "encoder"))
    folder.mkdir()
    (folder / "summary.json").write_text("{}")
    stages = [each.stage.name for each in checks.untrained_stages(args, config)]
    assert stages == ["lm", "asr"]


def test_other_processes_start_after_the_checks(tmp_path: Path, monkeypatch) -> None:
    started = []
    monkeypatch.setattr(command, "run_parallel", started.append)
    with pytest.raises(SystemExit) as stopped:
        command.run_command(args_of(tmp_path, "lm.pretrained=nobody/nothing", stage="asr"))
    assert stopped.value.code == 2 and not started


def test_a_teacher_that_is_not_installed_is_named(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(checks, "check_pretrained_encoder", lambda e: asked.append(e.pretrained))
    config = load_config([*TINY, *SMALL_SIZES], "encoder")
    teacher = dataclasses.replace(config.stage, teacher="moonshine-tiny-en")
    checks.check_encoder(dataclasses.replace(config, stage=teacher))
    assert asked == [None, "moonshine-tiny-en"]
