"""Values of the command line reach text fields as they were typed."""

import re
from pathlib import Path

import pytest

from configs.loading import from_dict, load_config, override, save_config, to_dict
from tests.conftest import TINY

TYPED = ("2024_11_30", "0012", "1.10", "on", "1e3", "x #1", "a: b", "a{b}c", "${HOME}x", "\\${x}")


@pytest.mark.parametrize("text", TYPED)
def test_a_text_stays_as_it_was_typed(tmp_path: Path, text: str) -> None:
    columns = f"data.source.columns.text={text}"
    source = f"data.sources.mine.path={text}"
    config = load_config([*TINY, f"run.id={text}", f"data.path=/tmp/{text}", columns, source])
    assert config.run.id == text and config.data.path == f"/tmp/{text}"
    assert config.data.source.columns == {"text": text}
    assert config.data.sources["mine"].path == text
    # Nor does a run that is saved, restored and changed lose it.
    save_config(config, tmp_path / "config.yaml")
    assert load_config([str(tmp_path / "config.yaml")]) == config
    restored = override(from_dict(to_dict(config)), ["optim.lr=1e-3"])
    assert restored.run.id == text and restored.data.path == config.data.path


def test_other_values_are_yaml() -> None:
    config = load_config([*TINY, "data.path=null", "run.id='quoted'", "optim.lr=1e-3"])
    assert config.data.path is None and config.run.id == "quoted" and config.optim.lr == 1e-3


@pytest.mark.parametrize(
    "override",
    ["data.sources={people:{path:/x}}", "data.voices=[a", "data.voices={a: b: c}", "seed=@1"],
)
def test_a_value_that_is_not_yaml_is_named(override: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(override)}: the value is not YAML"):
        load_config([*TINY, override])
