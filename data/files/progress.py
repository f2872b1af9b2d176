"""Progress bars: on standard error, with the time that is left."""

import sys

from rich import console as rich_console
from rich import progress as rich_progress


def bar(quiet: bool = False) -> rich_progress.Progress:
  """A bar that counts items; use it as a context.

  Args:
    quiet: show nothing.
  """
  return rich_progress.Progress(
    rich_progress.TextColumn('{task.description}'),
    rich_progress.BarColumn(),
    rich_progress.MofNCompleteColumn(),
    rich_progress.TimeElapsedColumn(),
    rich_progress.TextColumn('left'),
    rich_progress.TimeRemainingColumn(),
    console=rich_console.Console(file=sys.stderr),
    disable=quiet,
  )
