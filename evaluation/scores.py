"""Registry of the scores of evaluate.py.

A new score is a module with a function from parsed arguments to a flat dict of numbers, and an
entry here. Help, options, the rows of the scorecard and the validity of saved scores derive from
the entry.
"""

from configs.recipes import DIALOGUE_STAGES
from evaluation.record import Score, TableRow
from evaluation.voicebench import on_scorecard
from evaluation.voicebench.options import OPTIONS

ANSWERING_STAGES = ("asr", "instruct", *DIALOGUE_STAGES)
"""Stages whose runs can answer a spoken question."""

WER = Score(
    "wer",
    "word and character error rate on test speech",
    function="evaluation.wer:score",
    examples=(
        ("wer runs/latest", "on the test speech of its own configuration"),
        ("wer runs/latest data.path=my/speech", "on the test split of a folder or manifest"),
    ),
    stages=("encoder", *ANSWERING_STAGES),
    rows=(
        TableRow("Word error rate", "test/wer", "word error rate", -1, headline="word error rate"),
        TableRow("Word error rate", "test/cer", "character error rate", -1),
    ),
)

VOICEBENCH = Score(
    "voicebench",
    "answers to the spoken questions of VoiceBench",
    function="evaluation.voicebench.command:score",
    examples=(
        ("voicebench runs/latest --limit 10", "its answers to VoiceBench's questions"),
        ("voicebench --responses FILE --subset bbh", "responses of another system"),
    ),
    stages=ANSWERING_STAGES,
    options=OPTIONS,
    run_is_optional=True,
    environment={"judge": "JUDGE_MODEL"},
    section=on_scorecard.section,
    headline=on_scorecard.headline,
    gaps=on_scorecard.gaps,
)

CONVERSATION = "Conversation"
SPEED_SECTION = "Speed"
SIZE_SECTION = "State and size"

# Speed and state size of live sessions follow the same numbers of the bare model: rank 1.
DUPLEX = Score(
    "duplex",
    "turn-taking and answers in live sessions on test dialogues",
    function="evaluation.duplex.live_dialogues:score",
    examples=(("duplex runs/latest", "live sessions on test dialogues"),),
    stages=DIALOGUE_STAGES,
    rows=(
        TableRow(CONVERSATION, "state/accuracy", "state of each slice: accuracy", 1),
        TableRow(CONVERSATION, "state/macro_f1", "state of each slice: macro F1", 1),
        TableRow(
            CONVERSATION,
            "turn/takeover_rate",
            "questions answered",
            1,
            headline="of the questions answered",
        ),
        TableRow(
            CONVERSATION,
            "turn/latency_s",
            "how soon after their end",
            -1,
            headline="after their end",
        ),
        TableRow(
            CONVERSATION,
            "answer/exact_match",
            "answers word for word right",
            1,
            headline="of the answers right",
        ),
        TableRow(CONVERSATION, "interruption/takeover_rate", "interruptions that take over", 1),
        TableRow(CONVERSATION, "interruption/stop_s", "how long it talks on over one", -1),
        TableRow(
            CONVERSATION, "pause/false_takeover_rate", "answers in the pause of a question", -1
        ),
        TableRow(
            CONVERSATION,
            "ignore/false_takeover_rate/talking_to_other",
            "answers to asides",
            -1,
        ),
        TableRow(
            CONVERSATION,
            "ignore/false_takeover_rate/background_speech",
            "answers to background voices",
            -1,
        ),
        TableRow(
            CONVERSATION,
            "ignore/false_takeover_rate/backchannel",
            "answers to back-channels",
            -1,
        ),
        TableRow(CONVERSATION, "ignore/false_takeover_rate/noise", "answers to noise", -1),
        TableRow(
            CONVERSATION,
            "silence/false_takeover_per_hour",
            "answers to nothing, in an hour of silence",
            -1,
        ),
        TableRow(
            CONVERSATION,
            "answer/resumed_after_ignore",
            "answers that go on as if a sound had not been heard",
            1,
        ),
        TableRow(SPEED_SECTION, "slice/median_ms", "a slice of a live session, median", -1, rank=1),
        TableRow(SPEED_SECTION, "slice/p99_ms", "the same, 99th percentile", -1, rank=1),
        TableRow(
            SPEED_SECTION,
            "slice/real_time_factor",
            "live session, share of real time",
            -1,
            rank=1,
        ),
        TableRow(
            SIZE_SECTION,
            "memory/lm_bytes",
            "live session: one branch of the language model",
            -1,
            rank=1,
        ),
        TableRow(SIZE_SECTION, "memory/all_bytes", "live session: everything", -1, rank=1),
    ),
)

SPEED = Score(
    "speed",
    "speed of encoding and answering, size of the streaming state",
    function="evaluation.speed:score",
    examples=(("speed runs/latest", "time per slice and token, size of the state"),),
    stages=("encoder", "lm", *ANSWERING_STAGES),
    rows=(
        TableRow(SPEED_SECTION, "slice/median_ms", "hearing a slice, median", -1),
        TableRow(
            SPEED_SECTION,
            "slice/real_time_factor",
            "hearing slice by slice, share of real time",
            -1,
            headline="of real time to hear",
        ),
        TableRow(
            SPEED_SECTION,
            "whole/real_time_factor",
            "hearing 10 s at once, share of real time",
            -1,
        ),
        TableRow(SPEED_SECTION, "token/median_ms", "saying a token", -1),
        TableRow(SIZE_SECTION, "state/lm_bytes", "memory of the language model, after 20 s", -1),
        TableRow(
            SIZE_SECTION,
            "state/all_bytes",
            "memory of everything, after 20 s",
            -1,
            headline="of memory",
        ),
        TableRow(SIZE_SECTION, "state/growth_bytes_per_s", "its growth in a second", -1),
        # After the rows of live sessions, which have rank 1.
        TableRow(SIZE_SECTION, "size/all_parameters", "parameters", rank=2),
    ),
)

FULL_DUPLEX_BENCH = Score(
    "full-duplex-bench",
    "Full-Duplex-Bench, text-emission variant, on your copy of its data",
    function="evaluation.duplex.turn_benchmarks:score_full_duplex_bench",
    examples=(("full-duplex-bench runs/latest FOLDER", "a folder of its items"),),
    stages=DIALOGUE_STAGES,
    show_all_as="Full-Duplex-Bench, text-emission variant",
    needs_folder=True,
)

TURNBENCH = Score(
    "turnbench",
    "TurnBench on your copy of its data, with a file to submit",
    function="evaluation.duplex.turn_benchmarks:score_turnbench",
    examples=(("turnbench runs/latest FOLDER", "two-channel conversations"),),
    stages=DIALOGUE_STAGES,
    show_all_as="TurnBench",
    needs_folder=True,
)

SCORES = {
    score.name: score for score in (WER, VOICEBENCH, DUPLEX, SPEED, FULL_DUPLEX_BENCH, TURNBENCH)
}
"""Every score by its name, in the order of the scorecard."""
