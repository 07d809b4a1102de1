"""Scorecards: from hand-made scores, from the real commands on untrained models, and in a browser."""

import importlib
import itertools
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

import evaluate
from configs.loading import load_config
from configs.schema import Config
from duplexmamba.models.speech_lm import SpeechEncoder, SpeechLM
from evaluation.arguments import parser
from evaluation.record import Row
from evaluation.saved_scores import load_lines, load_scores, save_lines, save_scores
from evaluation.scorecard import command as scorecard
from evaluation.scorecard.card import Card, CardRow, SavedScores, best_cards
from evaluation.scorecard.page import page
from evaluation.scores import SCORES
from evaluation.speed import measure
from evaluation.units import format_score, unit_of
from evaluation.wer import next_command
from lightning_modules.stages import STAGE_REGISTRY
from lightning_modules.trainer.checkpoint import FILE
from tests.conftest import SMALL_SIZES, TINY
from tests.test_eval_duplex import untrained
from tests.test_report import AddressParser, in_browser, open_in_browser

WER = {"test/wer": 0.25, "test/cer": 0.125}
SPEED = {"slice/median_ms": 9.25, "state/all_bytes": 312804.0, "size/all_parameters": 3736832.0}
BBH = {
    "data/embedded": 0.0, "bbh/official": 62.5, "bbh/strict": 50.0, "bbh/parse_failure_rate": 0.25,
    "bbh/empty_rate": 0.0, "count/bbh/responses": 8.0, "overall": None,
}  # fmt: skip
QA = {
    "sd-qa/official": None, "sd-qa/strict": None, "sd-qa/parse_failure_rate": None, "sd-qa/empty_rate": 0.0,
    "sd-qa/panda": None, "sd-qa/gpt": None, "count/sd-qa/responses": 553.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_judge_and_no_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    for name in ("JUDGE_URL", "JUDGE_MODEL"):
        monkeypatch.delenv(name, raising=False)


def write_run(
    folder: Path, stage: str, scores: Mapping[str, Mapping[str, float | None]], *arguments: str
) -> Path:
    """Folder of a run with scores, each saved as if its command had these arguments."""
    (folder / "scores").mkdir(parents=True)
    untrained(stage).save(folder / FILE)
    for command, values in scores.items():
        own_arguments = (
            arguments if command == "voicebench" else [each for each in arguments if "=" in each]
        )
        data = ["FOLDER"] if SCORES[command].has_own_data else []
        save_scores(parser().parse_args([command, str(folder), *data, *own_arguments]), values)
    return folder


def document(folder: Path) -> str:
    return (folder / "scorecard.html").read_text()


# ---- saved scores


def test_a_single_run_with_missing_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    scores = {"wer": WER, "speed": SPEED, "voicebench": BBH | QA, "turnbench": {"eot/recall": 0.5}}
    run = write_run(tmp_path / "one", "streaming", scores)
    (run / "summary.json").write_text(json.dumps({"time/total_s": 4466.7}))
    arguments = ["scorecard", str(run), "--as-is", "--json", str(tmp_path / "mine.json")]
    values = evaluate.main(arguments)
    folder = run / "scores" / "scorecard"
    assert (
        values
        == json.loads((folder / "scorecard.json").read_text())
        == json.loads((tmp_path / "mine.json").read_text())
    )
    assert values["wer/test/wer"] == 0.25 and values["voicebench/overall"] is None
    text = document(folder)
    printed = capsys.readouterr().out
    assert all(
        shown in text
        for shown in (
            "25.0 %",
            "9.25 ms",
            "313 kB",
            "3.74 M",
            "62.50<small>",
            "4,467 s",
            "TurnBench</h2>",
        )
    )
    assert (
        "strict 50.00, 25 % not parsed, 0 % empty, of 8" in text
        and "numbers are not VoiceBench" not in text
    )
    commands = {
        "duplex": f"not scored yet. python evaluate.py duplex {run}",
        "full-duplex-bench": f"needs your own copy of the data. python evaluate.py full-duplex-bench {run} FOLDER",
        "VoiceBench, responses": f"bbh 8 of 1,000. python evaluate.py voicebench {run}",
        "VoiceBench: alpacaeval_full, commoneval, wildvoice": "not scored. python evaluate.py voicebench",
        "VoiceBench: sd-qa": "no judge has rated all answers. JUDGE_URL=",
        "VoiceBench: PEDANT": "qa_metrics or its model is not installed. pip install",
    }
    for gap, command in commands.items():
        assert re.search(f"one: {re.escape(gap)}.*: {re.escape(command)}", printed), gap
    assert "W&B is disabled" in printed and not (folder / "wandb").exists()
    assert text.count("<td>speed</td>") == 1 and "Conversation</h2>\n<p>Nothing yet" in text


def test_two_runs_side_by_side(tmp_path: Path):
    one = write_run(tmp_path / "one", "streaming", {"wer": WER, "speed": SPEED}, "data.test_size=9")
    two = write_run(tmp_path / "two", "asr", {"wer": {"test/wer": 0.5, "test/cer": 0.125}})
    values = evaluate.main(["scorecard", f"{one},{two}", "--as-is"])
    assert values["one/wer/test/wer"] == 0.25 and values["two/wer/test/wer"] == 0.5
    text = document(tmp_path / "scorecards" / "one+two")
    assert '<td class="number good">25.0 %</td>\n<td class="number">50.0 %</td>' in text
    assert '<td class="number">12.5 %</td>\n<td class="number">12.5 %</td>' in text
    assert "These settings differ" in text and "wer: overrides" in text
    assert "<code>stage.name</code></td><td" in text and "cannot score a run of stage asr" in text


def test_best_cards():
    rates = {"one": 0.1, "two": 0.2, "three": 0.1, "none": None}
    cards = [
        Card(name, {}, {"wer": SavedScores({"test/wer": rate}, {})}, [])
        for name, rate in rates.items()
    ]
    assert best_cards(cards, CardRow("wer", "test/wer", "", "share", -1)) == {"one", "three"}
    assert best_cards(cards, CardRow("wer", "test/wer", "", "share", 1)) == {"two"}
    assert (
        best_cards(cards, CardRow("wer", "test/wer", "", "share"))
        == best_cards(cards, CardRow("wer", "test/cer", "", "share", -1))
        == set()
    )
    assert best_cards(cards[::2], CardRow("wer", "test/wer", "", "share", -1)) == set()


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        ("share", 0.03084, "3.1 %"), ("ms", 9.2, "9.2 ms"), ("s", 0.266, "0.266 s"), ("s", 4466.7, "4,467 s"),
        ("bytes", 312804, "313 kB"), ("bytes", 999.6, "1 kB"), ("bytes", 0, "0 B"), ("count", 3736832, "3.74 M"),
        ("count", 12, "12"), ("number", 49.2, "49.2"), ("number", 5.2, "5.2"), ("GiB", 0.78, "0.78 GiB"),
        ("share", None, ""),
    ],
)  # fmt: skip
def test_scores_are_formatted_with_their_unit(unit: str, value: float | None, text: str):
    assert format_score(unit, value) == text


