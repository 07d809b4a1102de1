"""A W&B sweep file, and the three comments it opens with:

    # Question: How long may a slice be before the word error rate suffers?
    # Cost: 24 runs of 7 minutes on two CPU cores.
    # Figure: test/wer against encoder.slice_ms, one line per encoder.context

A comment may go on in the next line. The part from the second comma on is left out where there is but one line. Spread
is taken over the values of `seed`, or of a stage's: `stages.state.seed`.
"""

import dataclasses
import itertools
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

HEAD = ("Question", "Cost", "Figure")
FIGURE = re.compile(r"(?P<metric>\S+) against (?P<x>[^\s,]+?)(, one line per (?P<line>\S+?))?\.?")
COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
"""What W&B runs where a sweep file names no command."""


@dataclasses.dataclass(frozen=True)
class SweepFile:
    name: str
    question: str
    cost: str
    metric: str
    x: str
    """Parameter across."""
    line: str | None
    """Parameter of which every value has a line."""
    goal: str
    """minimize or maximize."""
    method: str
    parameters: dict[str, list[Any] | None]
    """Values of each; None where they are drawn from a distribution."""
    command: tuple[str, ...]

    @property
    def sign(self) -> int:
        """What a score is multiplied by so that less is better."""
        return 1 if self.goal == "minimize" else -1

    @property
    def swept(self) -> list[str]:
        """Parameters that have more than one value."""
        return [
            name for name, values in self.parameters.items() if values is None or len(values) > 1
        ]

    def grid(self) -> list[dict[str, Any]]:
        """All points that a grid has; none for other methods, which draw theirs."""
        if self.method != "grid":
            return []
        values = [each or [] for each in self.parameters.values()]
        return [
            dict(zip(self.parameters, point, strict=True)) for point in itertools.product(*values)
        ]

    def command_of(self, parameters: Mapping[str, Any]) -> str:
        """What an agent runs for a point."""
        plain = [f"{name}={value}" for name, value in parameters.items()]
        macros = {
            "${env}": [], "${interpreter}": ["python"], "${args_no_hyphens}": plain,
            "${args}": [f"--{word}" for word in plain],
        }  # fmt: skip
        return shlex.join(word for part in self.command for word in macros.get(part, [part]))


def is_seed(name: str) -> bool:
    """Whether points that differ in this parameter alone are the same setting."""
    return name.split(".")[-1] == "seed"


def read_sweep_file(path: Path, name: str) -> SweepFile:
    """Raises ValueError: a head or a key that a report needs is not there, or not in its form."""
    text = path.read_text()
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict) or not isinstance(values.get("parameters"), dict):
        raise ValueError(f"{path}: no parameters; a sweep file has a map `parameters:`")
    head = read_head(path, text)
    metric = values.get("metric") or {}
    if metric.get("goal") not in ("minimize", "maximize") or "name" not in metric:
        raise ValueError(
            f"{path}: metric={metric}; give `metric: {{name: test/wer, goal: minimize}}` or maximize"
        )
    parameters = {key: _values(path, key, given) for key, given in values["parameters"].items()}
    shown = _figure(path, head["Figure"], metric["name"], parameters)
    program, method = values.get("program", "train.py"), values.get("method", "grid")
    command = tuple(
        program if part == "${program}" else str(part) for part in values.get("command") or COMMAND
    )
    return SweepFile(
        name, head["Question"], head["Cost"], *shown, metric["goal"], method, parameters, command
    )


def read_head(path: Path, text: str) -> dict[str, str]:
    """The comments a file opens with. Raises ValueError: one is not there, empty, or in another place."""
    comments = [
        line.lstrip("#").strip() for line in itertools.takewhile(_is_comment, text.splitlines())
    ]
    head: dict[str, str] = {}
    for comment in comments:
        word, colon, rest = comment.partition(":")
        if colon and word in HEAD:
            head[word] = rest.strip()
        elif head:
            head[list(head)[-1]] += f" {comment}"
    if tuple(head) != HEAD or not all(head.values()):
        form = "\n".join(f"# {word}: ..." for word in HEAD)
        raise ValueError(
            f"{path} opens with comments for {list(head)}; a report needs, first and in this order:\n{form}"
        )
    return {word: " ".join(rest.split()) for word, rest in head.items()}


def _is_comment(line: str) -> bool:
    return line.startswith("#")


def _figure(
    path: Path, text: str, metric: str, parameters: Mapping[str, Any]
) -> tuple[str, str, str | None]:
    """Metric and parameters of `# Figure:`."""
    found = FIGURE.fullmatch(text)
    if found is None:
        form = "<metric> against <parameter>[, one line per <parameter>]"
        raise ValueError(f"{path}: `# Figure: {text}` is not of the form `# Figure: {form}`")
    names = found.groupdict()
    if names["metric"] != metric:
        raise ValueError(
            f"{path}: # Figure shows {names['metric']}, but metric.name={metric}; name the same in both"
        )
    for name in filter(None, (names["x"], names["line"])):
        if name not in parameters:
            raise ValueError(
                f"{path}: # Figure names {name}, which is no parameter; known: {', '.join(parameters)}"
            )
    return names["metric"], names["x"], names["line"]


def _values(path: Path, key: str, given: Any) -> list[Any] | None:
    """Values of a parameter; None: drawn."""
    if not isinstance(given, dict) or "parameters" in given:
        raise ValueError(
            f"{path}: parameters.{key}={given!r}; give flat dotted names, each with value or values"
        )
    if "values" in given:
        return list(given["values"])
    return [given["value"]] if "value" in given else None
