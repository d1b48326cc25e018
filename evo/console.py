"""The console on which results are printed."""

from rich.console import Console


def result_console() -> Console:
    """Standard output, at 140 columns where it is no terminal, so that tables keep their width."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=140)
