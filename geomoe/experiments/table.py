"""The comparison in Markdown."""

import math
import os
import statistics
from collections.abc import Sequence

from geomoe.experiments.comparison import Comparison, NestedChoice, Score
from geomoe.experiments.scoring import CROPPED, NO_METADATA, VIEWS, WHOLE
from geomoe.files import atomic_open
from geomoe.probing.tables import markdown_table, spread

BEGIN, END = "<!-- recipes: begin -->", "<!-- recipes: end -->"


def markdown(scores: Sequence[Score]) -> str:
    """Lay out all recipes, longest runs first: mean and standard deviation over the seeds."""
    groups: dict[tuple[float, str, str], list[Score]] = {}
    for score in scores:
        groups.setdefault((-score.minutes, score.recipe, score.pool), []).append(score)
    header = ["recipe", "minutes", "seeds", "pooling", "micro mAP", "macro mAP", NO_METADATA, CROPPED, "transfer"]
    return markdown_table(
        [*header, "images/s", "least used expert"], [_cells(group) for _, group in sorted(groups.items())], text=4
    )


def _cells(rows: Sequence[Score]) -> list[str]:
    views = {view: [row for row in rows if row.view == view] for view in VIEWS}
    main, first = views[WHOLE] or rows, rows[0]
    columns = [("micro_mAP", main), ("macro_mAP", main), ("micro_mAP", views[NO_METADATA]), ("micro_mAP", views[CROPPED])]
    values = [[getattr(row, name) for row in group] for name, group in (*columns, ("transfer", main))]
    cells = [first.recipe, f"{first.minutes:g}", str(len({row.seed for row in rows})), first.pool]
    cells += [spread([value for value in column if not math.isnan(value)]) for column in values]
    if not first.minutes:
        return [*cells, "", ""]
    rate = statistics.fmean(row.images_per_second for row in main)
    return [*cells, f"{rate:.0f}", f"{min(row.least_used_expert for row in main):.3f}"]


def describe_choice(choice: NestedChoice, comparison: Comparison, seed: int) -> str:
    """Say what `choose` gives."""
    often = "; ".join(f"{name}: {count}" for name, count in choice.counts.items())
    return (
        f"Chosen by nested folds among the runs of {comparison.minutes:g} minutes with seed {seed}: micro mAP "
        f"{choice.micro_mAP:.3f}, macro mAP {choice.macro_mAP:.3f}. How often each was chosen in "
        f"{sum(choice.counts.values())} folds: {often}.\n"
    )


def write_markdown(path: str | os.PathLike, text: str) -> None:
    """Put a text between the two marks of a Markdown file, or in a new file.

    Raises:
        ValueError: the file lacks a mark.
    """
    table = f"{BEGIN}\n{text}{END}"
    page = f"# Recipes\n\n{table}\n"
    if os.path.exists(path):
        with open(path) as file:
            old = file.read()
        if BEGIN not in old or END not in old:
            raise ValueError(f"{path} has no line {BEGIN!r} and {END!r} to put the table between")
        page = old[: old.index(BEGIN)] + table + old[old.index(END) + len(END) :]
    with atomic_open(path) as file:
        file.write(page)
