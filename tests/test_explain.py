"""Every setting has a meaning, and base.yaml shows it."""

from pathlib import Path

import pytest

from configs.explain import annotate, explain, main, settings
from configs.loading import base_values
from datamodules.sources import AUTO
from duplexmamba_cli.registries import REGISTRIES, kinds_of
from tests.conftest import TINY

BASE = Path("configs/base.yaml")


def test_every_setting_has_a_meaning() -> None:
    lacking = [name for name, setting in settings().items() if not setting.meaning]
    assert not lacking


def test_base_yaml_shows_the_meaning_of_every_setting() -> None:
    text = BASE.read_text()
    assert annotate(text) == text, "run `python -m configs.explain`"
    for name in settings():
        section = base_values()
        for part in name.split("."):
            section = section[part]


def test_explain_shows_meaning_unit_value_and_origin() -> None:
    text = explain("trainer.checkpoint_every_s", TINY, kinds_of)
    assert "Seconds between the checkpoints" in text
    assert "unit:  seconds" in text
    assert "value: 30" in text
    assert "from:  configs/preset/tiny.yaml" in text


@pytest.mark.parametrize(
    ("overrides", "origin"),
    [
        ([], "configs/preset/tiny.yaml, stages.asr"),
        (["optim.lr=1"], "command line"),
        (["stages.asr.optim.lr=1"], "command line, stages.asr"),
    ],
)
def test_the_origin_is_the_last_layer_that_sets_it(overrides: list[str], origin: str) -> None:
    assert f"from:  {origin}" in explain("optim.lr", [*TINY, *overrides], kinds_of)


def test_a_section_lists_its_settings() -> None:
    text = explain("optim", TINY, kinds_of)
    assert text.startswith("optim: ") and "optim.warmup_steps" in text


@pytest.mark.parametrize("name", REGISTRIES)
def test_a_setting_with_a_registry_lists_its_kinds(name: str) -> None:
    text = explain(name, TINY, kinds_of)
    value = text.split("value: ")[1].split("\n")[0]
    kinds = kinds_of(name)
    assert value in {*kinds, AUTO}
    for kind, description in kinds.items():
        assert f"    {kind} " in text and description in text and description


def test_every_choice_by_name_has_a_registry() -> None:
    """A setting whose values are not in its type, but are checked against a registry."""
    for name, setting in settings().items():
        if setting.type == "str" and name.endswith((".kind", ".mixer")):
            assert name in REGISTRIES


def test_the_error_for_an_unknown_setting_suggests_the_nearest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'optim.lr'"):
        explain("optim.lrr", TINY, kinds_of)


def test_the_command_prints_the_resolved_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    main(["optim.lr=0.25"], kinds_of)
    assert "  lr: 0.25\n" in capsys.readouterr().out
