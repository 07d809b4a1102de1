"""Importances of LoRA adapters as a table and as a picture."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from rich.table import Table

PANEL_SIZE_IN = 3
DPI = 110
SELECTED_COLOUR = "tab:blue"
OTHER_COLOUR = "lightgrey"


def importance_table(
    layers_by_kind: Mapping[str, Sequence[str]],
    importance: Mapping[str, float],
    selected: Collection[str],
) -> Table:
    """Return a table with a column for each kind of linear layer and a row for each layer.

    Args:
        layers_by_kind: kind -> names of its linear layers, in the order of the model.
        importance: name -> share of the importance.
        selected: names of the linear layers with an adapter of their own; marked with a star.
    """
    title = "importance; * has an adapter of its own"
    table = Table("layer", *layers_by_kind, box=None, title=title)
    num_rows = max(len(names) for names in layers_by_kind.values())
    for layer in range(num_rows):
        cells = []
        for names in layers_by_kind.values():
            # kinds may occur in different numbers of layers
            name = names[layer] if layer < len(names) else None
            cells.append(_cell(name, importance, selected))
        table.add_row(str(layer), *cells)
    return table


def _cell(name: str | None, importance: Mapping[str, float], selected: Collection[str]) -> str:
    if name is None:
        return ""
    mark = " *" if name in selected else "  "
    return f"{importance[name]:.1%}{mark}"


def draw_importance(
    layers_by_kind: Mapping[str, Sequence[str]],
    importance: Mapping[str, float],
    selected: Collection[str],
    path: Path,
) -> None:
    """Draw a panel of bars for each kind of linear layer; selected layers are dark.

    Args:
        layers_by_kind: kind -> names of its linear layers, in the order of the model.
        importance: name -> share of the importance.
        selected: names of the linear layers with an adapter of their own.
        path: file of the picture.
    """
    size = (PANEL_SIZE_IN * len(layers_by_kind), PANEL_SIZE_IN)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(layers_by_kind), squeeze=False)
    for axis, (kind, names) in zip(axes[0], layers_by_kind.items(), strict=True):
        heights = [importance[name] for name in names]
        colours = [SELECTED_COLOUR if name in selected else OTHER_COLOUR for name in names]
        axis.bar(range(len(names)), heights, color=colours)
        axis.set(title=kind, xlabel="layer")
    axes[0][0].set_ylabel("importance")
    figure.savefig(path, dpi=DPI)
