"""Published scores of other systems, shown beside those of runs."""

import dataclasses
from collections.abc import Mapping, Sequence

from evaluation.scorecard.card import Card, Scores, SystemsTable
from evaluation.units import format_score, unit_of

BASELINE_PREFIX = "baseline/"
"""Score keys of a baseline begin with this and its name."""


@dataclasses.dataclass(frozen=True)
class Published:
    """A table of published scores."""

    source: str
    """Where the numbers are from, and on what data."""
    columns: Mapping[str, str]
    """Heading -> score key of the same quantity."""
    rows: Mapping[str, Sequence[float | None]]
    """System -> one value for each column, in the unit of the key; None: not published."""

    def beside(self, cards: Sequence[Card], command: str) -> SystemsTable:
        """A table of the runs, their baselines, and the published systems.

        Args:
            cards: of the runs.
            command: that computes the scores.
        """
        rows: dict[str, list[str]] = {}
        for card in cards:
            if command not in card.saved:
                continue
            scores = card.saved[command].scores
            for name, prefix in _systems(card.name, scores).items():
                values = [scores.get(prefix + key) for key in self.columns.values()]
                rows[name] = self._cells(values)
        for name, published_values in self.rows.items():
            rows[name] = self._cells(published_values)
        return SystemsTable(self.source, list(self.columns), rows)

    def _cells(self, values: Sequence[float | None]) -> list[str]:
        keys = self.columns.values()
        return [format_score(unit_of(key), value) for key, value in zip(keys, values, strict=True)]


def _systems(run: str, scores: Scores) -> dict[str, str]:
    """Name in the table -> prefix of the score keys, for a run and its baselines."""
    systems = {run: ""}
    for key in scores:
        if key.startswith(BASELINE_PREFIX):
            name = key.split("/")[1]
            systems[f"{name}, beside {run}"] = f"{BASELINE_PREFIX}{name}/"
    return systems


