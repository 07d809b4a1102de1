"""VoiceBench from items to scores: files of responses, the judge, and the entry point with an untrained model."""

import http.server
import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile as sf

import evaluate
from evaluation.voicebench import command, judge, report, score, subsets
from evaluation.voicebench.responses import Response, ResponseLog, match_responses
from lightning_modules.trainer.checkpoint import FILE
from tests.test_eval_duplex import untrained

RATE_HZ = 16000


def line(prompt: str, response: str = "yes", **fields: object) -> str:
    return json.dumps({"prompt": prompt, "response": response, **fields}) + "\n"


# ---- files of responses


def test_problems_of_lines_are_listed_and_the_other_lines_are_matched(tmp_path: Path):
    file = tmp_path / "some.jsonl"
    text = (
        line("one", item="test/0")
        + line("two")
        + line("one", "no", item="test/0")
        + line("what?")
        + "[1]\n"
    )
    file.write_text(
        text + '{"prompt": "thr\n' + json.dumps({"prompt": "three", "response": None}) + "\n\n"
    )
    items = {
        f"test/{i}": {"prompt": prompt, "reference": "no"}
        for i, prompt in enumerate(["one", "two", "three"])
    }
    content = match_responses(file, ["reference"], items)
    assert [(r.name, r.text, r.fields["reference"]) for r in content.responses] == [
        ("test/0", "yes", "no"), ("test/1", "yes", "no")
    ]  # fmt: skip
    assert [len(content.problems[kind]) for kind in ("broken", "double", "unknown", "missing")] == [
        3,
        1,
        1,
        1,
    ]
    assert "line 6: no JSON" in content.problems["broken"][1] and content.problems["missing"] == [
        "test/2"
    ]
    assert "'what?'" in content.problems["unknown"][0]


def test_without_known_items_every_line_is_an_item(tmp_path: Path):
    file = tmp_path / "some.jsonl"
    file.write_text(line("one", reference="no") + line("one", reference="no") + line("two"))
    content = match_responses(file, ["reference"], None)
    assert [r.name for r in content.responses] == ["line 1", "line 2"]
    assert "has no reference" in content.problems["broken"][0]
    unusual = line("three", "one\u2028line", item=7, reference="no").replace("\\u2028", "\u2028")
    file.write_text(unusual + line("four", item=["?"], reference="no"))
    assert [(r.name, r.text) for r in match_responses(file, [], None).responses] == [
        ("7", "one\u2028line"),
        ("['?']", "yes"),
    ]
    with pytest.raises(ValueError, match="no responses at"):
        match_responses(tmp_path / "none.jsonl", [], None)


def test_lines_with_the_same_prompt_belong_to_different_items(tmp_path: Path):
    file = tmp_path / "some.jsonl"
    file.write_text(line("one", "first") + line("one", "second") + line("one", "third"))
    content = match_responses(file, [], {"a": {"prompt": "one"}, "b": {"prompt": "one"}})
    assert [(r.name, r.text) for r in content.responses] == [("a", "first"), ("b", "second")]
    assert len(content.problems["double"]) == 1


def test_a_name_counts_only_with_the_prompt_of_its_item(tmp_path: Path):
    file = tmp_path / "some.jsonl"
    file.write_text(line("two", "second", item="a") + line("three", item="b"))
    content = match_responses(file, [], {"a": {"prompt": "one"}, "b": {"prompt": "two"}})
    assert [(r.name, r.text) for r in content.responses] == [("b", "second")]
    assert len(content.problems["unknown"]) == 1 and content.problems["missing"] == ["a"]


def test_a_log_resumes_after_an_incomplete_line(tmp_path: Path):
    file = tmp_path / "deep" / "log.jsonl"
    ResponseLog(file, "me").write("test/0", {"prompt": "one", "response": "ü"})
    with file.open("a") as log:
        log.write('{"item": "test/1", "pro')
    again = ResponseLog(file, "me")
    assert again.contains("test/0", "one") and not again.contains("test/1", "two")
    with pytest.raises(ValueError, match="an answer to other data"):
        again.contains("test/0", "another")
    again.write("test/1", {"prompt": "two", "response": "b"})
    content = match_responses(file, [], None)
    assert [r.text for r in content.responses] == ["ü", "b"] and len(
        content.problems["broken"]
    ) == 1
    with pytest.raises(ValueError, match="was made by me, not by you"):
        ResponseLog(file, "you")


