"""Which agent trains which point: every five seconds an agent says what it runs and is told what to do.

A run whose client reports no end is handed out again, with the same id: at once where its agent has seen the process
go, after the lease where the agent has fallen silent too. Preempted runs come back as often as they are preempted.
"""

import json
import secrets
import time
from typing import Any

from sweeps.hub.answer import Refused
from sweeps.hub.runs import ACTIVE, Runs, key_of
from sweeps.hub.search import suggest
from sweeps.hub.store import Record, Store
from sweeps.hub.sweep_store import ENDED, Board, parsed

MAX_FAILURES = 3
"""Times that a run may vanish before it counts as crashed."""


class Agents:
    """lease_s: seconds of silence after which a run is taken to be dead."""

    def __init__(self, store: Store, runs: Runs, board: Board, lease_s: float):
        self.store, self.runs, self.board, self.lease_s = store, runs, board, lease_s

    def create(self, given: dict[str, Any]) -> Record:
        """An agent of a sweep. Raises Refused: no such sweep."""
        sweep = self.board.find(given.get("projectName"), given.get("sweep") or "")
        if sweep is None:
            raise Refused(f"no sweep {given.get('sweep')}", 404)
        self.board.begin(sweep)
        id_ = secrets.token_hex(8)
        agent: Record = {
            "id": id_,
            "name": id_,
            "host": given.get("host"),
            "sweep": key_of(sweep),
            "runs": [],
        }
        return self.store.put("agent", id_, agent, agent["sweep"])

    def heartbeat(self, given: dict[str, Any]) -> tuple[Record, list[dict[str, Any]]]:
        """What an agent is to do, as W&B's commands. Raises Refused: no such agent."""
        agent = self.store.get("agent", given.get("id") or "")
        sweep = agent and self.store.get("sweep", agent["sweep"])
        if not agent or not sweep:
            raise Refused("agent or sweep not found", 404)
        alive = list(json.loads(given.get("runState") or "{}"))
        commands = self._note(agent, sweep, alive)
        agent["runs"] = alive
        self._reap(sweep)
        if not alive:
            commands += self._next(agent, sweep)
        return self.store.put("agent", agent["id"], agent), commands

    def _note(self, agent: Record, sweep: Record, alive: list[str]) -> list[dict[str, Any]]:
        """Vouch for what is alive; what is not any more must have reported its end."""
        runs = {run["name"]: run for run in self.runs.of_sweep(key_of(sweep))}
        for name in set(agent["runs"]) - set(alive):
            run = runs.get(name)
            if run and run["state"] == "pending" and run["agent"] == agent["id"]:
                self.runs.save({**run, "state": "failed"})  # it has ended before it reached the hub
            elif run and run["state"] == "running" and run["agent"] == agent["id"]:
                self._lost(run)
        known = [runs[name] for name in alive if name in runs]
        for run in known:
            self.runs.save({**run, "beat": time.time()})
        stopped = [run["name"] for run in known if run["stop"] or sweep["state"] == "CANCELED"]
        return [{"type": "stop", "run_id": name} for name in stopped]

    def _reap(self, sweep: Record) -> None:
        for run in self.runs.of_sweep(key_of(sweep)):
            if run["state"] in ACTIVE and time.time() - run["beat"] > self.lease_s:
                self._lost(run)

    def _lost(self, run: Record) -> None:
        failures = run["failures"] + (not run["preempting"])
        state = "crashed" if failures >= MAX_FAILURES else "preempted"
        self.runs.save({**run, "state": state, "failures": failures, "preempting": False})

    def _next(self, agent: Record, sweep: Record) -> list[dict[str, Any]]:
        """A run for an agent that has none; nothing while others may yet fail; the exit."""
        if sweep["state"] != "RUNNING":
            return [{"type": "exit"}] if sweep["state"] in ENDED else []
        runs = self.runs.of_sweep(key_of(sweep))
        again = next((run for run in runs if run["state"] == "preempted"), None)
        run = again or self._new(sweep, runs)
        if run is None:
            if any(other["state"] in ACTIVE for other in runs):
                return []
            self.board.save({**sweep, "state": "FINISHED"})
            return [{"type": "exit"}]
        self.runs.save(
            {**run, "state": "pending", "agent": agent["id"], "beat": time.time(), "exitcode": None}
        )
        agent["runs"] = [run["name"]]
        args = {name: {"value": value} for name, value in run["args"].items()}
        program = parsed(sweep["config"]).get("program")
        return [
            {
                "type": "resume" if again else "run",
                "run_id": run["name"],
                "program": program,
                "args": args,
            }
        ]

    def _new(self, sweep: Record, runs: list[Record]) -> Record | None:
        point = suggest(parsed(sweep["config"]), self.board.trials(sweep, runs))
        if point is None:
            return None
        return self.runs.new(
            sweep["project"], secrets.token_hex(4), key_of(sweep), args=point, state="pending"
        )
