"""Full-Duplex-Bench and TurnBench, with the user's own copy of their data."""

import argparse
import functools
import json

from evaluation.commands.finished_run import open_run, read_whole
from evaluation.duplex import full_duplex_bench, turnbench
from evaluation.duplex.report import report_bench
from lightning_modules.sessions import open_sessions


def score_full_duplex_bench(asked: argparse.Namespace) -> dict[str, float]:
    """Text-emission variant; writes every item's output.json."""
    run = open_run(asked.run, asked.overrides)
    read = functools.partial(read_whole, config=run.config)
    found = full_duplex_bench.run(
        asked.folder.resolve(), open_sessions(*run), lambda f, c: read(f, channel=c)
    )
    return report_bench(
        full_duplex_bench.scores(found), run.titled("Full-Duplex-Bench, text-emission variant")
    )


def score_turnbench(asked: argparse.Namespace) -> dict[str, float]:
    """Writes turnbench_submission.json; scores the conversations that have gold times."""
    run = open_run(asked.run, asked.overrides)
    read = functools.partial(read_whole, config=run.config)
    found, gold = turnbench.run(
        asked.folder.resolve(), open_sessions(*run), lambda f, c: read(f, channel=c)
    )
    file = run.folder / "scores" / "turnbench_submission.json"
    file.write_text(json.dumps(turnbench.submission(found), indent=1) + "\n")
    of = f"TurnBench, {len(gold)} of {len(found)} conversations with gold times; submission: {file}"
    return report_bench(turnbench.scores(found, gold), run.titled(of))