# ---- the judge


@pytest.fixture
def endpoint() -> Iterator[Callable[[Callable[[str], str | None]], tuple[str, list[dict]]]]:
    """Starts servers that reply with a function of the question, or with an error if it returns None."""
    servers = []

    def serve(reply: Callable[[str], str | None]) -> tuple[str, list[dict]]:
        requests: list[dict] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                requests.append({"path": self.path, **body})
                content = reply(body["messages"][1]["content"])
                self.send_response(500 if content is None else 200)
                self.end_headers()
                self.wfile.write(
                    json.dumps({"choices": [{"message": {"content": content}}]}).encode()
                )

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/v1", requests

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "BACKOFF_S", 0.0)


def test_three_requests_per_response_are_sent_only_once(endpoint, tmp_path: Path):
    url, requests = endpoint(lambda question: "4" if "sea" in question else "2")
    responses = [
        Response("a", {"prompt": "Where?"}, "the sea {x}"),
        Response("b", {"prompt": "Who?"}, "me"),
    ]
    local_judge = judge.Judge(url, "judge-1")
    file = tmp_path / "replies.jsonl"
    replies, problems = judge.ask_all("open", responses, local_judge, file)
    assert replies == {"a": ["4"] * 3, "b": ["2"] * 3} and not problems and len(requests) == 6
    assert (
        requests[0]["path"] == "/v1/chat/completions"
        and requests[0]["temperature"] == 0.5
        and requests[0]["top_p"] == 0.95
    )
    assert judge.ask_all("open", responses, local_judge, file)[0] == replies and len(requests) == 6
    judge.ask_all("open", [responses[0]._replace(text="another sea")], local_judge, file)
    assert len(requests) == 9
    file.write_text(file.read_text()[:-30])
    for _ in range(2):
        judge.ask_all("open", [responses[0]._replace(text="another sea")], local_judge, file)
        assert len(requests) == 10


def test_unreadable_replies_and_errors_are_saved_reported_and_requested_again(
    endpoint, no_backoff, tmp_path: Path
):
    responses = [
        Response("a", {"prompt": "Q", "reference": "R"}, "good"),
        Response("b", {"prompt": "Q", "reference": "R"}, "bad"),
    ]
    file = tmp_path / "replies.jsonl"
    failing, requests = endpoint(lambda question: "Yes" if "good" in question else None)
    replies, problems = judge.ask_all("qa", responses, judge.Judge(failing, "j"), file)
    assert replies == {"a": ["Yes"] * 3, "b": []} and len(requests) == 3 + 3 * judge.NUM_TRIES
    assert len(problems) == 3 and "b: no reply from" in problems[0]
    undecided, _ = endpoint(lambda question: "Perhaps")
    replies, problems = judge.ask_all("qa", responses, judge.Judge(undecided, "j"), file)
    assert replies["b"] == [] and "unreadable reply from the judge: 'Perhaps'" in problems[0]
    working, requests = endpoint(lambda question: "no.")
    replies, problems = judge.ask_all("qa", responses, judge.Judge(working, "j"), file)
    assert replies == {"a": ["Yes"] * 3, "b": ["no."] * 3} and not problems and len(requests) == 3
    assert len(file.read_text().splitlines()) == 3 + 3 + 3 + 3


