"""Writes the report of a sweep.

`python -m sweeps.report slice_size` writes runs/sweeps/slice_size/report.html from the runs of the
sweep. With `--wandb` it saves a shared report on Weights & Biases instead.
"""

import argparse
import sys
from pathlib import Path

from sweeps.report.answer import answer
from sweeps.report.gather import gather
from sweeps.report.page import page


def main(args: list[str]) -> str:
    """Write the report and print its answer.

    Args:
        args: name of the sweep, and options.

    Returns:
        Path or address of the report.

    Raises:
        ValueError: there is no such sweep, or its file lacks what a report needs.
        ImportError: the library for W&B reports is missing.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", help="name of a sweep that was run")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--wandb", action="store_true", help="save it as a W&B report")
    parsed = parser.parse_args(args)
    results = gather(parsed.sweep, parsed.runs)
    if parsed.wandb:
        # imported here, since the library is optional
        from sweeps.report.wandb_report import save

        location = save(results)
    else:
        file = parsed.runs / "sweeps" / parsed.sweep / "report.html"
        file.write_text(page(results))
        location = str(file)
    for sentence in answer(results):
        print(sentence)
    print(location)
    return location


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, ImportError) as error:
        sys.exit(f"error: {error}")