def test_a_row_names_a_known_unit():
    with pytest.raises(ValueError, match="row length/num_words: unknown unit 'numbers'.*'number'"):
        Row("length/num_words", "words in a transcript", "numbers")


@pytest.mark.parametrize("name", SCORES)
def test_rows_agree_with_the_units_in_their_keys(name: str):
    for row in itertools.chain.from_iterable(SCORES[name].sections.values()):
        # A real-time factor is a share of real time.
        if not row.key.endswith("_factor"):
            assert row.unit == unit_of(row.key), row.key


@pytest.mark.parametrize(
    ("key", "unit"),
    [
        ("slice/median_ms", "ms"), ("eot/latency_p50_s", "s"), ("state/growth_bytes_per_s", "bytes"),
        ("size/all_parameters", "count"), ("silence/false_takeover_per_hour", "number"),
        ("length/num_words", "number"), ("eot/recall", "share"), ("memory/peak_gib", "GiB"),
    ],
)  # fmt: skip
def test_a_key_tells_its_unit(key: str, unit: str):
    assert unit_of(key) == unit


@pytest.mark.parametrize("name", SCORES)
def test_every_score_is_complete(name: str):
    score = SCORES[name]
    assert score.name == name and re.fullmatch("[a-z]+(-[a-z]+)*", name) and score.description
    assert score.stages and set(score.stages) <= STAGE_REGISTRY.keys()
    module, function = score.function.split(":")
    assert callable(getattr(importlib.import_module(module), function))
    assert name in parser().format_help()
    # One way onto the scorecard.
    ways = (score.sections, score.section_of_all, score.make_section)
    assert sum(map(bool, ways)) == 1


