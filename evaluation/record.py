"""Records that describe a score to the command line and to the scorecard."""

import argparse
import dataclasses
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from configs.recipes import check_names
from evaluation.duplex.published import Published
from evaluation.scorecard.card import Card, Gap, Scores, Section
from evaluation.units import UNITS


class ScoreValue(NamedTuple):
    """A number and the number of cases it was computed from."""

    value: float
    num_cases: int


@dataclasses.dataclass(frozen=True)
class Option:
    """A command-line option of a score."""

    flag: str
    """Begins with two hyphens."""
    help: str
    default: Any = None
    type: Callable[[str], Any] | None = None
    """Converts the text of the command line; None keeps it."""
    choices: tuple[str, ...] | None = None
    on_scorecard: bool = True
    """Whether `evaluate.py scorecard` takes this option too and passes it on."""
    affects_scores: bool = True
    """Whether saved scores become invalid when the option changes."""

    @property
    def name(self) -> str:
        """Name of the attribute that holds the parsed value."""
        return self.flag.removeprefix("--").replace("-", "_")

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Declare the option on a parser."""
        parser.add_argument(
            self.flag,
            # `str` keeps the text; argparse would do the same for None, mypy does not allow it.
            type=self.type or str,
            choices=self.choices,
            default=self.default,
            help=self.help,
        )


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the scorecard.

    Raises:
        ValueError: the unit is unknown.
    """

    key: str
    """Name of the number in the JSON file, such as `test/wer`."""
    label: str
    """First column of the table."""
    unit: str
    """How the number is shown, one of `evaluation.units.UNITS`: share (in percent), number, count,
    s, ms, bytes, GiB."""
    better: int = 0
    """-1: lower is better, 1: higher is better, 0: neither."""
    rank: int = 0
    """Rows of a section are sorted by rank first, then in the order of the registry."""
    headline: str = ""
    """Words after the value in the summary at the top of the page; empty leaves the row out."""

    def __post_init__(self) -> None:
        check_names([self.unit], UNITS, "unit", f"row {self.key}")


@dataclasses.dataclass(frozen=True)
class Command:
    """A subcommand of evaluate.py."""

    name: str
    function: str
    """`module:function`, which takes the parsed arguments and returns numbers by name. The module
    is imported only when the command runs, since the libraries that it needs may be optional."""
    description: str
    """One line for --help."""

    def run(self, args: argparse.Namespace) -> dict[str, float | None]:
        """Compute the numbers for parsed arguments; None for one that cannot be computed.

        Raises:
            ValueError: an argument is wrong; the message names it and the remedy.
            ImportError: an optional library is missing.
        """
        # Imported only now: `evaluate.py --help` should not load torch and optional libraries.
        module_name, function = self.function.split(":")
        module = importlib.import_module(module_name)
        compute = getattr(module, function)
        scores: dict[str, float | None] = compute(args)
        return scores


@dataclasses.dataclass(frozen=True)
class Score(Command):
    """Numbers about a finished run that one command computes and one file holds."""

    stages: Sequence[str] = ()
    """Stages whose runs it can score."""
    examples: Sequence[tuple[str, str]] = ()
    """Arguments and their explanation, for --help; () for `<name> runs/latest`."""
    options: Sequence[Option] = ()
    """Options of its command."""
    run_is_optional: bool = False
    """Whether the command works without a run."""
    has_own_data: bool = False
    """Whether it needs a folder with the user's copy of the data. The scorecard cannot compute such
    scores; it shows saved ones."""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Setting -> environment variable that the numbers depend on."""
    sections: Mapping[str, Sequence[Row]] = dataclasses.field(default_factory=dict)
    """Section of the scorecard -> rows."""
    section_of_all: str = ""
    """Section of the scorecard that shows every number, for keys that are not known beforehand;
    empty for none. `evaluation.units.unit_of` tells the units from the keys."""
    published: Published | None = None
    """Scores of other systems that stand beside that section."""
    make_section: Callable[[Sequence[Card]], Section] | None = None
    """Makes a section of the scorecard that is not a list of rows."""
    headline: Callable[[Scores], str] | None = None
    """Makes a phrase for the summary at the top of the page; empty for none."""
    gaps: Callable[[Scores, str, str], Iterable[Gap]] | None = None
    """Lists what is missing from the numbers, given the command that computed them and the command
    that would compute all of them."""
