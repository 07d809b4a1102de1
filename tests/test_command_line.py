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


def test_texts_within_maps_stay_as_they_were_typed() -> None:
    words = "{a: {path: 0012, where: {n: 1.10, ok: on}, columns: {text: null}, weight: 2}}"
    config = load_config([*TINY, f"data.sources={words}", "data.voices={espeak: 2}"])
    mine = config.data.sources["a"]
    assert (mine.path, mine.weight) == ("0012", 2.0)
    assert mine.where == {"n": "1.10", "ok": "on"} and mine.columns == {"text": "null"}
    assert config.data.voices == {"espeak": 2.0}


@pytest.mark.parametrize(
    "override",
    [
        *(
            "optim.lr=nan",
            "data.max_s=inf",
            "data.augment.level_db=[nan, 0]",
            "data.voices={espeak: nan}",
        ),
        *(
            "run.id=..",
            "run.id=/x",
            "run.id=latest",
            "encoder.d_model=0",
            "optim.lr=-1",
            "data.sources=[]",
        ),
    ],
)
def test_values_that_mean_nothing_are_refused(override: str) -> None:
    with pytest.raises(ValueError, match=override.partition("=")[0]):
        load_config([*TINY, override])


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