# ---- reuse of saved scores


def test_scores_are_recomputed_only_for_other_settings_or_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = write_run(tmp_path / "one", "encoder", {"wer": WER})
    of_encoders = [name for name, score in SCORES.items() if "encoder" in score.stages]
    without_wer = [name for name in of_encoders if name != "wer"]
    computed = []

    def record(args: object) -> dict[str, float]:
        computed.append(args.score)
        return SPEED if args.score == "speed" else WER

    def computed_by(*arguments: str) -> list[str]:
        computed.clear()
        evaluate.main(["scorecard", str(run), *arguments])
        return computed

    monkeypatch.setattr(scorecard, "compute", record)
    assert computed_by() == without_wer
    assert computed_by() == []
    assert computed_by("data.test_size=9") == of_encoders
    untrained("encoder", "encoder.num_layers=1").save(run / FILE)
    assert load_scores(run, "wer") is None
    assert computed_by("data.test_size=9") == of_encoders
    (run / "scores" / "wer.settings.json").write_text("{")
    assert load_scores(run, "wer") is None


def test_lines_are_read_only_with_the_settings_of_their_reader(tmp_path: Path):
    run = write_run(tmp_path / "one", "encoder", {})
    plain, other_seed = [parser().parse_args(["wer", str(run), *each]) for each in ([], ["seed=2"])]
    command = f"first run `python evaluate.py wer {run}"
    with pytest.raises(ValueError, match=f"{command}`"):
        load_lines(plain, "wer")
    lines = [{"understood": "yes"}, {"understood": "no"}]
    save_lines(run, "wer", lines)
    save_scores(other_seed, WER)
    assert load_lines(other_seed, "wer") == lines
    with pytest.raises(ValueError, match=f"same overrides \\(none\\): {command}`"):
        load_lines(plain, "wer")
    # New lines without settings: their command was interrupted.
    save_lines(run, "wer", lines[:1])
    with pytest.raises(ValueError, match=f"{command} seed=2`"):
        load_lines(other_seed, "wer")
    save_scores(other_seed, WER)
    untrained("encoder", "encoder.num_layers=1").save(run / FILE)
    with pytest.raises(ValueError, match=command):
        load_lines(other_seed, "wer")


@pytest.mark.parametrize(
    ("stage", "command"),
    [("encoder", "make scorecard CKPT=one"), ("state", "make eval-duplex RUN=one")],
)
def test_wer_suggests_the_next_score(stage: str, command: str):
    assert next_command(stage, Path("one")) == command


def test_a_failed_command_is_reported_and_the_other_scores_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = write_run(tmp_path / "one", "encoder", {"wer": WER})

    def fail(args: object) -> dict[str, float]:
        raise ValueError("no such <corpus>")

    monkeypatch.setattr(scorecard, "compute", fail)
    evaluate.main(["scorecard", str(run)])
    text = document(run / "scores" / "scorecard")
    assert "25.0 %" in text and "no such &lt;corpus&gt;<br><code>python evaluate.py speed" in text


def test_invalid_runs_are_rejected(tmp_path: Path):
    run = write_run(tmp_path / "one", "asr", {})
    for runs, message in {
        f"{run},{run}": "different names",
        ",": "name one run",
        str(tmp_path): "no checkpoint at",
    }.items():
        with pytest.raises(ValueError, match=message):
            evaluate.main(["scorecard", runs])


# ---- real commands


