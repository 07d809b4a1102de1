"""Sources of a configuration: mixture by weights, splits per source, and resuming after a kill."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from configs.loading import load_config
from configs.schema import Config
from datamodules.corpora import Corpora
from tests.conftest import SMALL_SIZES, TINY
from tests.corpora import sound, write
from tests.small_runs import SHORT, run


def manifest(
    folder: Path, name: str, count: int, splits: tuple[str, ...] = ("train", "valid", "test")
) -> Path:
    rows = []
    for n in range(count):
        sound(folder / f"{name}{n}.wav", 0.5 + n % 5 / 5)
        row = {"audio": f"{name}{n}.wav", "text": f"{name} {n}", "speaker": f"s{n}", "kind": name}
        rows.append(row | {"split": splits[max(0, n - count + len(splits))]})
    return write(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def overrides(tmp_path: Path) -> list[str]:
    """Two sources."""
    one, two = manifest(tmp_path, "one", 30), manifest(tmp_path, "two", 12)
    return [
        f"data.sources.a.path={one}",
        f"data.sources.b.path={two}",
        "data.synthetic_share=0",
        "data.num_workers=0",
    ]


def configured(*overrides: str) -> Config:
    return load_config([*TINY, *SMALL_SIZES, *overrides])


def shares(config: Config, count: int = 2000) -> float:
    stream = Corpora(config).stream
    return sum(stream.qa_pair(position)[0].startswith("one") for position in range(count)) / count


def test_sources_are_mixed_by_size_by_weight_and_by_temperature(overrides: list[str]) -> None:
    weights = ["data.sources.a.weight=1", "data.sources.b.weight=9"]
    assert shares(configured(*overrides)) == pytest.approx(28 / 38, abs=0.01)
    assert shares(configured(*overrides, *weights)) == pytest.approx(0.1, abs=0.01)
    assert shares(configured(*overrides, *weights, "data.temperature=2")) == pytest.approx(
        0.25, abs=0.01
    )


def test_valid_and_test_contain_all_sources_that_have_these_splits(overrides: list[str]) -> None:
    corpora = Corpora(configured(*overrides, "data.sources.b.split.train=train"))
    assert {corpora.test.qa_pair(i)[0] for i in range(len(corpora.test))} == {"one 29"}
    assert len(corpora.recorded["train"]) == 38 and list(corpora.surveys) == ["a", "b"]
    both = Corpora(configured(*overrides))
    assert {both.test.qa_pair(i)[0] for i in range(2)} == {"one 29", "two 11"}


def test_sources_can_share_one_manifest(tmp_path: Path) -> None:
    path = manifest(tmp_path, "one", 9)
    lines = [
        f"data.source.path={path}",
        "data.sources.a.where.speaker=s8",
        "data.sources.a.split.test=test",
    ]
    assert len(Corpora(configured(*lines), splits=["test"]).recorded["test"]) == 1


def test_an_unusable_source_is_named(overrides: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data.sources.b: .*nowhere does not exist"):
        Corpora(configured(*overrides, f"data.sources.b.path={tmp_path}/nowhere"))
    for n in range(5):
        (tmp_path / f"two{n}.wav").write_bytes(b"broken")
    with pytest.raises(
        ValueError, match=r"data.sources.b: 5 of 12 files \(41.7 %\) cannot be used"
    ):
        Corpora(configured(*overrides))


def logged(path: Path) -> list[tuple[int, int, list[str]]]:
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()]


@pytest.mark.timeout(300)
def test_a_killed_run_resumes_with_the_next_batch(overrides: list[str], tmp_path: Path) -> None:
    more = [
        "trainer.max_steps=12",
        "trainer.accumulate=2",
        "trainer.checkpoint_every_s=0",
        "data.num_workers=1",
    ]
    more += ["data.batch_s=12", "data.max_s=3"]

    def train(log: Path, wait: bool = True):
        args = [
            TINY[0],
            "configs/stage/encoder.yaml",
            *SHORT,
            f"run.dir={log.with_suffix('')}",
            *overrides,
            *more,
        ]
        return run("-m", "tests.record_items", str(log), *args, wait=wait)

    whole, interrupted = tmp_path / "whole.log", tmp_path / "interrupted.log"
    assert (done := train(whole)).returncode == 0, done.err
    process = train(interrupted, wait=False)
    while not list(tmp_path.glob("interrupted/*/last.ckpt")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    before = len(logged(interrupted))
    assert (done := train(interrupted)).returncode == 0, done.err

    expected = {(step, part): items for step, part, items in logged(whole)}
    assert len(expected) == 24 and len({str(items) for items in expected.values()}) > 20
    assert all(items == expected[step, part] for step, part, items in logged(interrupted))
    resumed = logged(interrupted)[before:]
    assert resumed[0][0] > 0 and [(s, p) for s, p, _ in resumed] == sorted(
        k for k in expected if k[0] >= resumed[0][0]
    )
