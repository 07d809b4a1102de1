"""Adapters: each changes the output, merging keeps it, and the loader of peft reads them."""

import copy
import os
import shutil
from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor, nn

from configs.loading import load_config, override
from configs.recipes import stage_file
from configs.schema import Config
from duplexmamba.models.lora import adapt, adapters, export, kind_of, merge, targets
from duplexmamba.models.speech_lm import SpeechLM, is_adapter
from duplexmamba.streaming.padded import Padded
from lightning_modules.assembly import check_adapters
from lightning_modules.speech import InstructStage
from tests.conftest import LM_KINDS, SMALL_SIZES, TINY

PARTS = ["frontend", "encoder", "connector", "lm"]
BOTH_WAYS = [
    "encoder.context=causal_lookahead",
    "encoder.slice_ms=200",
    "encoder.train_slice_ms=[200,200]",
]
needs_compiler = pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX", "c++")), reason="no C++ compiler"
)
on_every_path = pytest.mark.parametrize(
    "path", ["reference", "torch", pytest.param("cpp", marks=needs_compiler)]
)


def configured(*overrides: str) -> Config:
    """A small model with adapters of rank 2 on all linear layers."""
    return load_config([*TINY, *SMALL_SIZES, "lora.rank=2", 'lora.targets=["*"]', *overrides])


def adapted(config: Config, base: SpeechLM | None = None) -> SpeechLM:
    """Return the model with adapters that change its output considerably."""
    model = copy.deepcopy(base or SpeechLM(config.model)).eval()
    adapt(model, config.lora, PARTS)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


def speech_hidden_states(model: SpeechLM) -> Tensor:
    """Hidden states after one second of audio and some tokens."""
    torch.manual_seed(1)
    ids = Padded(torch.arange(6)[None])
    speech, _ = model.embed_speech(Padded(torch.randn(1, 16000)), final=True)
    return model(ids, speech, ids)[0].values


def decoded_hidden_state(model: SpeechLM) -> Tensor:
    """Hidden state of one token that continues from a state."""
    torch.manual_seed(1)
    past = Padded(torch.randn(1, 5, model.lm.config.d_model))
    with torch.no_grad():
        _, state = model.lm(past)
        return model.lm(Padded(past.values[:, :1]), state)[0].values


def without_adapter(model: SpeechLM, name: str) -> SpeechLM:
    """Return a copy of the model in which one adapter adds nothing."""
    model = copy.deepcopy(model)
    nn.init.zeros_(adapters(model)[name].lora_B["default"].weight)
    return model


