"""The hub: its answers to clients, and the assignment of trials to agents."""

import base64
import json
import math
import time
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from sweeps.hub import distributions, store
from sweeps.hub.api import Api
from sweeps.hub.app import make_app
from sweeps.hub.filters import matches
from sweeps.hub.private import hub_key, write_private
from sweeps.hub.search import Trial, check, suggest
from sweeps.hub.store import Store
from tests.hub_server import PROGRAM, SWEEP

AGENT = "mutation A($sweep: String!) {createAgent(input: {sweep: $sweep}) {agent {id}}}"
HEARTBEAT = "mutation B($id: ID!, $alive: JSONString) {agentHeartbeat(input: {id: $id, runState: $alive}) {commands}}"
START = 'mutation U($name: String) {upsertBucket(input: {modelName: "tests", name: $name}) {bucket {id} inserted}}'
RUNS = '{project(name: "tests") {runs {edges {node {name state historyLineCount}}}}}'


KEY = "k" * 64


class Hub:
    """In this process; `heartbeat_timeout_s` may be changed."""

    def __init__(self, folder: Path, heartbeat_timeout_s: float = 60):
        self.folder = folder
        (folder / "sweeps").mkdir(exist_ok=True)
        (folder / "sweeps" / "grid.yaml").write_text(SWEEP)
        self.api = Api(
            folder / "hub", folder / "sweeps", KEY, "http://testserver", heartbeat_timeout_s
        )
        self.client = TestClient(make_app(self.api), raise_server_exceptions=False)
        self.auth = {"authorization": "Basic " + base64.b64encode(f"api:{KEY}".encode()).decode()}

    def query(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of a GraphQL query, or status and message of its error."""
        response = self.client.post(
            "/graphql", json={"query": query, "variables": variables}, headers=self.auth
        )
        answer = response.json()
        return answer["data"] or {"status": response.status_code, **answer["errors"][0]}

    def create_agent(self) -> str:
        return self.query(AGENT, sweep="grid.yaml")["createAgent"]["agent"]["id"]

    def heartbeat(self, agent: str, *alive: str) -> list[dict[str, Any]]:
        answer = self.query(HEARTBEAT, id=agent, alive=json.dumps(dict.fromkeys(alive, True)))
        return json.loads(answer["agentHeartbeat"]["commands"])

    def start_run(self, name: str) -> None:
        self.query(START, name=name)

    def stream(self, name: str, **body: Any) -> None:
        path = f"/files/local/tests/{name}/file_stream"
        response = self.client.post(path, json=body, headers=self.auth)
        assert response.status_code == 200

    def states(self) -> dict[str, str]:
        edges = self.query(RUNS)["project"]["runs"]["edges"]
        return {edge["node"]["name"]: edge["node"]["state"] for edge in edges}


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path)


def test_each_trial_of_a_grid_is_assigned_once_and_the_sweep_ends(hub: Hub) -> None:
    first, second = hub.create_agent(), hub.create_agent()
    assigned = []
    for agent in (first, second, first, second):
        [command] = hub.heartbeat(agent)
        assert command["type"] == "run" and command["program"] == PROGRAM
        assigned.append({name: entry["value"] for name, entry in command["args"].items()})
        hub.start_run(command["run_id"])
        hub.stream(command["run_id"], complete=True, exitcode=0)
    assert assigned == [{"x": x, "y": y} for x in (1, 2) for y in (10, 20)]
    assert hub.heartbeat(first) == hub.heartbeat(second) == [{"type": "exit"}]
    assert set(hub.states().values()) == {"finished"} and len(hub.states()) == 4


def test_a_run_whose_process_vanished_is_assigned_again_and_crashes_at_last(hub: Hub) -> None:
    agent, names, kinds = hub.create_agent(), set(), []
    for _ in range(3):
        [command] = hub.heartbeat(agent)
        kinds.append(command["type"])
        names.add(command["run_id"])
        hub.start_run(command["run_id"])
        assert hub.heartbeat(agent, command["run_id"]) == []
    [other] = hub.heartbeat(agent)
    assert kinds == ["run", "resume", "resume"] and len(names) == 1 and other["type"] == "run"
    assert hub.states()[names.pop()] == "crashed"


def test_a_program_that_ends_before_it_reaches_the_hub_fails_until_the_sweep_starts_again(
    hub: Hub,
) -> None:
    agent = hub.create_agent()
    names = []
    for _ in range(4):
        [command] = hub.heartbeat(agent)
        names.append(command["run_id"])
    assert hub.heartbeat(agent) == [{"type": "exit"}] and set(hub.states().values()) == {"failed"}
    [again] = hub.heartbeat(hub.create_agent())
    assert (again["type"], again["run_id"]) == ("resume", names[0])


def test_a_preempted_run_is_assigned_again_after_every_preemption(hub: Hub) -> None:
    agent, names = hub.create_agent(), set()
    for _ in range(5):
        [command] = hub.heartbeat(agent)
        names.add(command["run_id"])
        hub.start_run(command["run_id"])
        hub.stream(command["run_id"], preempting=True)
        hub.start_run(command["run_id"])  # the client updates the run while it ends
        assert hub.states()[command["run_id"]] == "preempting"
        hub.stream(command["run_id"], complete=True, exitcode=143)
        assert hub.states()[command["run_id"]] == "preempted"
    assert len(names) == 1


def test_a_silent_run_is_assigned_to_another_agent_after_the_heartbeat_timeout(
    tmp_path: Path,
) -> None:
    hub = Hub(tmp_path, heartbeat_timeout_s=0.2)
    [command] = hub.heartbeat(hub.create_agent())
    hub.start_run(command["run_id"])
    time.sleep(0.3)
    [again] = hub.heartbeat(hub.create_agent())
    assert again["type"] == "resume" and again["run_id"] == command["run_id"]


def test_repeated_lines_do_not_change_the_history(hub: Hub) -> None:
    rows = [json.dumps({"_step": i, "loss": i}) for i in range(4)]
    hub.start_run("one")
    for first, part in ((0, rows[:3]), (1, rows[1:3]), (3, rows[3:])):
        hub.stream("one", files={"wandb-history.jsonl": {"offset": first, "content": part}})
    query = '{project(name: "tests") {run(name: "one") {historyLineCount history(minStep: 1)}}}'
    run = hub.query(query)["project"]["run"]
    assert run == {"historyLineCount": 4, "history": rows[1:]}


FILES = """
{project(name: "tests") {run(name: "one") {
    files(names: %s, pattern: "%s") {edges {node {name sizeBytes md5}}}
}}}
"""


@pytest.mark.parametrize(
    ("names", "pattern", "expected"),
    [
        ([], "", ["config.yaml", "model.pt"]),
        (["model.pt"], "", ["model.pt"]),
        (["gone"], "", ["gone"]),
        ([], "%.pt", ["model.pt"]),
        ([], "confi_._aml", ["config.yaml"]),
    ],
)
def test_a_client_gets_the_files_that_it_names(
    hub: Hub, names: list[str], pattern: str, expected: list[str]
) -> None:
    hub.start_run("one")
    folder = hub.folder / "hub" / "storage" / "runs" / "tests" / "one"
    folder.mkdir(parents=True)
    for name in ("config.yaml", "model.pt"):
        (folder / name).write_text("hello")
    run = hub.query(FILES % (json.dumps(names), pattern))["project"]["run"]
    nodes = [edge["node"] for edge in run["files"]["edges"]]
    assert [node["name"] for node in nodes] == expected
    is_there = expected != ["gone"]
    size, digest = (5, "XUFAKrxLKna5cZ2REBfFkg==") if is_there else (0, "0")
    assert {(node["sizeBytes"], node["md5"]) for node in nodes} == {(size, digest)}


UPSERT_SWEEP = """
mutation S($id: ID, $state: String, $prior: JSONString) {
    upsertSweep(input: {id: $id, state: $state, priorRunsFilters: $prior}) {sweep {state}}
}
"""
SWEEPS = '{project(name: "tests") {sweeps {edges {node {id}}}}}'


def test_runs_cannot_be_taken_into_a_sweep(hub: Hub) -> None:
    answer = hub.query(UPSERT_SWEEP, prior='{"$or": [{"name": "one"}]}')
    assert "--prior_run (-R)" in answer["message"]


def test_the_runs_of_a_cancelled_sweep_are_killed(hub: Hub) -> None:
    first, second, third = (hub.create_agent() for _ in range(3))
    names = [hub.heartbeat(agent)[0]["run_id"] for agent in (first, second, third)]
    for name in names:
        hub.start_run(name)
    hub.stream(names[0], preempting=True, complete=True, exitcode=143)
    [edge] = hub.query(SWEEPS)["project"]["sweeps"]["edges"]
    hub.query(UPSERT_SWEEP, id=edge["node"]["id"], state="CANCELED")
    assert hub.heartbeat(second, names[1]) == [{"type": "stop", "run_id": names[1]}]
    # One ends with SIGTERM as if it were preempted, of the other nothing is heard any more.
    hub.stream(names[1], preempting=True, complete=True, exitcode=143)
    hub.heartbeat(third, names[2])
    assert hub.heartbeat(third) == [{"type": "exit"}]
    assert hub.states() == dict.fromkeys(names, "killed")


def test_a_heartbeat_reads_no_run_again_from_disk(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.heartbeat(hub.create_agent())
    agent = hub.create_agent()
    [command] = hub.heartbeat(agent)
    hub.start_run(command["run_id"])
    read = []
    monkeypatch.setattr(store, "read_json", lambda text: read.append(text) or json.loads(text))
    hub.heartbeat(agent, command["run_id"])
    # Of the run, its place and the agent, which it has written.
    assert len(read) == 3
    # Another process has written: everything is read.
    other = Store(hub.folder / "hub" / "hub.db")
    other.put("run", "tests/other", {"name": "other", "project": "tests"})
    assert hub.api.store.get("run", "tests/other")["name"] == "other"


@pytest.mark.parametrize(
    ("filters", "passes"),
    [
        ({"displayName": {"$regex": "^asr-.*7$"}}, True),
        ({"displayName": {"$regex": "^tiny"}}, False),
        ({"config.seed": {"$regex": "3"}}, False),
        ({"config.seed": {"$in": [3]}}, True),
    ],
)
def test_runs_are_filtered_by_regular_expressions(filters: dict[str, Any], passes: bool) -> None:
    run = {"displayName": "asr-tiny-7", "config": {"seed": {"value": 3}}}
    assert matches(run, filters) == passes


BAYES = """
program: train.py
project: tests
method: bayes
run_cap: 3
metric: {name: loss, goal: minimize}
parameters: {x: {min: 0.0, max: 1.0}}
"""
LOSSES = '{project(name: "tests") {sweeps {edges {node {bestLoss runCount runs {edges {node {summaryMetrics}}}}}}}}'


@pytest.mark.parametrize("loss", ["NaN", "-Infinity"])
def test_a_diverged_trial_is_passed_over(hub: Hub, loss: str) -> None:
    (hub.folder / "sweeps" / "grid.yaml").write_text(BAYES)
    agent = hub.create_agent()
    for value in (loss, "0.5", "0.25"):
        [command] = hub.heartbeat(agent)
        hub.start_run(command["run_id"])
        summary = f'{{"loss": {value}}}'
        hub.stream(command["run_id"], files={"wandb-summary.json": {"content": [summary]}})
        hub.stream(command["run_id"], complete=True, exitcode=0)
    assert hub.heartbeat(hub.create_agent()) == [{"type": "exit"}]
    [edge] = hub.query(LOSSES)["project"]["sweeps"]["edges"]
    assert edge["node"]["bestLoss"] == 0.25 and edge["node"]["runCount"] == 3
    summary = edge["node"]["runs"]["edges"][0]["node"]["summaryMetrics"]
    assert json.loads(summary, parse_constant=pytest.fail) == {"loss": loss}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/storage/../hub.db", 404),
        ("/storage/%2e%2e/hub.db", 403),
        ("/storage/a/%2e%2e/%2e%2e/hub.db", 403),
        ("/storage/%2Fetc%2Fpasswd", 403),
        ("/storage/runs/tests/one/x", 403),
        ("/elsewhere", 404),
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_no_path_leaves_the_storage_folder(hub: Hub, method: str, path: str, status: int) -> None:
    assert hub.client.request(method, path).status_code == status


def test_files_are_written_and_read_at_their_addresses(hub: Hub) -> None:
    address = hub.api.files.address("runs", "tests", "one", "a folder/b.txt")
    assert hub.client.put(address, content=b"content").status_code == 200
    assert hub.client.get(address).content == b"content"
    assert hub.client.get(address[:-1]).status_code == 403
    assert [node["name"] for node in hub.api.files.nodes("tests", "one")] == ["a folder/b.txt"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"\x00",
        b'{"query": "{"}',
        b'{"query": "{nothing}"}',
        b'{"query": "fragment F on X {a}"}',
        b'{"query": "{project(name: 3) {run(name: {a: 1}) {id}}}"}',
        b'{"query": "{project {...Missing}}"}',
        b'{"query": "mutation {createArtifact(input: {}) {artifact {id}}}"}',
        b'{"query": "mutation {upsertSweep(input: {config: \\"a: [\\"}) {sweep {id}}}"}',
    ],
)
def test_a_malformed_request_is_answered_below_500(hub: Hub, body: bytes) -> None:
    assert 400 <= hub.client.post("/graphql", content=body, headers=hub.auth).status_code < 500


def test_a_locked_database_makes_the_client_try_again(hub: Hub) -> None:
    hub.api.store.db.execute("pragma busy_timeout=1")
    other = Store(hub.folder / "hub" / "hub.db")
    with other.transaction():
        assert hub.query("{viewer {id}}")["status"] == 429
    assert hub.query("{viewer {id}}") == {"viewer": {"id": "owner"}}


def test_another_key_is_refused(hub: Hub) -> None:
    query = {"query": "{viewer {id}}"}
    for auth in ({}, {"authorization": "Basic x"}, {"authorization": "Basic YXBpOm5v"}):
        assert hub.client.post("/graphql", json=query, headers=auth).status_code == 401


def modes(folder: Path) -> dict[str, str]:
    """Name of each file and folder -> permissions, in octal."""
    return {path.name: f"{path.stat().st_mode & 0o777:o}" for path in folder.iterdir()}


def test_each_start_has_a_key_of_its_own_unless_the_hub_was_killed(tmp_path: Path) -> None:
    with hub_key(tmp_path / "hub") as first:
        assert modes(tmp_path) == {"hub": "700"} and modes(tmp_path / "hub") == {"key": "600"}
    with hub_key(tmp_path / "hub") as second:
        assert second != first and min(len(first), len(second)) >= 40
    write_private(tmp_path / "hub" / "key", first)
    with hub_key(tmp_path / "hub") as after_kill:
        assert after_kill == first
    assert modes(tmp_path / "hub") == {}


def test_others_cannot_enter_the_folder_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir(mode=0o777)
    Hub(tmp_path)
    assert modes(tmp_path)["hub"] == "700"


def test_a_transaction_is_stored_whole_or_not_at_all(tmp_path: Path) -> None:
    records = Store(tmp_path / "hub.db")
    with pytest.raises(RuntimeError), records.transaction():
        records.put("run", "a", {"x": 1})
        raise RuntimeError
    assert records.get("run", "a") is None
    with records.transaction():
        records.put("run", "b", {"x": 2}, "sweep")
    assert Store(tmp_path / "hub.db").all("run") == [{"x": 2}] == records.all("run", "sweep")


def drawn(entry: dict[str, Any]) -> dict[str, Any]:
    """A change of a sweep to one whose parameter is drawn."""
    return {"method": "random", "parameters": {"a": entry}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "gird"}, "method='gird'"),
        ({"parameters": {}}, "parameters"),
        ({"parameters": {"a": {"parameters": {}}}}, "or a section `parameters`"),
        ({"parameters": {"a": {"parameters": {"b": 1}}}}, "parameters.a.b=1"),
        ({"parameters": {"a": {"min": 0.5, "max": 1}}}, "a grid needs values"),
        ({"method": "random", "parameters": {"a": {"min": 1, "max": 0}}}, "min <= max"),
        (
            {"method": "random", "parameters": {"a": {"min": 0, "max": 1, "distribution": "beta"}}},
            "'beta'",
        ),
        ({"method": "bayes", "metric": None}, "metric.name"),
        ({"run_cap": 0}, "run_cap=0"),
        ({"run_cap": True}, "run_cap=True"),
        ({"early_terminate": {"type": "hyperband"}}, "early_terminate=.*BACKEND=cloud"),
        ({"image_uri": "x"}, "image_uri: the local hub has no such key"),
        ({"metric": {"name": "m", "goal": "minimise"}}, "metric.goal='minimise': need one of min"),
        ({"metric": {"name": "m", "target": 0.1}}, "metric.target=0.1"),
        ({"metric": "test/wer"}, "metric='test/wer'"),
        ({"parameters": {"a": {"values": 3}}}, "parameters.a.values=3"),
        ({"parameters": {"a": {"values": []}}}, r"parameters.a.values=\[\]"),
        ({"parameters": {"a": {"values": [1], "min": 0}}}, "has listed values and min"),
        (
            {"parameters": {"a": {"values": [1], "probabilities": [0.5]}}},
            "parameters.a.probabilities=.*sum is 0.5",
        ),
        ({"parameters": {"a": {"values": [1], "distribution": "normal"}}}, "'normal'"),
        ({"parameters": {"a": {"values": [math.nan]}}}, "nan is no text"),
        ({"parameters": {"a": {"values": [math.inf]}}}, "inf is no text"),
        ({"parameters": {"a": {"values": [date(2026, 1, 2)]}}}, "put it in quotes"),
        (drawn({"min": "1e-4", "max": 1}), "parameters.a.min='1e-4': is text"),
        (drawn({"min": 0, "max": math.inf}), "parameters.a.max=inf"),
        (drawn({"min": False, "max": 1}), "parameters.a.min=False"),
        (drawn({"max": 1}), "parameters.a.min=None"),
        (drawn({"mu": 0, "sigma": 0, "distribution": "normal"}), "parameters.a.sigma=0"),
        (drawn({"mu": 0, "min": 0, "distribution": "normal"}), "mu and sigma, and min"),
        (drawn({"values": [1, 2], "probabilities": [1]}), "a list of one number"),
        (drawn({"min": 1, "max": 1000, "distribution": "log_uniform"}), "log_uniform_values"),
        (drawn({"min": 1, "max": 9, "distribution": "q_int_uniform"}), "'q_int_uniform'"),
        (drawn({"min": 0.5, "max": 2, "distribution": "int_uniform"}), "need whole numbers"),
        (drawn({"min": 0, "max": 1, "q": 0.1}), "such as distribution=q_uniform"),
        (drawn({"min": 0, "max": 1, "distribution": "q_uniform", "q": "a"}), "q='a'"),
    ],
)
def test_a_sweep_that_cannot_be_searched_is_refused(change: dict[str, Any], message: str) -> None:
    sweep = {"method": "grid", "metric": {"name": "m"}, "parameters": {"a": {"values": [1]}}}
    check(sweep)
    with pytest.raises(ValueError, match=message):
        check({**sweep, **change})


def test_trials_of_equal_numbers_are_told_apart() -> None:
    sweep = {"method": "grid", "parameters": {"a": {"values": [1, True, 1.0, "1"]}}}
    check({**sweep, "early_terminate": None})
    trials: list[Trial] = []
    while (parameters := suggest(sweep, trials)) is not None:
        trials.append(Trial(parameters, None, is_running=False))
    values = [repr(trial.parameters["a"]) for trial in trials]
    assert values == ["1", "True", "1.0", "'1'"]


ODD = {
    "sigma_in_tail": ({"distribution": "normal", "mu": 5, "sigma": 0.1}, 4, 6),
    "positive": ({"distribution": "log_normal"}, 1e-3, 1e3),
    "exponent": ({"distribution": "log_uniform", "min": -7.0, "max": 0.0}, math.exp(-7), 1),
    "inverse": ({"distribution": "inv_log_uniform", "min": 0.0, "max": 2.0}, math.exp(-2), 1),
    "inverse_values": ({"distribution": "inv_log_uniform_values", "min": 1, "max": 9}, 1, 9),
    "rounded": ({"distribution": "q_log_uniform_values", "min": 1, "max": 99, "q": 8}, 0, 104),
    "rounded_normal": ({"distribution": "q_normal", "mu": 64, "sigma": 32, "q": 16}, -99, 256),
}


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_the_distributions_of_wandb_are_drawn_and_learnt_from(method: str) -> None:
    sweep = {
        "method": method,
        "metric": {"name": "m", "goal": "minimize"},
        "parameters": {
            "section": {"parameters": {name: entry for name, (entry, *_) in ODD.items()}},
            "often": {"values": ["a", "b", "c"], "probabilities": [0.75, 0, 0.25]},
        },
    }
    check(sweep)
    trials: list[Trial] = []
    for number in range(30):
        parameters = suggest(sweep, trials, "hub-1")
        trials.append(Trial(parameters, float(number % 7), is_running=number == 20))
    for name, (_, low, high) in ODD.items():
        values = [trial.parameters[f"section.{name}"] for trial in trials]
        assert low <= min(values) < max(values) <= high, name
    assert {trial.parameters["section.rounded"] % 8 for trial in trials} == {0}
    choices = Counter(trial.parameters["often"] for trial in trials)
    assert choices["a"] > choices["c"] > choices["b"] == 0


@pytest.mark.parametrize("entry", [entry for entry, *_ in ODD.values()])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_number_of_a_value_gives_the_value(entry: dict[str, Any], share: float) -> None:
    low, high = distributions.bounds_of(entry)
    value = distributions.value_of(entry, low + share * (high - low))
    number = distributions.number_of_value(entry, value)
    assert low <= number <= high
    if value > 0:
        assert distributions.value_of(entry, number) == pytest.approx(value)


NESTED = """
program: train.py
project: tests
method: grid
parameters:
  optim: {parameters: {lr: {values: [0.5]}, adam: {parameters: {beta: {value: 1}}}}}
  n: {min: 2, max: 3}
"""


def test_nested_parameters_reach_the_program_as_on_the_cloud(hub: Hub) -> None:
    (hub.folder / "sweeps" / "grid.yaml").write_text(NESTED)
    agent = hub.create_agent()
    seen = []
    for _ in range(2):
        [command] = hub.heartbeat(agent)
        seen.append(command["args"])
    optim = {"value": {"lr": 0.5, "adam": {"beta": 1}}}
    assert seen == [{"optim": optim, "n": {"value": n}} for n in (2, 3)]


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_trials_are_drawn_from_their_ranges_and_equal_after_a_restart(method: str) -> None:
    ranges = {
        "lr": {"min": 1e-4, "max": 1e-1, "distribution": "log_uniform_values"},
        "n": {"min": 1, "max": 3},
    }
    sweep = {
        "method": method,
        "run_cap": 12,
        "metric": {"name": "m", "goal": "minimize"},
        "parameters": {**ranges, "c": {"values": [[1], "a", None]}},
    }
    trials: list[Trial] = []
    while (parameters := suggest(sweep, trials)) is not None:
        assert parameters == suggest(sweep, trials)
        value = None if len(trials) == 3 else parameters["lr"]
        trials.append(Trial(parameters, value, is_running=len(trials) == 5))
    drawn = [trial.parameters for trial in trials]
    assert len(drawn) == 12
    assert suggest(sweep, [], "hub-1") != suggest(sweep, [], "hub-2")
    assert all(1e-4 <= parameters["lr"] <= 0.1 for parameters in drawn)
    assert all(parameters["n"] in (1, 2, 3) for parameters in drawn)
    assert {str(parameters["c"]) for parameters in drawn} <= {"[1]", "a", "None"}
    assert len({parameters["lr"] for parameters in drawn}) > 10
