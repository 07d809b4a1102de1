"""Assignment of trials to agents.

Every five seconds an agent reports what it runs and is told what to do. A run whose client reports
no end is handed out again with the same id: at once where its agent has seen the process end, after
a timeout where the agent is silent too. Preempted runs come back as often as they are preempted.
"""

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sweeps.hub.answer import Refused
from sweeps.hub.runs import ACTIVE, Runs, key_of
from sweeps.hub.search import nested_values, suggest
from sweeps.hub.store import Record, Store
from sweeps.hub.sweep_store import ENDED, SweepStore, parse_sweep

MAX_FAILURES = 3
"""Times that a run may vanish before it counts as crashed."""

Command = dict[str, Any]
"""Instruction to an agent, in W&B's format."""


class Agents:
    """Agents of all sweeps.

    Args:
        store: records on disk.
        runs: runs of all sweeps.
        sweeps: all sweeps.
        heartbeat_timeout_s: seconds of silence after which a run is taken to be dead.
    """

    def __init__(self, store: Store, runs: Runs, sweeps: SweepStore, heartbeat_timeout_s: float):
        self.store = store
        self.runs = runs
        self.sweeps = sweeps
        self.heartbeat_timeout_s = heartbeat_timeout_s

    def create(self, variables: Mapping[str, Any]) -> Record:
        """Register an agent of a sweep.

        Raises:
            Refused: there is no such sweep.
        """
        sweep = self.sweeps.find(variables.get("projectName"), variables.get("sweep") or "")
        if sweep is None:
            raise Refused(f"no sweep {variables.get('sweep')}", 404)
        self.sweeps.begin(sweep)
        id_ = secrets.token_hex(8)
        agent: Record = {
            "id": id_,
            "name": id_,
            "host": variables.get("host"),
            "sweep": key_of(sweep),
            "runs": [],
        }
        return self.store.put("agent", id_, agent, agent["sweep"])

    def heartbeat(self, variables: Mapping[str, Any]) -> tuple[Record, list[Command]]:
        """Take an agent's report and tell it what to do.

        Args:
            variables: id of the agent, and the names of the runs whose processes are alive.

        Returns:
            The agent, and commands for it.

        Raises:
            Refused: there is no such agent.
        """
        agent, sweep = self._find(variables.get("id") or "")
        alive = list(json.loads(variables.get("runState") or "{}"))
        commands = self._update_runs(agent, sweep, alive)
        agent["runs"] = alive
        # Before an assignment, so that this agent may take over one of them.
        self._release_silent_runs(sweep)
        if not alive:
            commands += self._assign(agent, sweep)
        return self.store.put("agent", agent["id"], agent), commands

    def _find(self, id_: str) -> tuple[Record, Record]:
        """An agent and its sweep."""
        agent = self.store.get("agent", id_)
        if agent is not None:
            sweep = self.store.get("sweep", agent["sweep"])
            if sweep is not None:
                return agent, sweep
        raise Refused("agent or sweep not found", 404)

    def _update_runs(self, agent: Record, sweep: Record, alive: Sequence[str]) -> list[Command]:
        """Refresh the heartbeat of runs that are alive, and release those that are not any more.

        Returns:
            Commands that stop runs.
        """
        runs = {run["name"]: run for run in self.runs.of_sweep(key_of(sweep))}
        for name in set(agent["runs"]) - set(alive):
            run = runs.get(name)
            # A run that was silent for long may belong to another agent by now.
            if run is None or run["agent"] != agent["id"]:
                continue
            if run["state"] == "pending":
                # Its process has ended before it reached the hub.
                self.runs.save({**run, "state": "failed"})
            elif run["state"] == "running":
                # Its process has ended without a report.
                self._release(run)

        commands = []
        for name in alive:
            if name not in runs:
                continue
            run = runs[name]
            self.runs.save({**run, "beat": time.time()})
            if run["stop"]:
                commands.append({"type": "stop", "run_id": name})
        return commands

    def _release_silent_runs(self, sweep: Record) -> None:
        for run in self.runs.of_sweep(key_of(sweep)):
            silence_s = time.time() - run["beat"]
            if run["state"] in ACTIVE and silence_s > self.heartbeat_timeout_s:
                self._release(run)

    def _release(self, run: Record) -> None:
        """Let a run be handed out again, unless it has vanished too often."""
        failures = run["failures"]
        # A preemption is no fault of the run.
        if not run["preempting"]:
            failures += 1
        state = "crashed" if failures >= MAX_FAILURES else "preempted"
        if run["stop"]:
            state = "killed"
        self.runs.save({**run, "state": state, "failures": failures, "preempting": False})

    def _assign(self, agent: Record, sweep: Record) -> list[Command]:
        """Give a run to an agent that has none.

        Returns:
            The run; nothing while the runs of other agents may yet fail; or the exit.
        """
        if sweep["state"] != "RUNNING":
            return [{"type": "exit"}] if sweep["state"] in ENDED else []
        runs = self.runs.of_sweep(key_of(sweep))
        preempted = [run for run in runs if run["state"] == "preempted"]
        run = preempted[0] if preempted else self._new_run(sweep, runs)
        if run is None:
            # The agent asks again, and takes over a run of another agent that vanishes.
            if any(other["state"] in ACTIVE for other in runs):
                return []
            self.sweeps.save({**sweep, "state": "FINISHED"})
            return [{"type": "exit"}]

        assignment = {
            "state": "pending",
            "agent": agent["id"],
            "beat": time.time(),
            "exitcode": None,
        }
        self.runs.save({**run, **assignment})
        agent["runs"] = [run["name"]]
        config = parse_sweep(sweep["config"])
        values = nested_values(run["args"], config["parameters"])
        command = {
            "type": "resume" if preempted else "run",
            "run_id": run["name"],
            "program": config.get("program"),
            "args": {name: {"value": value} for name, value in values.items()},
        }
        return [command]

    def _new_run(self, sweep: Record, runs: Sequence[Record]) -> Record | None:
        """A run with the next parameters of the search; None: there are no more."""
        config = parse_sweep(sweep["config"])
        parameters = suggest(config, self.sweeps.trials(sweep, runs), sweep["name"])
        if parameters is None:
            return None
        name = secrets.token_hex(4)
        return self.runs.new(
            sweep["project"], name, key_of(sweep), args=parameters, state="pending"
        )
