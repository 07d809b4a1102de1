"""The report of a sweep: the table of points, the numbers, the sentences, the page in a browser."""

import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import wandb
import yaml

from lightning_modules.trainer.starts import git_commit, log_start
from sweeps.report.__main__ import main as report
from sweeps.report.answer import answer
from sweeps.report.gather import SweepResults, differences, gather
from sweeps.report.page import page, setting_rows
from sweeps.report.statistics import (
    SeedNoise,
    Setting,
    eta_squared,
    importance,
    levels,
    rank_settings,
    seed_noise,
)
from sweeps.report.sweep_file import read_sweep_file
from tests.fake_sweep import COMMIT, FAILED, FILE, HEAD, MISSING, write_run, write_sweep

POINT = {"encoder.slice_ms": 400, "encoder.context": "slice", "seed": 1}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return write_sweep(tmp_path / "runs")


@pytest.fixture
def results(runs: Path) -> SweepResults:
    return gather("slice_size", runs)


def sweep_file(folder: Path, text: str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return path


def test_the_head_is_read_over_several_lines(runs: Path) -> None:
    file = read_sweep_file(runs / "sweeps" / "slice_size" / "sweep.yaml", "slice_size")
    assert file.question.endswith(
        "suffers, and does it help to carry a state from one slice to the next?"
    )
    assert file.cost == "24 runs of 7 minutes on two CPU cores, 2.8 h in all."
    assert (file.metric, file.x, file.line) == ("test/wer", "encoder.slice_ms", "encoder.context")
    assert len(file.grid()) == 24 and file.swept == ["encoder.slice_ms", "encoder.context", "seed"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# Question: ", "# ", "a report needs, first and in this order"),
        (
            "# Cost: 24 runs of 7 minutes on two CPU cores, 2.8 h in all.",
            "# Cost:",
            "a report needs",
        ),
        (" against ", " over ", "is not of the form"),
        ("test/wer against", "test/cer against", "metric.name=test/wer"),
        (
            "one line per encoder.context",
            "one line per encoder.kind",
            "encoder.kind, which is no parameter",
        ),
        ("goal: minimize", "goal: least", "minimize"),
        (
            "encoder.slice_ms: {values: [200, 400, 1000, 2000]}",
            "encoder: {parameters: {slice_ms: {value: 1}}}",
            "flat",
        ),
        ("parameters:\n", "parameters: {\n", "is not YAML"),
    ],
)
def test_a_file_that_a_report_cannot_be_made_of_is_named(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in HEAD + FILE
    with pytest.raises(ValueError, match=re.escape(message)):
        read_sweep_file(sweep_file(tmp_path, (HEAD + FILE).replace(old, new)), "x")


def test_one_line_is_a_figure_without_the_second_half(tmp_path: Path) -> None:
    text = (HEAD + FILE).replace(", one line per encoder.context", ".")
    file = read_sweep_file(sweep_file(tmp_path, text), "x")
    assert (file.x, file.line) == ("encoder.slice_ms", None)


def test_commands_are_expanded_as_an_agent_does(results: SweepResults) -> None:
    words = "encoder.slice_ms=400 encoder.context=slice seed=1"
    expected = f"python train.py configs/preset/tiny.yaml configs/stage/asr.yaml {words}"
    assert results.file.command_of(POINT) == expected


def test_the_link_to_the_latest_run_is_no_run(runs: Path) -> None:
    (runs / "latest").symlink_to("asr-tiny-400-slice-1")
    assert gather("slice_size", runs).repeated == []


def test_every_place_of_the_grid_is_a_point(results: SweepResults) -> None:
    assert len(results.trials) == 24 and len(results.finished) == 22
    states = {tuple(trial.parameters.values()): trial.state for trial in results.unfinished}
    assert states == {MISSING: "missing", FAILED: "failed"}
    failed = next(trial for trial in results.unfinished if trial.state == "failed")
    assert failed.remark == "last logged at update 1340" and failed.commits == (COMMIT,)


def test_an_unknown_sweep_is_answered_with_the_nearest(runs: Path) -> None:
    with pytest.raises(ValueError, match="Did you mean 'slice_size'"):
        gather("slice_sise", runs)


def test_of_two_runs_of_a_point_the_finished_one_counts(runs: Path) -> None:
    write_run(runs, "again", {**POINT, "encoder.slice_ms": 400.0}, None)
    found = gather("slice_size", runs)
    assert found.repeated == ["again"] and len(found.trials) == 24 and len(found.finished) == 22


def test_a_run_over_other_parameters_is_not_counted_but_named(runs: Path) -> None:
    write_run(runs, "other", {**POINT, "optim.lr": 1}, 0.01)
    found = gather("slice_size", runs)
    assert (
        found.foreign == ["other"]
        and len(found.trials) == 24
        and "<code>other</code>" in page(found)
    )


@pytest.mark.parametrize("value", [float("nan"), None])
def test_a_run_that_finished_without_a_number_has_failed(runs: Path, value: float | None) -> None:
    folder = runs / "asr-tiny-400-slice-1"
    (folder / "summary.json").write_text(json.dumps({} if value is None else {"test/wer": value}))
    found = gather("slice_size", runs)
    trial = next(trial for trial in found.trials if trial.run == folder.name)
    assert trial.state == "failed" and "test/wer" in trial.remark


def test_only_what_was_not_swept_is_a_difference(runs: Path) -> None:
    assert differences(gather("slice_size", runs).trials, gather("slice_size", runs).file) == {}
    path = runs / "asr-tiny-400-slice-1" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    path.write_text(
        yaml.safe_dump({**config, "data": {"batch_s": 40}, "wandb": {"mode": "offline"}})
    )
    found = gather("slice_size", runs)
    (name, values), *rest = differences(found.trials, found.file).items()
    assert (
        name == "data.batch_s"
        and values["40"] == ["asr-tiny-400-slice-1"]
        and len(values["20"]) == 22
        and not rest
    )
    assert "the scores may not be comparable" in page(found)


def test_spread_is_that_of_the_seeds(results: SweepResults) -> None:
    found = {tuple(each.parameters.values()): each for each in rank_settings(results)}
    assert len(found) == 8 and [len(each.scores) for each in found.values()].count(2) == 2
    setting = found[400, "slice"]
    assert setting.mean == pytest.approx(np.mean(setting.scores))
    assert setting.deviation == pytest.approx(np.std(setting.scores, ddof=1))
    assert [each.mean for each in rank_settings(results)] == sorted(
        each.mean for each in found.values()
    )


def test_noise_is_pooled_and_allows_what_students_t_does() -> None:
    pair = [
        Setting({"a": 1}, (1.0, 3.0)),
        Setting({"a": 2}, (2.0, 2.0, 2.0)),
        Setting({"a": 3}, (9.0,)),
    ]
    found = seed_noise(pair)
    assert found == SeedNoise(pytest.approx((2 / 3) ** 0.5), 3)
    assert found.max_difference(pair[0], pair[1]) == pytest.approx(
        3.19 * (2 / 3) ** 0.5 * (1 / 2 + 1 / 3) ** 0.5
    )
    assert seed_noise(pair[2:]) is None


def test_seed_noise_is_told_apart_in_nineteen_of_twenty_pairs() -> None:
    rng = np.random.default_rng(0)
    apart = 0
    for _ in range(2000):
        a, b = (Setting({"a": i}, tuple(rng.normal(size=3))) for i in range(2))
        seeds = seed_noise([a, b])
        assert seeds is not None
        apart += abs(a.mean - b.mean) > seeds.max_difference(a, b)
    assert 0.035 < apart / 2000 < 0.065


def test_eta_squared_is_the_share_between_groups() -> None:
    scores = np.array([1.0, 1.0, 3.0, 3.0])
    assert eta_squared("aabb", scores) == 1 and eta_squared("abab", scores) == 0
    assert eta_squared("aabb", np.ones(4)) == 0
    assert eta_squared("aabb", np.array([1.0, 2.0, 2.0, 3.0])) == pytest.approx(0.5)


def test_many_numbers_are_grouped() -> None:
    assert len(set(levels(list(np.linspace(0, 1, 40))))) == 4
    assert len(set(levels([1, 2, 3, 1, 2]))) == 3 and len(set(levels(["a", True, None]))) == 3


def test_importance_names_what_chance_would_give(results: SweepResults) -> None:
    found = importance(results)
    assert list(found) == ["encoder.context", "encoder.slice_ms", "seed"]
    assert found["seed"].share < 0.1 and found["seed"].by_chance == pytest.approx(2 / 21)
    assert found["encoder.context"].by_chance == pytest.approx(1 / 21)


def test_the_answer_says_what_seeds_explain(results: SweepResults) -> None:
    first, *rest = answer(results)
    assert first.startswith(
        "encoder.slice_ms=400, encoder.context=causal_lookahead has the lowest test/wer of 8"
    )
    assert "3.09 % (mean of 3 seeds" in first and "cannot be told apart from seed noise" in first
    assert any(
        line.startswith("With encoder.context=slice, best is encoder.slice_ms=2000")
        for line in rest
    )
    assert rest[-1] == "2 of 24 points have no score (1 failed, 1 missing)."


def test_a_clear_difference_is_called_one(runs: Path) -> None:
    for folder in runs.glob("asr-*"):
        parameters = json.loads((folder / "sweep.json").read_text())["parameters"]
        score = {"slice": 0.5, "causal_lookahead": 0.1}[parameters["encoder.context"]] + parameters[
            "seed"
        ] / 1000
        (folder / "summary.json").write_text(json.dumps({"test/wer": score}))
    found = gather("slice_size", runs)
    notes = {row["parameters"]["encoder.context"]: row["note"] for row in setting_rows(found)[1:]}
    assert notes == {"causal_lookahead": "within seed noise", "slice": ""}
    (runs / "sweeps/slice_size/sweep.yaml").write_text(
        (HEAD + FILE).replace("minimize", "maximize")
    )
    assert "encoder.context=slice has the highest test/wer" in answer(gather("slice_size", runs))[0]


def test_one_seed_knows_nothing_of_noise(runs: Path) -> None:
    for folder in runs.glob("asr-*-[23]"):
        shutil.rmtree(folder)
    found = gather("slice_size", runs)
    assert "whether that is more than seed noise is unknown" in answer(found)[0]
    assert "how much of a share is seed noise is unknown" in page(found)


def test_where_seeds_alone_were_swept_the_answer_is_what_chance_does(runs: Path) -> None:
    for folder in runs.glob("asr-*"):
        if not folder.name.startswith("asr-tiny-400-slice-"):
            shutil.rmtree(folder)
    text = (HEAD + FILE).replace("encoder.slice_ms, one line per encoder.context", "seed")
    text = text.replace("[200, 400, 1000, 2000]", "[400]").replace(
        "[slice, causal_lookahead]", "[slice]"
    )
    (runs / "sweeps/slice_size/sweep.yaml").write_text(text)
    found = gather("slice_size", runs)
    [setting] = rank_settings(found)
    seeds = seed_noise([setting])
    assert seeds is not None
    apart = 100 * 4.31 * seeds.deviation * 2**0.5
    [sentence] = answer(found)
    assert sentence.startswith(f"test/wer is {100 * setting.mean:.2f} % (mean of 3 seeds, from ")
    assert sentence.endswith(
        f" Seeds alone put two runs up to {apart:.2f} points apart, in 95 of 100 pairs."
    )
    assert page(found).count("<svg ") == 3


def test_without_a_score_there_is_no_answer_but_a_page(runs: Path) -> None:
    for path in runs.glob("asr-*/summary.json"):
        path.unlink()
    found = gather("slice_size", runs)
    assert answer(found)[0] == "There is no answer yet: no point has finished with test/wer."
    assert "23 failed" in page(found) and "<svg" not in page(found)


def test_points_that_were_drawn_are_no_grid(runs: Path) -> None:
    text = (HEAD + FILE).replace("method: grid", "method: random")
    text = text.replace("{values: [200, 400, 1000, 2000]}", "{min: 200, max: 2000}")
    (runs / "sweeps/slice_size/sweep.yaml").write_text(text)
    found = gather("slice_size", runs)
    assert (
        len(found.trials) == 23
        and "The points are no grid" in page(found)
        and "Each mark is a run" in page(found)
    )


class Reader(html.parser.HTMLParser):
    """Ids and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name == "id":
                self.ids.append(str(value))
            elif name in ("src", "href", "xlink:href", "data", "action"):
                self.addresses.append(str(value))


def test_the_page_needs_nothing_else(results: SweepResults) -> None:
    text = page(results)
    reader = Reader()
    reader.feed(text)
    assert len(reader.ids) == len(set(reader.ids)) and text.count("<svg ") == 3
    inside = {f"#{name}" for name in reader.ids} | {"data:,"}
    assert reader.addresses and set(reader.addresses) <= inside
    used = re.findall(r"url\((.*?)\)", text)
    assert used and set(used) <= inside
    assert "<script" not in text and "@import" not in text


def test_what_others_wrote_is_escaped(runs: Path) -> None:
    path = runs / "sweeps/slice_size/sweep.yaml"
    path.write_text(path.read_text().replace("How long", "<script>alert(1)</script> & how long"))
    text = page(gather("slice_size", runs))
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; how long" in text and "<script" not in text


def test_the_same_runs_give_the_same_file(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = Path(report(["slice_size", "--runs", str(runs)]))
    first = place.read_text()
    assert (
        place == runs / "sweeps/slice_size/report.html"
        and capsys.readouterr().out.rstrip().endswith(str(place))
    )
    report(["slice_size", "--runs", str(runs)])
    assert place.read_text() == first


BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


in_browser = pytest.mark.skipif(BROWSER is None, reason="needs chromium")


def browse(file: Path, folder: Path) -> tuple[str, str, list[str]]:
    """The document, what the browser logged, and the addresses that the page asked for; the browser's own have no
    origin."""
    log = folder / "net.json"
    switches = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--no-first-run",
    ]
    switches += [f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", "--dump-dom"]
    command = [str(BROWSER), *switches, f"file://{file.resolve()}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    asked = re.findall(r'"initiator":"([^"]*)".*?"url":"(https?:[^"]*)"', log.read_text())
    return (
        done.stdout,
        done.stderr,
        [url for initiator, url in asked if initiator != "not an origin"],
    )


@in_browser
@pytest.mark.timeout(180)
def test_a_browser_shows_it_from_a_file(runs: Path, tmp_path: Path) -> None:
    document, log, asked = browse(Path(report(["slice_size", "--runs", str(runs)])), tmp_path)
    assert ":CONSOLE" not in log, log
    assert not asked
    for heading in (
        "test/wer against encoder.slice_ms",
        "Parallel coordinates",
        "Parameter importance",
        "Commands",
    ):
        assert re.search(rf"<h2[^>]*>{heading}</h2>", document), heading
    assert (
        '<td class="number"><strong>3.09 %</strong></td>' in document
        and document.count("<svg ") == 3
    )


@in_browser
@pytest.mark.timeout(180)
def test_the_browser_would_tell_of_a_page_that_fetches(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<img src='http://127.0.0.1:9/a.png'><script>throw Error('x')</script>")
    _, log, asked = browse(page, tmp_path)
    assert asked == ["http://127.0.0.1:9/a.png"] and ":CONSOLE" in log


def test_without_a_login_it_says_what_is_missing(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb, "login", lambda prompt: False)
    with pytest.raises(ValueError, match="no W&B login: run `wandb login` or set WANDB_API_KEY"):
        report(["slice_size", "--runs", str(runs), "--wandb"])


def test_a_start_is_logged_with_its_command_and_commit(tmp_path: Path) -> None:
    log_start(tmp_path)
    log_start(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "starts.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and all(line["command"].startswith("python ") for line in lines)
    assert lines[0]["git_commit"] == git_commit()


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_a_commit_is_told_with_what_was_changed_since(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("1")
    for words in (["init", "-q"], ["add", "file"], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    commit = git_commit(tmp_path)
    assert commit is not None and re.fullmatch("[0-9a-f]{40}", commit)
    (tmp_path / "file").write_text("2")
    assert git_commit(tmp_path) == f"{commit}-dirty"
