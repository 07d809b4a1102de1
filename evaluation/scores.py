"""Registry of the scores that `evaluate.py` computes.

A score is a function that takes the parsed command line and returns numbers by name, and an entry
here: how its command looks, the runs that it can score, and its rows on the scorecard. The command
line, its help, saved scores and the scorecard derive from the registry.
"""

from configs.recipes import DIALOGUE_STAGES
from evaluation.duplex import published
from evaluation.duplex.systems import BASELINES, setting_key
from evaluation.record import Option, Row, Score
from evaluation.voicebench import on_scorecard
from evaluation.voicebench.options import OPTIONS

SPEECH_LM_STAGES = ("asr", "instruct", *DIALOGUE_STAGES)
"""Stages whose model takes speech and emits text."""

BASELINE = Option(
    "--baseline",
    f"beside the model: {', '.join(BASELINES)} (divided by commas), or all that are installed",
    default="",
    on_scorecard=False,
    # It adds scores and changes none.
    affects_scores=False,
)
SPEAK = Option(
    "--speak",
    "yes: also write output.wav, each response spoken from its first emission on",
    default="",
    choices=("", "yes"),
    on_scorecard=False,
)


def systems_rows() -> list[Row]:
    """Rows of the model and of every setting of every baseline."""
    settings = [("model", "")]
    for baseline in BASELINES.values():
        settings += [(baseline.name, setting) for setting in baseline.operating_points]
    rows = []
    for system, setting in settings:
        key = setting_key(system, setting)
        label = f"{system} {setting}".strip()
        rows += [
            Row(f"{key}/false_takeover_rate", f"{label}: false take-overs in pauses", "share", -1),
            Row(f"{key}/latency_s", f"{label}: latency", "s", -1),
        ]
    return rows


WER = Score(
    "wer",
    "evaluation.wer:score",
    "word and character error rate",
    stages=("encoder", *SPEECH_LM_STAGES),
    examples=(
        ("wer runs/latest", "on the test speech of its own configuration"),
        ("wer runs/latest data.path=my/speech", "on the test split of a folder or manifest"),
        ("wer runs/latest data.test_people=my/speech", "on that beside its own test speech"),
    ),
    sections={
        "Word error rate": [
            Row("test/wer", "word error rate", "share", -1, headline="word error rate"),
            Row("test/cer", "character error rate", "share", -1),
            Row("test/num_utterances", "utterances scored", "number", rank=1),
            Row("test/num_left_out", "utterances left out", "number", rank=1),
            Row("test/wer_voices", "word error rate, unseen synthesisers", "share", -1),
            Row("test/wer_people", "word error rate, people", "share", -1),
            Row("test/wer_people/words", "word error rate, people, single words", "share", -1),
            Row("test/wer_people/sentences", "word error rate, people, sentences", "share", -1),
        ],
    },
)

VOICEBENCH = Score(
    "voicebench",
    "evaluation.voicebench.command:score",
    "responses to VoiceBench's questions",
    stages=SPEECH_LM_STAGES,
    examples=(
        ("voicebench runs/latest --limit 10", "its responses to the first questions"),
        ("voicebench --responses FILE --subset bbh", "responses of another system"),
    ),
    options=OPTIONS,
    # Responses of another system are scored without a run.
    run_is_optional=True,
    # Ratings of different judges are not comparable, so the judge is one of the saved settings.
    environment={"judge": "JUDGE_MODEL"},
    make_section=on_scorecard.make_section,
    headline=on_scorecard.headline,
    gaps=on_scorecard.gaps,
)

DUPLEX = Score(
    "duplex",
    "evaluation.duplex.live_dialogues:score",
    "live sessions on test dialogues",
    stages=DIALOGUE_STAGES,
    examples=(
        ("duplex runs/latest", "on test dialogues of its own configuration"),
        ("duplex runs/latest --baseline energy,smart-turn", "beside what people use instead"),
    ),
    options=(BASELINE,),
    sections={
        "Conversation": [
            Row("state/accuracy", "state of each slice: accuracy", "share", 1),
            Row("state/macro_f1", "state of each slice: macro F1", "share", 1),
            Row(
                "turn/takeover_rate",
                "questions answered",
                "share",
                1,
                headline="of the questions answered",
            ),
            Row(
                "turn/latency_s",
                "latency of answers after the end of questions",
                "s",
                -1,
                headline="after their end",
            ),
            Row(
                "answer/exact_match",
                "answers that match exactly",
                "share",
                1,
                headline="of the answers right",
            ),
            Row(
                "answer/invented_rate",
                "speech outside the grammar that gets an invented answer",
                "share",
                -1,
            ),
            Row("interruption/takeover_rate", "interruptions answered", "share", 1),
            Row("interruption/stop_s", "time until an interrupted response stops", "s", -1),
            Row("stop/obeyed", "commands to stop that end the response", "share", 1),
            Row(
                "onset/pause_s", "time from the onset of speech to the pause of a response", "s", -1
            ),
            Row("pause/false_takeover_rate", "false responses in pauses of questions", "share", -1),
            Row(
                "ignore/false_takeover_rate/talking_to_other",
                "false responses to speech to somebody else",
                "share",
                -1,
            ),
            Row(
                "ignore/false_takeover_rate/background_speech",
                "false responses to background speech",
                "share",
                -1,
            ),
            Row(
                "ignore/false_takeover_rate/backchannel",
                "false responses to back-channels",
                "share",
                -1,
            ),
            Row("ignore/false_takeover_rate/noise", "false responses to noise", "share", -1),
            Row(
                "silence/false_takeover_per_hour",
                "false responses per hour of silence",
                "number",
                -1,
            ),
            Row(
                "unaddressed/answers_per_hour",
                "answers per hour of talk that is not meant for the model",
                "number",
                -1,
            ),
            Row(
                "answer/resumed_after_ignore",
                "answers that continue unchanged after an ignored sound",
                "share",
                1,
            ),
        ],
        "Turn-taking beside baselines": systems_rows(),
        # Rank 1: below the same quantities of the model by itself, from the score speed.
        "Speed": [
            Row("slice/median_ms", "a slice of a live session, median", "ms", -1, rank=1),
            Row("slice/p99_ms", "a slice of a live session, 99th percentile", "ms", -1, rank=1),
            Row("slice/real_time_factor", "live session, share of real time", "share", -1, rank=1),
        ],
        "State and size": [
            Row(
                "memory/lm_bytes",
                "live session: one branch of the language model",
                "bytes",
                -1,
                rank=1,
            ),
            Row("memory/all_bytes", "live session: everything", "bytes", -1, rank=1),
        ],
    },
)

