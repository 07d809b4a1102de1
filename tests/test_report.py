"""The report of a sweep: its trials, statistics, sentences, and the page in a browser."""

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

PARAMETERS = {"encoder.slice_ms": 400, "encoder.context": "slice", "seed": 1}


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


def test_comments_may_continue_on_the_next_line(runs: Path) -> None:
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
            "encoder: {parameters: {slice_ms: 3}}",
            "parameters.encoder.slice_ms=3; give value, values, or min and max",
        ),
        ("parameters:\n", "parameters: {\n", "is not YAML"),
    ],
)
def test_an_error_says_what_a_sweep_file_lacks(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in HEAD + FILE
    with pytest.raises(ValueError, match=re.escape(message)):
        read_sweep_file(sweep_file(tmp_path, (HEAD + FILE).replace(old, new)), "x")


def test_a_file_without_comments_has_a_report_by_name_and_metric(tmp_path: Path) -> None:
    runs = write_sweep(tmp_path / "runs", head="# a sweep of mine\n")
    results = gather("slice_size", runs)
    assert results.file.question == "Which settings have the best test/wer?"
    assert (results.file.x, results.file.line) == ("encoder.slice_ms", None)
    assert "slice_size: Which settings have the best" in page(results)


def test_a_figure_with_a_single_line_has_no_line_parameter(tmp_path: Path) -> None:
    text = (HEAD + FILE).replace(", one line per encoder.context", ".")
    file = read_sweep_file(sweep_file(tmp_path, text), "x")
    assert (file.x, file.line) == ("encoder.slice_ms", None)


def test_commands_are_those_of_an_agent(results: SweepResults) -> None:
    overrides = "encoder.slice_ms=400 encoder.context=slice seed=1"
    expected = f"python train.py configs/preset/tiny.yaml configs/stage/asr.yaml {overrides}"
    assert results.file.command_of(PARAMETERS) == expected


def test_the_link_to_the_latest_run_is_not_counted(runs: Path) -> None:
    (runs / "latest").symlink_to("asr-tiny-400-slice-1")
    assert gather("slice_size", runs).repeated == []


def test_every_combination_of_the_grid_is_a_trial(results: SweepResults) -> None:
    assert len(results.trials) == 24 and len(results.finished) == 22
    states = {tuple(trial.parameters.values()): trial.state for trial in results.unfinished}
    assert states == {MISSING: "missing", FAILED: "failed"}
    failed = next(trial for trial in results.unfinished if trial.state == "failed")
    assert failed.remark == "last logged at update 1340" and failed.commits == (COMMIT,)


def test_the_error_for_an_unknown_sweep_names_the_nearest(runs: Path) -> None:
    with pytest.raises(ValueError, match="Did you mean 'slice_size'"):
        gather("slice_sise", runs)


def test_of_two_runs_of_a_trial_the_finished_one_counts(runs: Path) -> None:
    write_run(runs, "again", {**PARAMETERS, "encoder.slice_ms": 400.0}, None)
    results = gather("slice_size", runs)
    assert results.repeated == ["again"]
    assert len(results.trials) == 24 and len(results.finished) == 22


def test_a_run_over_other_parameters_is_named_but_not_counted(runs: Path) -> None:
    write_run(runs, "other", {**PARAMETERS, "optim.lr": 1}, 0.01)
    results = gather("slice_size", runs)
    assert results.foreign == ["other"]
    assert len(results.trials) == 24
    assert "<code>other</code>" in page(results)


def test_a_value_that_the_grid_does_not_have_any_more_is_left_out(runs: Path) -> None:
    file = runs / "sweeps" / "slice_size" / "sweep.yaml"
    file.write_text(file.read_text().replace("[200, 400, 1000, 2000]", "[200, 400, 1000]"))
    results = gather("slice_size", runs)
    assert {trial.parameters["encoder.slice_ms"] for trial in results.trials} == {200, 400, 1000}
    assert len(results.foreign) == 6 and all("-2000-" in run for run in results.foreign)


@pytest.mark.parametrize("value", [float("nan"), None])
def test_a_run_that_finished_without_a_finite_score_has_failed(
    runs: Path, value: float | None
) -> None:
    folder = runs / "asr-tiny-400-slice-1"
    (folder / "summary.json").write_text(json.dumps({} if value is None else {"test/wer": value}))
    results = gather("slice_size", runs)
    trial = next(trial for trial in results.trials if trial.run == folder.name)
    assert trial.state == "failed" and "test/wer" in trial.remark


def test_differences_are_keys_that_were_not_swept(runs: Path) -> None:
    results = gather("slice_size", runs)
    assert differences(results.trials, results.file) == {}
    path = runs / "asr-tiny-400-slice-1" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    path.write_text(
        yaml.safe_dump({**config, "data": {"batch_s": 40}, "wandb": {"mode": "offline"}})
    )
    results = gather("slice_size", runs)
    [(name, values)] = differences(results.trials, results.file).items()
    assert name == "data.batch_s"
    assert values["40"] == ["asr-tiny-400-slice-1"]
    assert len(values["20"]) == 22
    assert "the scores may not be comparable" in page(results)


def test_deviation_is_taken_over_seeds(results: SweepResults) -> None:
    ranked = rank_settings(results)
    settings = {tuple(setting.parameters.values()): setting for setting in ranked}
    assert len(settings) == 8
    assert [len(setting.scores) for setting in ranked].count(2) == 2
    setting = settings[400, "slice"]
    assert setting.mean == pytest.approx(np.mean(setting.scores))
    assert setting.deviation == pytest.approx(np.std(setting.scores, ddof=1))
    means = [setting.mean for setting in ranked]
    assert means == sorted(means)


def test_seed_noise_is_pooled_and_limits_differences_by_students_t() -> None:
    settings = [
        Setting({"a": 1}, (1.0, 3.0)),
        Setting({"a": 2}, (2.0, 2.0, 2.0)),
        Setting({"a": 3}, (9.0,)),
    ]
    noise = seed_noise(settings)
    assert noise == SeedNoise(pytest.approx((2 / 3) ** 0.5), 3)
    limit = 3.19 * (2 / 3) ** 0.5 * (1 / 2 + 1 / 3) ** 0.5
    assert noise.max_difference(settings[0], settings[1]) == pytest.approx(limit)
    assert seed_noise(settings[2:]) is None


def test_seed_noise_is_taken_for_a_difference_in_one_of_twenty_pairs() -> None:
    rng = np.random.default_rng(0)
    num_different = 0
    for _ in range(2000):
        a, b = (Setting({"a": i}, tuple(rng.normal(size=3))) for i in range(2))
        noise = seed_noise([a, b])
        assert noise is not None
        num_different += abs(a.mean - b.mean) > noise.max_difference(a, b)
    assert 0.035 < num_different / 2000 < 0.065


def test_eta_squared_is_the_share_of_variance_between_groups() -> None:
    scores = np.array([1.0, 1.0, 3.0, 3.0])
    assert eta_squared("aabb", scores) == 1 and eta_squared("abab", scores) == 0
    assert eta_squared("aabb", np.ones(4)) == 0
    assert eta_squared("aabb", np.array([1.0, 2.0, 2.0, 3.0])) == pytest.approx(0.5)


def test_many_numbers_are_grouped() -> None:
    assert len(set(levels(list(np.linspace(0, 1, 40))))) == 4
    assert len(set(levels([1, 2, 3, 1, 2]))) == 3 and len(set(levels(["a", True, None]))) == 3


def test_importance_includes_the_share_by_chance(results: SweepResults) -> None:
    importances = importance(results)
    assert list(importances) == ["encoder.context", "encoder.slice_ms", "seed"]
    assert importances["seed"].share < 0.1
    assert importances["seed"].by_chance == pytest.approx(2 / 21)
    assert importances["encoder.context"].by_chance == pytest.approx(1 / 21)


def test_the_answer_says_which_differences_seeds_explain(results: SweepResults) -> None:
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


def test_a_clear_difference_is_not_called_seed_noise(runs: Path) -> None:
    for folder in runs.glob("asr-*"):
        parameters = json.loads((folder / "sweep.json").read_text())["parameters"]
        mean = {"slice": 0.5, "causal_lookahead": 0.1}[parameters["encoder.context"]]
        score = mean + parameters["seed"] / 1000
        (folder / "summary.json").write_text(json.dumps({"test/wer": score}))
    results = gather("slice_size", runs)
    notes = {row["parameters"]["encoder.context"]: row["note"] for row in setting_rows(results)[1:]}
    assert notes == {"causal_lookahead": "within seed noise", "slice": ""}
    (runs / "sweeps/slice_size/sweep.yaml").write_text(
        (HEAD + FILE).replace("minimize", "maximize")
    )
    assert "encoder.context=slice has the highest test/wer" in answer(gather("slice_size", runs))[0]


def test_with_one_seed_the_noise_is_unknown(runs: Path) -> None:
    for folder in runs.glob("asr-*-[23]"):
        shutil.rmtree(folder)
    results = gather("slice_size", runs)
    assert "whether that is more than seed noise is unknown" in answer(results)[0]
    assert "how much of a share is seed noise is unknown" in page(results)


def test_if_only_seeds_were_swept_the_answer_is_the_seed_noise(runs: Path) -> None:
    for folder in runs.glob("asr-*"):
        if not folder.name.startswith("asr-tiny-400-slice-"):
            shutil.rmtree(folder)
    text = (HEAD + FILE).replace("encoder.slice_ms, one line per encoder.context", "seed")
    text = text.replace("[200, 400, 1000, 2000]", "[400]").replace(
        "[slice, causal_lookahead]", "[slice]"
    )
    (runs / "sweeps/slice_size/sweep.yaml").write_text(text)
    results = gather("slice_size", runs)
    [setting] = rank_settings(results)
    noise = seed_noise([setting])
    assert noise is not None
    limit = 100 * 4.31 * noise.deviation * 2**0.5
    [sentence] = answer(results)
    assert sentence.startswith(f"test/wer is {100 * setting.mean:.2f} % (mean of 3 seeds, from ")
    assert sentence.endswith(
        f" Seeds alone put two runs up to {limit:.2f} points apart, in 95 of 100 pairs."
    )
    assert page(results).count("<svg ") == 3


def test_without_a_score_there_is_a_page_without_an_answer(runs: Path) -> None:
    for path in runs.glob("asr-*/summary.json"):
        path.unlink()
    results = gather("slice_size", runs)
    assert answer(results)[0] == "There is no answer yet: no point has finished with test/wer."
    assert "23 failed" in page(results) and "<svg" not in page(results)


def test_trials_that_were_drawn_are_no_grid(runs: Path) -> None:
    text = (HEAD + FILE).replace("method: grid", "method: random")
    text = text.replace("{values: [200, 400, 1000, 2000]}", "{min: 200, max: 2000}")
    (runs / "sweeps/slice_size/sweep.yaml").write_text(text)
    results = gather("slice_size", runs)
    assert len(results.trials) == 23
    assert "The points are no grid" in page(results)
    assert "Each mark is a run" in page(results)


class AddressParser(html.parser.HTMLParser):
    """Collects ids and addresses of a page."""

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


def test_the_page_refers_to_no_other_file(results: SweepResults) -> None:
    text = page(results)
    parser = AddressParser()
    parser.feed(text)
    assert len(parser.ids) == len(set(parser.ids)) and text.count("<svg ") == 3
    inside = {f"#{name}" for name in parser.ids} | {"data:,"}
    assert parser.addresses and set(parser.addresses) <= inside
    urls = re.findall(r"url\((.*?)\)", text)
    assert urls and set(urls) <= inside
    assert "<script" not in text and "@import" not in text


def test_text_of_the_sweep_file_is_escaped(runs: Path) -> None:
    path = runs / "sweeps/slice_size/sweep.yaml"
    path.write_text(path.read_text().replace("How long", "<script>alert(1)</script> & how long"))
    text = page(gather("slice_size", runs))
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; how long" in text and "<script" not in text


def test_equal_runs_give_an_equal_file(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(report(["slice_size", "--runs", str(runs)]))
    first = path.read_text()
    assert path == runs / "sweeps/slice_size/report.html"
    assert capsys.readouterr().out.rstrip().endswith(str(path))
    report(["slice_size", "--runs", str(runs)])
    assert path.read_text() == first


BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
in_browser = pytest.mark.skipif(BROWSER is None, reason="needs chromium")


def open_in_browser(file: Path, folder: Path) -> tuple[str, str, list[str]]:
    """The document, the browser's log, and the addresses that the page has requested."""
    log = folder / "net.json"
    switches = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--no-first-run",
        f"--user-data-dir={folder / 'profile'}",
        f"--log-net-log={log}",
        "--dump-dom",
    ]
    command = [str(BROWSER), *switches, f"file://{file.resolve()}"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert finished.returncode == 0, finished.stderr
    requests = re.findall(r'"initiator":"([^"]*)".*?"url":"(https?:[^"]*)"', log.read_text())
    # The browser's own requests have no origin.
    urls = [url for initiator, url in requests if initiator != "not an origin"]
    return finished.stdout, finished.stderr, urls


@in_browser
@pytest.mark.timeout(180)
def test_a_browser_shows_the_page_from_a_file(runs: Path, tmp_path: Path) -> None:
    path = Path(report(["slice_size", "--runs", str(runs)]))
    document, log, urls = open_in_browser(path, tmp_path)
    assert ":CONSOLE" not in log, log
    assert not urls
    for heading in (
        "test/wer against encoder.slice_ms",
        "Parallel coordinates",
        "Parameter importance",
        "Commands",
    ):
        assert re.search(rf"<h2[^>]*>{heading}</h2>", document), heading
    assert '<td class="number"><strong>3.09 %</strong></td>' in document
    assert document.count("<svg ") == 3


@in_browser
@pytest.mark.timeout(180)
def test_the_browser_log_shows_requests_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<img src='http://127.0.0.1:9/a.png'><script>throw Error('x')</script>")
    _, log, urls = open_in_browser(page, tmp_path)
    assert urls == ["http://127.0.0.1:9/a.png"] and ":CONSOLE" in log


def test_without_a_login_the_error_names_the_remedy(
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
def test_a_commit_with_later_changes_is_marked_as_dirty(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("1")
    for arguments in (["init", "-q"], ["add", "file"], [*author, "commit", "-qm", "first"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    commit = git_commit(tmp_path)
    assert commit is not None and re.fullmatch("[0-9a-f]{40}", commit)
    (tmp_path / "file").write_text("2")
    assert git_commit(tmp_path) == f"{commit}-dirty"
