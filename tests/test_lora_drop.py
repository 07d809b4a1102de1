"""LoRA-drop: measured energies, selected layers, and shared adapters that stay shared."""

import copy
from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor, nn

from configs.loading import load_config, override
from datamodules.batching import stratified
from duplexmamba.config import LoraDropConfig
from duplexmamba.models.lora import adapt, adapters, export, kind_of, merge
from duplexmamba.models.lora_drop import added, importance, keep
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.streaming.padded import Padded
from lightning_modules.speech import InstructStage
from tests.conftest import SMALL_SIZES, TINY
from tests.test_lora import PARTS, adapted, configured, speech_hidden_states

SHARED = "lora.shared=[lm.*.in_proj,lm.layers.0.mixer.out_proj,lm.layers.1.mixer.out_proj]"
TOTAL = {
    f"lm.layers.{i}.mixer.{kind}": value
    for kind, values in {"in_proj": [6, 1, 3], "out_proj": [20, 60, 20]}.items()
    for i, value in enumerate(values)
}


def lora_drop_config(*overrides: str) -> LoraDropConfig:
    return load_config([*TINY, *(f"lora_drop.{override}" for override in overrides)]).lora_drop


def energies(model: SpeechLM, x: Padded) -> dict[str, float]:
    with added(model) as total, torch.no_grad():
        model.lm(x)
    return total


def test_energies_are_summed_over_the_inputs() -> None:
    model = adapted(configured())
    x = torch.randn(2, 7, 32)
    total = energies(model, Padded(x))
    layer = model.lm.layers[0].mixer.in_proj
    delta = (
        layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    )
    expected = (model.lm.layers[0].norm(x) @ delta.T).square().sum().item()
    assert total["lm.layers.0.mixer.in_proj"] == pytest.approx(expected, rel=1e-4)
    assert total["connector.layers.0"] == 0


def test_padding_adds_no_energy() -> None:
    model, x = adapted(configured()), torch.randn(2, 7, 32)
    batched = energies(model, Padded(x, torch.tensor([7, 3])))
    single = [energies(model, Padded(row)) for row in (x[:1], x[1:, :3])]
    assert batched == pytest.approx(
        {name: single[0][name] + single[1][name] for name in batched}, rel=1e-4
    )


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["threshold=0.9"], {"0.in_proj", "2.in_proj", "1.out_proj", "0.out_proj", "2.out_proj"}),
        (["threshold=0.6"], {"0.in_proj", "1.out_proj"}),
        (["threshold=1"], {f"{i}.{kind}" for i in range(3) for kind in ("in_proj", "out_proj")}),
        (["keep=1"], {"0.in_proj", "1.out_proj"}),
        (["keep=0"], set()),
        (["keep=1", "choice=least_important"], {"1.in_proj", "2.out_proj"}),
        (["threshold=0.9", "ranking=overall"], {"1.out_proj", "0.out_proj", "2.out_proj"}),
    ],
)
def test_the_most_important_layers_are_selected_up_to_the_threshold(
    overrides: list[str], expected: set[str]
) -> None:
    config = lora_drop_config(*overrides)
    selected = keep(importance(TOTAL, config), config, seed=1)
    assert {name.replace("lm.layers.", "").replace("mixer.", "") for name in selected} == expected


def test_a_random_choice_has_the_same_size_and_depends_on_the_seed() -> None:
    config = lora_drop_config("threshold=0.6", "choice=random")
    drawn = {frozenset(keep(importance(TOTAL, config), config, seed)) for seed in range(20)}
    assert len(drawn) > 1 and {len(names) for names in drawn} == {2}
    assert all(
        {kind_of(name).rsplit(".")[-1] for name in names} == {"in_proj", "out_proj"}
        for names in drawn
    )