SPEED = Score(
    "speed",
    "evaluation.speed:score",
    "speed of encoding and answering, size of the state",
    stages=("encoder", "lm", *SPEECH_LM_STAGES),
    sections={
        "Speed": [
            Row("slice/median_ms", "encoding a slice, median", "ms", -1),
            Row(
                "slice/real_time_factor",
                "encoding by slices, share of real time",
                "share",
                -1,
                headline="of real time to encode",
            ),
            Row("whole/real_time_factor", "encoding 10 s at once, share of real time", "share", -1),
            Row("token/median_ms", "decoding a token", "ms", -1),
        ],
        "State and size": [
            Row("state/lm_bytes", "state of the language model, after 20 s", "bytes", -1),
            Row(
                "state/all_bytes",
                "state of everything, after 20 s",
                "bytes",
                -1,
                headline="of memory",
            ),
            Row("state/growth_bytes_per_s", "growth of the state in a second", "bytes", -1),
            # Neither direction is better.
            Row("size/all_parameters", "parameters", "count", rank=2),
        ],
    },
)

FULL_DUPLEX_BENCH = Score(
    "full-duplex-bench",
    "evaluation.duplex.full_duplex_bench.command:score",
    "Full-Duplex-Bench v1 and v1.5, by the times of emitted words or by spoken replies",
    stages=DIALOGUE_STAGES,
    examples=(
        ("full-duplex-bench runs/latest FOLDER", "on a folder of its items"),
        (
            "full-duplex-bench runs/latest FOLDER --speak yes",
            "and writes output.wav for its scripts",
        ),
    ),
    options=(BASELINE, SPEAK),
    environment={"judge": "JUDGE_MODEL"},
    has_own_data=True,
    # The keys contain the groups of the user's data, so no list of rows could be written here.
    section_of_all="Full-Duplex-Bench",
    published=published.FULL_DUPLEX_BENCH,
)

TURNBENCH = Score(
    "turnbench",
    "evaluation.duplex.turnbench.command:score",
    "two-channel conversations of TurnBench: scores on dev, files to submit",
    stages=DIALOGUE_STAGES,
    examples=(
        ("turnbench runs/latest FOLDER", "on its parquet files, dev alone or dev and test"),
        ("turnbench runs/latest FOLDER --baseline all", "beside all baselines that are installed"),
    ),
    options=(BASELINE,),
    has_own_data=True,
    section_of_all="TurnBench",
    published=published.TURNBENCH,
)

EOT_BENCH = Score(
    "eot-bench",
    "evaluation.duplex.eot_bench:score",
    "false cut-offs against latency at ends of recorded turns, eot-bench",
    stages=DIALOGUE_STAGES,
    examples=(("eot-bench runs/latest FOLDER", "on its parquet files, of one language or all"),),
    options=(BASELINE,),
    has_own_data=True,
    section_of_all="eot-bench",
    published=published.EOT_BENCH,
)

EASY_TURN = Score(
    "easy-turn",
    "evaluation.duplex.easy_turn:score",
    "complete, incomplete, back-channel or wait: clips of Easy-Turn",
    stages=DIALOGUE_STAGES,
    examples=(("easy-turn runs/latest FOLDER", "on its lists, or folders named after the states"),),
    options=(BASELINE,),
    has_own_data=True,
    section_of_all="Easy-Turn",
    published=published.EASY_TURN,
)

HUMDIAL = Score(
    "humdial",
    "evaluation.duplex.humdial:score",
    "interruptions and speech to be ignored, HumDial-FDBench",
    stages=DIALOGUE_STAGES,
    examples=(("humdial runs/latest FOLDER", "on one language of its test set"),),
    options=(BASELINE,),
    environment={"judge": "JUDGE_MODEL"},
    has_own_data=True,
    section_of_all="HumDial-FDBench",
    published=published.HUMDIAL,
)

SCORES = {
    score.name: score
    for score in (
        WER,
        VOICEBENCH,
        DUPLEX,
        SPEED,
        FULL_DUPLEX_BENCH,
        TURNBENCH,
        EOT_BENCH,
        EASY_TURN,
        HUMDIAL,
    )
}
"""Every score by its name, in the order of the scorecard."""
