"""A W&B sweep file and the three comments that it opens with.

    # Question: How long may a slice be before the word error rate suffers?
    # Cost: 24 runs of 7 minutes on two CPU cores.
    # Figure: test/wer against encoder.slice_ms, one line per encoder.context

A comment may continue in the next line. The part after the comma of the last one is left out if the
figure has a single line. Spread is computed over the values of `seed`, or over those of a stage's
seed such as `stages.state.seed`.
"""

import dataclasses
import itertools
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sweeps.hub.search import choices, flat_entries

HEAD = ("Question", "Cost", "Figure")
FIGURE = re.compile(r"(?P<metric>\S+) against (?P<x>[^\s,]+?)(, one line per (?P<line>\S+?))?\.?")
FIGURE_FORM = "<metric> against <parameter>[, one line per <parameter>]"
DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
"""Command that W&B runs if a sweep file names none."""


@dataclasses.dataclass(frozen=True)
class SweepFile:
    """Content of a sweep file."""

    name: str
    question: str
    cost: str
    metric: str
    x: str
    """Parameter on the horizontal axis of the figure."""
    line: str | None
    """Parameter with a line of the figure for each of its values."""
    goal: str
    """minimize or maximize."""
    method: str
    """grid, or a method that draws values."""
    parameters: dict[str, list[Any] | None]
    """Values of each parameter; None if they are drawn from a distribution."""
    command: tuple[str, ...]

    @property
    def sign(self) -> int:
        """Factor that makes lower scores better."""
        return 1 if self.goal == "minimize" else -1

    @property
    def swept(self) -> list[str]:
        """Parameters with more than one value."""
        names = []
        for name, values in self.parameters.items():
            if values is None or len(values) > 1:
                names.append(name)
        return names

    def grid(self) -> list[dict[str, Any]]:
        """Parameters of every trial of a grid; empty for methods that draw values."""
        if self.method != "grid":
            return []
        values = [each or [] for each in self.parameters.values()]
        combinations = itertools.product(*values)
        return [dict(zip(self.parameters, trial, strict=True)) for trial in combinations]

    def command_of(self, parameters: Mapping[str, Any]) -> str:
        """Command that a W&B agent runs for a trial."""
        overrides = [f"{name}={value}" for name, value in parameters.items()]
        macros = {
            "${env}": [],
            "${interpreter}": ["python"],
            "${args_no_hyphens}": overrides,
            "${args}": [f"--{override}" for override in overrides],
        }
        parts: list[str] = []
        for part in self.command:
            parts += macros.get(part, [part])
        return shlex.join(parts)


class FigureComment(NamedTuple):
    """Content of the comment `# Figure:`."""

    metric: str
    x: str
    line: str | None


def is_seed(name: str) -> bool:
    """Whether trials that differ only in this parameter have the same setting."""
    return name.split(".")[-1] == "seed"


def read_sweep_file(path: Path, name: str) -> SweepFile:
    """Read a sweep file.

    Args:
        path: YAML file.
        name: of the sweep.

    Raises:
        ValueError: a comment or a key that a report needs is missing or has another form.
    """
    text = path.read_text()
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict) or not isinstance(values.get("parameters"), dict):
        raise ValueError(f"{path}: no parameters; a sweep file has a map `parameters:`")
    metric = values.get("metric") or {}
    if metric.get("goal") not in ("minimize", "maximize") or "name" not in metric:
        raise ValueError(
            f"{path}: metric={metric}; give `metric: {{name: test/wer, goal: minimize}}` "
            "or maximize"
        )
    parameters = {}
    method = values.get("method", "grid")
    for key, entry in flat_entries(values["parameters"]).items():
        parameters[key] = _parameter_values(path, key, entry, method)
    if has_head(text):
        head = read_head(path, text)
    else:
        head = _default_head(metric["name"], parameters)
    figure = _parse_figure(path, head["Figure"], metric["name"], parameters)
    program = values.get("program", "train.py")
    command = []
    for part in values.get("command") or DEFAULT_COMMAND:
        command.append(program if part == "${program}" else str(part))
    return SweepFile(
        name=name,
        question=head["Question"],
        cost=head["Cost"],
        metric=figure.metric,
        x=figure.x,
        line=figure.line,
        goal=metric["goal"],
        method=method,
        parameters=parameters,
        command=tuple(command),
    )


def read_head(path: Path, text: str) -> dict[str, str]:
    """Read the comments that a file opens with.

    Args:
        path: of the file, for messages.
        text: of the file.

    Returns:
        Question, cost and figure.

    Raises:
        ValueError: a comment is missing or empty, or they are in another order.
    """
    head: dict[str, str] = {}
    for line in itertools.takewhile(_is_comment, text.splitlines()):
        comment = line.lstrip("#").strip()
        word, colon, rest = comment.partition(":")
        if colon and word in HEAD:
            head[word] = rest.strip()
        elif head:
            # Other lines continue the last comment.
            last = list(head)[-1]
            head[last] += f" {comment}"
    if tuple(head) != HEAD or not all(head.values()):
        form = "\n".join(f"# {word}: ..." for word in HEAD)
        raise ValueError(
            f"{path} opens with comments for {list(head)}; a report needs, first and in this "
            f"order:\n{form}"
        )
    return {word: " ".join(rest.split()) for word, rest in head.items()}


def has_head(text: str) -> bool:
    """Whether a sweep file opens with at least one of the comments for its report."""
    starts = tuple(f"# {word}:" for word in HEAD)
    lines = itertools.takewhile(_is_comment, text.splitlines())
    return any(line.startswith(starts) for line in lines)


def _default_head(metric: str, parameters: Mapping[str, list[Any] | None]) -> dict[str, str]:
    """Comments for a file that has none: the metric against its first parameter."""
    swept = [key for key, values in parameters.items() if values is None or len(values) > 1]
    # Trials that differ in their seed alone belong to one setting.
    settings = [key for key in swept if not is_seed(key)]
    first = (settings or swept or list(parameters))[0]
    return {
        "Question": f"Which settings have the best {metric}?",
        "Cost": "not stated.",
        "Figure": f"{metric} against {first}",
    }


def _is_comment(line: str) -> bool:
    return line.startswith("#")


def _parse_figure(
    path: Path, text: str, metric: str, parameters: Mapping[str, Any]
) -> FigureComment:
    """Parse the comment `# Figure:` and check its names."""
    match = FIGURE.fullmatch(text)
    if match is None:
        raise ValueError(f"{path}: `# Figure: {text}` is not of the form `# Figure: {FIGURE_FORM}`")
    figure = FigureComment(**match.groupdict())
    if figure.metric != metric:
        raise ValueError(
            f"{path}: # Figure shows {figure.metric}, but metric.name={metric}; name the same in "
            "both"
        )
    for name in (figure.x, figure.line):
        if name and name not in parameters:
            raise ValueError(
                f"{path}: # Figure names {name}, which is no parameter; known: "
                f"{', '.join(parameters)}"
            )
    return figure


def _parameter_values(path: Path, key: str, entry: Any, method: str) -> list[Any] | None:
    """Values of a parameter; None if they are drawn."""
    if not isinstance(entry, dict):
        raise ValueError(f"{path}: parameters.{key}={entry!r}; give value, values, or min and max")
    is_range = method == "grid" and "min" in entry
    if is_range or "value" in entry or "values" in entry:
        return choices(entry)
    return None