TURNBENCH = Published(
    source=(
        "Published systems: test split, TurnBench's leaderboard (arXiv 2608.25218, "
        "results/leaderboard-test.json). Runs and baselines: the conversations with gold, dev."
    ),
    columns={
        "EOT recall": "eot/recall",
        "EOT fp": "eot/fp_rate",
        "EOT p50": "eot/latency_p50_ms",
        "INT recall": "int/recall",
        "INT fp": "int/fp_rate",
        "INT p50": "int/latency_p50_ms",
    },
    rows={
        "openai_server_vad": (0.955, 0.525, 282, 0.990, 0.458, 184),
        "vap": (0.845, 0.055, 368, 0.945, 0.107, 994),
        "espnet_turntaking": (0.826, 0.078, 862, 0.573, 0.080, 210),
        "wavlm_large_anchor": (0.800, 0.054, 1076, 0.868, 0.054, 1412),
        "mimi_endpointer": (0.782, 0.078, 645, 0.899, 0.106, 1007),
        "kyutai_semantic_vad": (0.773, 0.059, 1007, 0.898, 0.081, 559),
        "smart_turn_v3": (0.752, 0.047, 1017, 0.107, 0.093, 159),
        "rms_vad": (0.718, 0.632, -117, 0.996, 0.445, 123),
        "gemini_vad": (0.657, 0.022, 1234, None, None, None),
        "openai_semantic_vad": (0.303, 0.018, 793, 0.484, 0.271, 196),
        "moshi_vad": (0.233, 0.044, 702, None, None, None),
    },
)
EOT_BENCH = Published(
    source="Published systems: English validation split, README of livekit/eot-bench.",
    columns={
        "cut-offs at 300 ms": "en/cutoff_rate_within_300ms",
        "at 600 ms": "en/cutoff_rate_within_600ms",
        "latency at 5 %": "en/latency_at_5_percent_ms",
        "at 10 %": "en/latency_at_10_percent_ms",
    },
    rows={
        "LiveKit v1": (0.099, 0.045, 543, 295),
        "JoinIn Baton": (0.123, 0.048, 577, 350),
        "Deepgram Flux": (0.129, 0.099, 1151, 548),
        "ultraVAD": (0.277, 0.119, 899, 663),
        "SmartTurn v3.2": (0.352, 0.148, 1051, 739),
        "VAP, silent agent": (0.470, 0.146, 1131, 749),
        "AssemblyAI": (0.494, 0.146, 1049, 713),
        "silence only": (0.556, 0.217, 1600, 1000),
    },
)
EASY_TURN = Published(
    source=(
        "Published systems: Mandarin test set of Easy-Turn (arXiv 2509.23938); SoulX-Duplug on the "
        "English one."
    ),
    columns={
        "complete": "complete/accuracy",
        "incomplete": "incomplete/accuracy",
        "backchannel": "backchannel/accuracy",
        "wait": "wait/accuracy",
    },
    rows={
        "Easy Turn": (0.963, 0.977, 0.91, 0.98),
        "Paraformer + TEN": (0.867, 0.893, None, 0.91),
        "Smart Turn V2": (0.787, 0.62, None, None),
        "SoulX-Duplug, English": (0.777, 0.890, None, None),
    },
)
HUMDIAL = Published(
    source="Published systems: HumDial-FDBench's test set (arXiv 2604.21406), judged by deepseek.",
    columns={
        "interruption": "interruption/respond_rate",
        "rejection": "rejection/rate",
        "delay": "delay_s",
        "final": "num_final",
    },
    rows={
        "Cookie_asr": (0.793, 0.722, 1.260, 76.6),
        "baseline": (0.759, 0.352, 2.531, 56.4),
        "Freeze-Omni": (0.296, 0.502, 2.578, 43.8),
        "Moshi": (0.354, 0.228, 2.876, 34.5),
    },
)
FULL_DUPLEX_BENCH = Published(
    source=(
        "Published systems: README of Full-Duplex-Bench v1 (arXiv 2503.04721), from their output "
        "audio. Latency of turn-taking is that after the human partner's reply began."
    ),
    columns={
        "pauses, synthetic": "text_emission/pause_handling/synthetic_pause_handling/takeover_rate",
        "pauses, CANDOR": "text_emission/pause_handling/candor_pause_handling/takeover_rate",
        "back-channels: TOR": "text_emission/backchannel/icc_backchannel/takeover_rate",
        "frequency": "text_emission/backchannel/icc_backchannel/num_frequency",
        "JSD": "text_emission/backchannel/icc_backchannel/num_jsd",
        "turn: TOR": "text_emission/smooth_turn_taking/candor_turn_taking/takeover_rate",
        "latency": "text_emission/smooth_turn_taking/candor_turn_taking/latency_s",
        "interruption: TOR": "text_emission/user_interruption/synthetic_user_interruption/takeover_rate",
        "rating": "text_emission/user_interruption/synthetic_user_interruption/num_rating",
        "latency ": "text_emission/user_interruption/synthetic_user_interruption/latency_s",
    },
    rows={
        "dGSLM": (0.934, 0.935, 0.691, 0.015, 0.934, 0.975, 0.352, 0.917, 0.201, 2.531),
        "Moshi": (0.985, 0.980, 1.0, 0.001, 0.957, 0.941, 0.265, 1.0, 0.765, 0.257),
        "Freeze-Omni": (0.642, 0.481, 0.636, 0.001, 0.997, 0.336, 0.953, 0.867, 3.615, 1.409),
        "PersonaPlex": (0.584, 0.662, 0.327, 0.025, 0.649, 0.992, 0.070, 1.0, 4.21, 0.400),
        "Gemini Live 2.0": (0.255, 0.310, 0.091, 0.012, 0.896, 0.655, 1.301, 0.891, 3.376, 1.183),
        "GPT-Realtime": (0.010, 0.120, 0.0, 0.007, 0.980, 1.0, 1.470, 0.970, 3.85, 1.5),
    },
)