def test_requests_stop_after_many_failures(
    no_backoff, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def time_out(self: judge.Judge, question: str) -> str:
        raise TimeoutError("timed out")

    monkeypatch.setattr(judge.Judge, "ask", time_out)
    responses = [Response(f"test/{i}", {"prompt": "Q"}, "A") for i in range(20)]
    replies, problems = judge.ask_all(
        "open", responses, judge.Judge("http://nobody/v1", "j"), tmp_path / "replies.jsonl"
    )
    assert set(map(len, replies.values())) == {0} and "36 requests not made" in problems[-1]
    assert "timed out" in problems[0] and len(problems) == 25


# ---- the report


def result(name: str, official: float, judge_name: str = "") -> report.SubsetResult:
    return report.SubsetResult(
        name,
        score.SubsetScores(official, official, 0.0),
        subsets.SUBSETS[name].size,
        0,
        {},
        judge_name,
    )


def test_overall_needs_nine_complete_subsets_and_the_official_judge():
    judged = {"open": judge.OFFICIAL_MODEL, "qa": judge.OFFICIAL_MODEL}
    leaderboard = subsets.LEADERBOARD
    scores = {
        name: 4.0 if subset.scorer == "open" else 50.0 for name, subset in leaderboard.items()
    }
    results = [
        result(name, scores[name], judged.get(leaderboard[name].scorer, "")) for name in leaderboard
    ]
    assert report.flat_values(results, embedded=False)["overall"] == pytest.approx(
        (3 * 80 + 6 * 50) / 9
    )
    assert (
        report.flat_values(results, embedded=True)["overall"] is None
        and report.flat_values(results[1:], False)["overall"] is None
    )
    other_judge = [s if not s.judge else result(s.name, scores[s.name], "llama") for s in results]
    values = report.flat_values(other_judge, embedded=False)
    assert values["overall"] is None and values["overall/by/llama"] == pytest.approx(
        (3 * 80 + 6 * 50) / 9
    )
    assert values["sd-qa/official"] is None and values["sd-qa/by/llama"] == 50


@pytest.mark.parametrize(("name", "official"), [
    ("gpt-4o-mini", True), ("gpt-4o-mini-2024-07-18", True), ("gpt-4o-mini-audio-preview", False), ("gpt-4o", False)
])  # fmt: skip
def test_only_the_official_judge_fills_the_official_column(name: str, official: bool):
    assert (result("sd-qa", 50, name).judge_column == "") is official


# ---- a run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a run whose model responds in every slice; there is no judge."""
    for name in ("JUDGE_URL", "JUDGE_MODEL"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "run"
    folder.mkdir()
    untrained("streaming", "duplex.response_threshold=1e-9", "duplex.max_tokens=4").save(
        folder / FILE
    )
    return folder


def test_embedded_items_are_answered_live_and_rescored_without_the_model(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    arguments = [
        "voicebench",
        str(run),
        "--data",
        "embedded",
        "--subsets",
        "bbh,sd-qa",
        "--limit",
        "2",
    ]
    values = evaluate.main(arguments)
    assert "not VoiceBench's" in capsys.readouterr().out
    for name in ("bbh", "sd-qa"):
        for key in ("official", "strict", "parse_failure_rate", "empty_rate"):
            assert f"{name}/{key}" in values
        assert values[f"count/{name}/responses"] == 2 and values[f"count/{name}/missing"] == 0
    assert (
        values["overall"] is None
        and values["sd-qa/official"] is None
        and values["bbh/official"] is not None
    )
    assert json.loads((run / "scores" / "voicebench.json").read_text()) == values
    file = run / "scores" / "voicebench" / "streaming-embedded" / "bbh.jsonl"
    entries = [json.loads(entry) for entry in file.read_text().splitlines()]
    assert [entry["item"] for entry in entries] == ["embedded/0", "embedded/1"] and entries[0][
        "delay_s"
    ] is not None
    file.write_text(file.read_text().splitlines()[0] + "\n")
    evaluate.main([*arguments[:-3], "bbh", "--limit", "2"])
    assert len(file.read_text().splitlines()) == 2
    monkeypatch.setattr(command, "open_sessions", None)
    assert evaluate.main(arguments) == values
    with pytest.raises(ValueError, match="was made by"):
        evaluate.main([*arguments[:2], "duplex.max_tokens=5", *arguments[2:]])


def write_parquet(folder: Path, rows: list[dict]) -> None:
    (folder / "openbookqa").mkdir(parents=True)
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(rows), folder / "openbookqa" / "test-00000-of-00001.parquet"
    )


def sound(seconds: float) -> dict[str, object]:
    data = io.BytesIO()
    sf.write(
        data, 0.1 * np.sin(np.arange(round(seconds * 2 * RATE_HZ)) / 9), 2 * RATE_HZ, format="WAV"
    )
    return {"bytes": data.getvalue(), "path": None}


def test_a_data_folder_is_answered_offline_in_batches(run: Path, tmp_path: Path, capsys):
    rows = [
        {"audio": sound(0.5 + i / 4), "prompt": f"question {i}", "reference": "A"} for i in range(3)
    ]
    write_parquet(
        tmp_path / "data",
        [*rows, {"audio": {"bytes": b"no sound", "path": None}, "prompt": "q", "reference": "B"}],
    )
    arguments = ["--data", str(tmp_path / "data"), "--subsets", "openbookqa"]
    values = evaluate.main(
        ["voicebench", str(run), *arguments, "--mode", "offline", "--batch", "2"]
    )
    assert values["count/openbookqa/responses"] == 3 and values["count/openbookqa/missing"] == 1
    assert "left out: openbookqa test/3 is broken" in capsys.readouterr().out
    folder = run / "scores" / "voicebench" / "offline"
    responses = [
        json.loads(row)["response"]
        for row in (folder / "openbookqa.jsonl").read_text().splitlines()
    ]
    rescored = evaluate.main(["voicebench", *arguments, "--responses", str(folder)])
    assert rescored["openbookqa/official"] == values["openbookqa/official"]
    (folder / "openbookqa.jsonl").unlink()
    evaluate.main(["voicebench", str(run), *arguments, "--mode", "offline", "--batch", "1"])
    assert [
        json.loads(row)["response"]
        for row in (folder / "openbookqa.jsonl").read_text().splitlines()
    ] == responses


def test_invalid_arguments_are_rejected(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_parquet(tmp_path / "data", [{"audio": sound(0.5), "prompt": "question"}])
    (tmp_path / "some.jsonl").write_text(line("one"))
    cases = {
        "no 'mmlu'": [str(run), "--subsets", "mmlu"],
        "no such folder": [str(run), "--data", str(tmp_path / "none")],
        "no test-": [str(run), "--data", str(tmp_path), "--subsets", "bbh"],
        "row 0 has no reference": [
            str(run),
            "--data",
            str(tmp_path / "data"),
            "--subsets",
            "openbookqa",
        ],
        "of which one subset": ["--responses", str(tmp_path / "some.jsonl")],
        "name files by their subset": ["--responses", str(tmp_path)],
        "name a finished run, or --responses": ["--subsets", "bbh"],
        "not both": [str(run), "--responses", str(tmp_path)],
    }
    for message, arguments in cases.items():
        with pytest.raises(ValueError, match=message):
            evaluate.main(["voicebench", *arguments])
    monkeypatch.setenv("JUDGE_URL", "http://somewhere/v1")
    with pytest.raises(ValueError, match="a judge needs both"):
        evaluate.main(["voicebench", str(run)])


def test_responses_of_another_system_with_another_judge(
    endpoint, run: Path, tmp_path: Path, monkeypatch
):
    url, requests = endpoint(lambda question: "3")
    monkeypatch.setenv("JUDGE_URL", url)
    monkeypatch.setenv("JUDGE_MODEL", "local/seven-b")
    file = tmp_path / "made.jsonl"
    scores = tmp_path / "scores.json"
    file.write_text(line("one") + line("two", ""))
    values = evaluate.main(
        ["voicebench", "--responses", str(file), "--subset", "wildvoice", "--json", str(scores)]
    )
    assert values["wildvoice/by/local/seven-b"] == 3 and values["wildvoice/official"] is None
    assert values["wildvoice/empty_rate"] == 0.5 and json.loads(scores.read_text()) == values
    assert len(requests) == 6 and (tmp_path / "made.judge-local-seven-b.jsonl").exists()