def test_missing_scores_are_computed_by_their_commands(tmp_path: Path):
    pytest.importorskip("espeakng_loader")
    run = write_run(tmp_path / "one", "streaming", {})
    overrides = [
        "data.test_size=2",
        "data.test_dialogues=1",
        "duplex.response_threshold=0.2",
        "duplex.max_tokens=4",
        "seed=188",
    ]
    arguments = [
        *overrides,
        "trainer.accelerator=cpu",
        "--data",
        "embedded",
        "--subsets",
        "bbh",
        "--limit",
        "1",
    ]
    values = evaluate.main(["scorecard", str(run), *arguments])
    names = (
        "wer/test/wer",
        "voicebench/bbh/official",
        "duplex/state/accuracy",
        "speed/slice/median_ms",
    )
    assert all(values[name] is not None for name in names)
    text = document(run / "scores" / "scorecard")
    assert "these numbers are not VoiceBench's" in text and "of the questions answered" in text


@pytest.mark.parametrize("stage", ["encoder", "lm", "asr"])
def test_speed_measures_the_parts_that_a_model_has(stage: str):
    config = load_config([TINY[0], f"configs/stage/{stage}.yaml", *SMALL_SIZES])
    model = STAGE_REGISTRY[stage].model(config.model).eval()
    values = {name: score.value for name, score in measure(model, config).items()}
    takes_speech = isinstance(model, SpeechEncoder)
    emits_text = stage != "encoder"
    assert (
        {"slice/median_ms", "whole/real_time_factor", "state/all_bytes"} <= values.keys()
        if takes_speech
        else True
    )
    assert ("slice/median_ms" in values) is takes_speech and (
        "token/median_ms" in values
    ) is emits_text
    assert values["size/all_parameters"] == sum(p.numel() for p in model.parameters())
    if stage == "asr":
        assert (
            0 < values["state/lm_bytes"] < values["state/all_bytes"]
            and values["state/growth_bytes_per_s"] == 0
        )


def speech_lm(*overrides: str) -> tuple[SpeechLM, Config]:
    config = load_config([*TINY, *SMALL_SIZES, *overrides])
    return SpeechLM(config.model).eval(), config


def test_growth_of_the_state_is_measured():
    values = measure(*speech_lm("lm.kind=transformer", "lm.num_heads=2"))
    assert values["state/growth_bytes_per_s"].value > 0
    assert "slice/median_ms" not in measure(*speech_lm("encoder.context=full"))


# ---- W&B, and the page


@pytest.mark.timeout(60)
def test_the_scorecard_is_an_offline_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = write_run(tmp_path / "one", "asr", {"wer": WER})
    evaluate.main(["scorecard", str(run), "--as-is"])
    [log] = (run / "scores" / "scorecard" / "wandb").glob("offline-run-*/*.wandb")
    expected = (b"scorecard-one", b"scorecard.html", b"scorecard.json", b"wer/test/wer")
    while not all(
        each in log.read_bytes() for each in expected
    ):  # a process of W&B writes the file in the background
        time.sleep(0.1)
    assert f"W&B: {log.parent}" in capsys.readouterr().out


def test_the_page_has_no_external_addresses(tmp_path: Path):
    run = write_run(tmp_path / "one", "asr", {"wer": WER, "voicebench": BBH}, "--data", "<b>")
    evaluate.main(["scorecard", str(run), "--as-is"])
    text = document(run / "scores" / "scorecard")
    reader = AddressParser()
    reader.feed(text)
    assert set(reader.addresses) <= {"#gaps", "data:,"} and reader.ids.count("gaps") == 1
    assert (
        "<script" not in text and "url(" not in text and "<b>" not in text and "&lt;b&gt;" in text
    )
    assert page([]).count("<h2") > 3


@in_browser
@pytest.mark.timeout(180)
def test_a_browser_shows_the_page_from_a_file(tmp_path: Path):
    one = write_run(
        tmp_path / "one", "streaming", {"wer": WER, "speed": SPEED, "voicebench": BBH | QA}
    )
    two = write_run(tmp_path / "two", "asr", {})
    evaluate.main(["scorecard", f"{one},{two}", "--as-is"])
    file = tmp_path / "scorecards" / "one+two" / "scorecard.html"
    shown, log, requests = open_in_browser(file, tmp_path)
    assert ":CONSOLE" not in log and not requests
    for heading in (
        "Word error rate",
        "VoiceBench",
        "Conversation",
        "Speed",
        "State and size",
        "What is missing",
    ):
        assert re.search(rf"<h2[^>]*>{heading}</h2>", shown), heading