@on_every_path
@pytest.mark.parametrize("kind", LM_KINDS)
def test_every_adapter_is_trained_changes_the_output_and_merges(
    kind: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUPLEXMAMBA_SCAN", path)
    config = configured(*BOTH_WAYS, f"lm.kind={kind}")
    base = SpeechLM(config.model).eval()
    linear_layers = {name for name, module in base.named_modules() if isinstance(module, nn.Linear)}
    model = adapted(config, base)
    assert adapters(model).keys() == linear_layers
    speech_hidden_states(model)[
        ..., 0
    ].sum().backward()  # after a norm the sum of squares is constant
    factors = {name: p for name, p in model.named_parameters() if is_adapter(name)}
    assert len(factors) == 2 * len(linear_layers)
    assert [
        name for name, p in factors.items() if p.grad is None or not p.grad.abs().max() > 0
    ] == []
    with torch.no_grad():
        whole = speech_hidden_states(model)
        assert [
            n
            for n in linear_layers
            if torch.equal(speech_hidden_states(without_adapter(model, n)), whole)
        ] == []
        merge(model)
        torch.testing.assert_close(speech_hidden_states(model), whole, atol=1e-4, rtol=1e-4)
    assert model.state_dict().keys() == base.state_dict().keys() and not adapters(model)


@on_every_path
@pytest.mark.parametrize("kind", LM_KINDS)
def test_a_decoded_token_uses_every_adapter(
    kind: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUPLEXMAMBA_SCAN", path)
    model = adapted(configured(f"lm.kind={kind}"))
    whole = decoded_hidden_state(model)
    names = [name for name in adapters(model) if name.startswith("lm.")]
    assert [
        name
        for name in names
        if torch.equal(decoded_hidden_state(without_adapter(model, name)), whole)
    ] == []
    merge(model)
    torch.testing.assert_close(decoded_hidden_state(model), whole, atol=1e-4, rtol=1e-4)


def test_new_adapters_change_nothing_and_streaming_is_exact() -> None:
    config = configured()
    base = SpeechLM(config.model).eval()
    model = copy.deepcopy(base)
    adapt(model, config.lora, PARTS)
    assert torch.equal(speech_hidden_states(model.eval()), speech_hidden_states(base))
    model, audio = adapted(config, base), torch.randn(1, 16000)
    whole, _ = model.embed_speech(Padded(audio))
    first, state = model.embed_speech(Padded(audio[:, :7000]))
    second, _ = model.embed_speech(Padded(audio[:, 7000:]), state)
    pieces = [chunk.values[:, : int(chunk.row_lengths()[0])] for chunk in (first, second)]
    torch.testing.assert_close(torch.cat(pieces, 1), whole.values[:, : int(whole.row_lengths()[0])])


@pytest.mark.parametrize(
    "target", ["in_proj", "lm.layers.1.mixer.in_proj", "lm.*.in_proj", "connector.*"]
)
def test_targets_match_ends_of_names_within_trained_parts(target: str) -> None:
    config = configured(f"lora.targets=[{target}]")
    lm = [f"lm.layers.{i}.mixer.in_proj" for i in (0, 1)]
    expected = {
        "in_proj": lm,
        "lm.layers.1.mixer.in_proj": lm[1:],
        "lm.*.in_proj": lm,
        "connector.*": ["connector.layers.0", "connector.layers.2"],
    }
    assert targets(SpeechLM(config.model), config.lora, ["connector", "lm"]) == expected[target]


def test_linear_layers_of_different_depth_are_of_one_kind() -> None:
    config = configured("lm.kind=transformer", "lora.targets=[dense]", "lora.shared=[dense]")
    model = adapted(config)
    assert {kind_of(name) for name in adapters(model)} == {"lm.backbone.layers.*.attention.dense"}
    first, second = adapters(model).values()
    assert first.lora_A is second.lora_A
    assert kind_of("encoder.layers.1.ffn1.1.x") == "encoder.layers.*.ffn1.1.x"
    assert kind_of("connector.layers.0") == "connector.layers.0"


def test_a_stage_trains_the_adapters_and_the_parts_without_adapters() -> None:
    config = override(configured("lora.targets=[in_proj]"), ["stage.trained=[connector,lm]"])
    model = SpeechLM(config.model)
    adapt(model, config.lora, config.stage.trained)
    module = InstructStage(config, model, None)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    factors = {f"lm.layers.{i}.mixer.in_proj.lora_{x}.default.weight" for i in (0, 1) for x in "AB"}
    assert trainable == factors | {
        f"connector.layers.{i}.{w}" for i in (0, 2) for w in ("weight", "bias")
    }
    connector = sum(p.numel() for p in model.connector.parameters())
    assert module.num_trained() == connector + 2 * 2 * (32 + 128)  # layers * rank * (in + out)


def test_peft_loads_exported_adapters(tmp_path: Path) -> None:
    config = configured(*BOTH_WAYS, "lora.dropout=0.3")
    base = SpeechLM(config.model).eval()
    model = adapted(config, base)
    export(model, tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(
        speech_hidden_states(loaded.base_model.model), speech_hidden_states(model)
    )


def test_exported_adapters_can_be_continued(tmp_path: Path) -> None:
    config = configured()
    base = SpeechLM(config.model).eval()
    model = adapted(config, base)
    export(model, tmp_path)
    continued = copy.deepcopy(base)
    adapt(continued, override(config, [f"lora.start={tmp_path}"]).lora, PARTS)
    assert torch.equal(speech_hidden_states(continued.eval()), speech_hidden_states(model))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "is for another base .sha256:"),
        (["lora.rank=1"], r"lora_A.weight is \(2, 160\) there and \(1, 160\) here; set lora.rank"),
        (
            ["lora.targets=[in_proj]"],
            "connector.layers.0.lora_A.weight is .* and missing here; set .*lora.targets",
        ),
        (["lora.alpha=1"], "was trained with lora.alpha=16, not 1"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    config = configured()
    export(adapted(config), tmp_path)
    with pytest.raises(ValueError, match=message):
        adapt(
            SpeechLM(config.model),
            override(config, [f"lora.start={tmp_path}", *overrides]).lora,
            PARTS,
        )


@pytest.mark.parametrize("content", [None, b"junk"])
def test_a_folder_without_adapters_is_refused(tmp_path: Path, content: bytes | None) -> None:
    config = configured(f"lora.start={tmp_path}")
    if content:
        export(adapted(configured()), tmp_path)
        (tmp_path / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="is no readable peft folder .*name <run>/adapter"):
        adapt(SpeechLM(config.model), config.lora, PARTS)


@pytest.mark.parametrize(
    ("stage", "overrides", "message"),
    [
        ("instruct", ["lora.targets=[x_porj]"], "'x_porj'. Did you mean 'x_proj'"),
        (
            "instruct",
            ["lora.targets=[encoder.*]"],
            r"'encoder.\*'.*Known: .*lm.layers.\*.mixer.in_proj",
        ),
        (
            "state",
            ["lora.rank=3"],
            r"lora.rank=3 is larger than lm.*dt_proj \(2 -> 64\); set lora.rank=2 or less",
        ),
        ("lm", [], "stage lm trains lm from random weights"),
        ("instruct", ["lora.rank=0"], "lora.rank=0: must be at least 1"),
        ("instruct", ["lora.dropout=1"], "need 0 <= dropout < 1"),
        ("instruct", ["lora.targets=[]"], "name the linear layers"),
    ],
)
def test_bad_adapters_are_reported_before_training(
    stage: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_adapters(
            load_config(
                [
                    TINY[0],
                    str(stage_file(stage)),
                    *SMALL_SIZES,
                    "lora.enabled=true",
                    "lora.rank=2",
                    *overrides,
                ]
            )
        )
