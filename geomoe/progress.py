"""The progress bar of every command."""

import rich.console
import rich.progress


def progress_bar(console: rich.console.Console | None = None, hidden: bool = False) -> rich.progress.Progress:
    """A bar with description, count and time left, on stderr unless a console is given; `hidden` shows what it prints alone."""
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
        console=console or rich.console.Console(stderr=True),
        disable=hidden,
    )
