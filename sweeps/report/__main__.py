"""python -m sweeps.report slice_size: runs/sweeps/slice_size/report.html from the runs of a sweep, or with --wandb the
same as a shared report on Weights & Biases."""

import argparse
import sys
from pathlib import Path

from sweeps.report.answer import answer
from sweeps.report.gather import gather
from sweeps.report.page import page


def main(args: list[str]) -> str:
    """Returns where the report lies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", help="name of a sweep that was run")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--wandb", action="store_true", help="save it as a W&B report")
    asked = parser.parse_args(args)
    gathered = gather(asked.sweep, asked.runs)
    if asked.wandb:
        from sweeps.report.wandb_report import save

        place = save(gathered)
    else:
        file = asked.runs / "sweeps" / asked.sweep / "report.html"
        file.write_text(page(gathered))
        place = str(file)
    print("\n".join([*answer(gathered), place]))
    return place


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, ImportError) as error:
        sys.exit(f"error: {error}")