def test_a_probe_without_energy_is_refused() -> None:
    with pytest.raises(
        ValueError, match="add nothing to lm.layers.0.mixer.in_proj; raise lora_drop.steps"
    ):
        importance(dict.fromkeys(TOTAL, 0.0), lora_drop_config())


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("threshold=0", "0 < threshold <= 1"),
        ("threshold=1.1", "0 < threshold <= 1"),
        ("keep=-1", "negative"),
        ("rest=frozen", "set start=probe"),
    ],
)
def test_bad_settings_are_named(word: str, answer: str) -> None:
    with pytest.raises(ValueError, match=f"lora_drop.{word.split('=')[0]}.*{answer}"):
        lora_drop_config(word)


def test_a_sample_has_of_each_stratum_its_share() -> None:
    strata = ["a"] * 50 + ["b"] * 30 + ["c"] * 20
    found = stratified(strata, 11)
    assert len(found) == 11 and [sum(strata[i] == s for i in found) for s in "abc"] == [6, 3, 2]
    assert found[:3] == [0, 1, 2] and stratified("ab", 5) == [0, 1]


def factors(model: SpeechLM, *names: str) -> list[Tensor]:
    return [adapters(model)[f"lm.layers.{name}"].lora_B["default"].weight for name in names]


def test_shared_adapters_are_one_through_training_saving_and_merging(tmp_path: Path) -> None:
    config = configured(SHARED)
    base = SpeechLM(config.model).eval()
    model = adapted(config, base)
    for kind in ("in_proj", "out_proj"):
        one, other = factors(model, f"0.mixer.{kind}", f"1.mixer.{kind}")
        assert one is other
    own = factors(model, "0.mixer.ssm.x_proj", "1.mixer.ssm.x_proj")
    assert not torch.equal(*own)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    speech_hidden_states(model).square().sum().backward()
    optimiser.step()
    again = adapted(config, base)
    again.load_state_dict(model.state_dict())
    whole = speech_hidden_states(model)
    torch.testing.assert_close(speech_hidden_states(again), whole)

    export(model, tmp_path)
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval().base_model.model
    torch.testing.assert_close(speech_hidden_states(loaded), whole)
    started = copy.deepcopy(base)
    adapt(started, override(config, [f"lora.start={tmp_path}"]).lora, PARTS)
    one, other = factors(started, "0.mixer.in_proj", "1.mixer.in_proj")
    assert one is other and torch.equal(one, factors(model, "0.mixer.in_proj")[0])
    merge(model)
    torch.testing.assert_close(speech_hidden_states(model), whole, atol=1e-4, rtol=1e-4)


def test_a_shared_adapter_can_be_frozen(tmp_path: Path) -> None:
    base = SpeechLM(configured(SHARED).model)
    export(adapted(configured(SHARED), copy.deepcopy(base)), tmp_path)
    config = configured(
        SHARED, f"lora.start={tmp_path}", "lora.shared_trainable=false", "stage.trained=[lm]"
    )
    adapt(base, config.lora, PARTS)
    shared = factors(InstructStage(config, base, None).model, "0.mixer.in_proj", "1.mixer.out_proj")
    assert not any(factor.requires_grad for factor in shared)
    assert factors(base, "1.mixer.ssm.x_proj")[0].requires_grad
    with pytest.raises(ValueError, match="name some to go on with in lora.start"):
        configured(SHARED, "lora.shared_trainable=false")


def test_separate_adapters_cannot_start_as_shared_ones(tmp_path: Path) -> None:
    config = configured()
    base = SpeechLM(config.model)
    export(adapted(config, base), tmp_path)
    with pytest.raises(
        ValueError, match="in_proj.lora_A.weight is not shared there; leave it out of lora.shared"
    ):
        adapt(base, override(config, [f"lora.start={tmp_path}", SHARED]).lora, PARTS)


def test_a_shared_layer_must_have_an_adapter() -> None:
    config = load_config(
        [*TINY, *SMALL_SIZES, "lora.rank=2", "lora.targets=[in_proj]", "lora.shared=[out_proj]"]
    )
    with pytest.raises(ValueError, match="lora.shared: .* is called 'out_proj'"):
        adapt(nn.ModuleDict({"lm": SpeechLM(config.model).lm}), config.lora, PARTS)
