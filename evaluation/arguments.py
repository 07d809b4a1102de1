"""Command line of evaluate.py, derived from the registry of scores."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from evaluation.record import Command, Option, Score
from evaluation.scores import SCORES
from lightning_modules.trainer.checkpoint import run_path

SCORECARD = Command(
    "scorecard",
    "evaluation.scorecard.command:make",
    "all scores of one run, or of several side by side, on one page",
)
SCORECARD_EXAMPLES = (("scorecard runs/one,runs/other", "all of that on one page"),)
Examples = Sequence[tuple[str, str]]
"""Arguments and their explanation."""
COMMANDS: dict[str, Command] = {**SCORES, SCORECARD.name: SCORECARD}
"""Every subcommand by its name."""

OUTPUT_FILES = """\
Writes <run>/scores/<score>.json, flat (also into the file that --json names),
<score>.settings.json, and the data behind the scores: a line per utterance or dialogue;
duplex_curve.json and duplex.png; duplex_systems.json and .png; turnbench/; eot_bench/; voicebench/.
Full-Duplex-Bench items get their output.json. The environment names the judge of VoiceBench,
Full-Duplex-Bench and HumDial: JUDGE_URL, JUDGE_MODEL, JUDGE_KEY.
"""


def compute(args: argparse.Namespace) -> dict[str, float | None]:
    """Compute the scores of parsed arguments; None for a score that cannot be computed.

    Raises:
        ValueError: an argument is wrong; the message names it and the remedy.
        ImportError: an optional library is missing.
    """
    return COMMANDS[args.score].run(args)


def parser(description: str | None = None, prog: str | None = None) -> argparse.ArgumentParser:
    """Build the parser of all subcommands.

    Args:
        description: text of --help; None derives it from the registry.
        prog: name of the program in usage lines; None takes the name of the script.
    """
    program = prog or "python evaluate.py"
    # Derived from the registry, so that a new score cannot be missing from --help.
    if description is None:
        examples: list[tuple[str, str]] = []
        for score in SCORES.values():
            examples += examples_of(score)
        examples += SCORECARD_EXAMPLES
        description = (
            f"Score a finished run.\n\n{_format_examples(examples, program)}\n\n{OUTPUT_FILES}"
        )
    whole = argparse.ArgumentParser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = whole.add_subparsers(dest="score", required=True, metavar="score")
    for score in SCORES.values():
        _add_score(_add_command(subparsers, score, examples_of(score), program), score)
    _add_scorecard(_add_command(subparsers, SCORECARD, SCORECARD_EXAMPLES, program))
    return whole


def examples_of(score: Score) -> Examples:
    """The examples of a score, or the plain command if the registry has none."""
    return score.examples or ((f"{score.name} runs/latest", score.description),)


def _add_command(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
    command: Command,
    examples: Examples,
    program: str,
) -> argparse.ArgumentParser:
    """A subparser whose help has the description and the examples of the command."""
    return subparsers.add_parser(
        command.name,
        help=command.description,
        description=command.description,
        epilog=f"examples:\n{_format_examples(examples, program)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _format_examples(examples: Examples, program: str) -> str:
    """One line for each example, with the explanations in a column."""
    commands = [f"{program} {arguments}" for arguments, _ in examples]
    width = max(len(command) for command in commands)
    lines = []
    for command, (_, explanation) in zip(commands, examples, strict=True):
        lines.append(f"  {command:{width}}  # {explanation}")
    return "\n".join(lines)


def _add_score(parser: argparse.ArgumentParser, score: Score) -> None:
    parser.add_argument(
        "run",
        type=run_path,
        nargs="?" if score.run_is_optional else None,
        help="folder of a finished run; demo is the published model in models/demo",
    )
    if score.has_own_data:
        parser.add_argument("folder", type=Path, help="folder of the benchmark's data")
    _add_common(parser)
    for option in score.options:
        option.add_to(parser)


def _add_scorecard(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", help="folders of finished runs, separated by commas")
    # The scorecard saves its files itself; `main` saves scores only in the folder of a single run.
    parser.set_defaults(run=None)
    _add_common(parser)
    for option in scorecard_options():
        option.add_to(parser)
    parser.add_argument(
        "--as-is", action="store_true", help="compute nothing, show the scores that are saved"
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    """Arguments of every subcommand."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for train.py")
    parser.add_argument("--json", type=Path, help="file for the scores")


def scorecard_options() -> list[Option]:
    """Options of all scores that the scorecard passes on."""
    options = [option for score in SCORES.values() for option in score.options]
    return [option for option in options if option.on_scorecard]
