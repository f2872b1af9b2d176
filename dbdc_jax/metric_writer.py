"""What a run says while it runs: metrics.jsonl, TensorBoard, a progress bar.

`metrics.jsonl` is the truth, one JSON object a line; everything else can be
made from it. Only the lead process writes.
"""

from collections.abc import Mapping
import json
import math
import os
import pathlib
import sys
import time
from typing import Any

from rich import console as rich_console
from rich import progress as rich_progress
from tensorboardX import SummaryWriter

_NAME = 'metrics.jsonl'
# Steps after the first one until a run without a progress bar says how long it
# will take.
_ESTIMATE_AFTER = 10


def flatten(metrics: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Nested metrics to 'outer/inner' names; what is not finite becomes None."""
  out: dict[str, Any] = {}
  for name, value in metrics.items():
    if isinstance(value, Mapping):
      out |= flatten(value, f'{prefix}{name}/')
    else:
      value = float(value)
      out[prefix + name] = value if math.isfinite(value) else None
  return out


def read_rows(workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """The rows of a run; a broken last line (a killed run's) is left out."""
  path = pathlib.Path(workdir) / _NAME
  if not path.exists():
    return []
  rows = []
  for line in path.read_text().splitlines():
    try:
      rows.append(json.loads(line))
    except ValueError:
      break
  return rows


class MetricWriter:
  """Writes a run's metrics; a context manager."""

  def __init__(
    self,
    workdir: str | os.PathLike,
    *,
    lead: bool = True,
    tensorboard: bool = True,
    total_steps: int = 0,
    quiet: bool = False,
  ):
    """Makes a writer.

    Args:
      workdir: the run's folder.
      lead: whether this process writes at all.
      tensorboard: also write TensorBoard events.
      total_steps: for the progress bar.
      quiet: nothing on the terminal.
    """
    self._folder = pathlib.Path(workdir)
    self._lead = lead
    self._quiet = quiet or not lead
    self._total = total_steps
    self._tensorboard = tensorboard and lead
    self._file = self._events = self._bar = self._job = None

  def __enter__(self) -> 'MetricWriter':
    if not self._lead:
      return self
    self._folder.mkdir(parents=True, exist_ok=True)
    self._file = (self._folder / _NAME).open('a')
    if self._tensorboard:
      self._events = SummaryWriter(str(self._folder / 'tensorboard'))
    if not self._quiet and sys.stderr.isatty():
      self._bar = rich_progress.Progress(
        rich_progress.TextColumn('{task.description}'),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TextColumn('left'),
        rich_progress.TimeRemainingColumn(),
        console=rich_console.Console(file=sys.stderr),
      )
      self._bar.start()
      self._job = self._bar.add_task('training', total=self._total)
    # (step, time) once the first step is done: compiling is not counted.
    self._clock: tuple[int, float] | None = None
    return self

  def __exit__(self, *error) -> None:
    for part in (
      self._bar and self._bar.stop,
      self._events and self._events.close,
      self._file and self._file.close,
    ):
      if part:
        part()

  def resume(self, step: int) -> None:
    """Drops rows behind `step`: they will be written again."""
    if not self._lead:
      return
    rows = [row for row in read_rows(self._folder) if row['step'] <= step]
    path = self._folder / _NAME
    partial = path.with_name(_NAME + '.partial')
    partial.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    self._file.close()
    os.replace(partial, path)
    self._file = path.open('a')
    if self._bar:
      self._bar.update(self._job, completed=step)

  def write(
    self, step: int, epoch: int, kind: str, metrics: Mapping[str, Any]
  ) -> None:
    """Writes a row.

    Args:
      step: finished steps.
      epoch: finished epochs.
      kind: 'epoch', 'train' or 'test'.
      metrics: names to numbers, possibly nested.
    """
    if not self._lead:
      return
    flat = flatten(metrics)
    row = {'step': step, 'epoch': epoch, 'kind': kind, 'time': time.time()}
    self._file.write(json.dumps(row | flat) + '\n')
    self._file.flush()
    if self._events:
      for name, value in flat.items():
        if value is not None:
          self._events.add_scalar(f'{kind}/{name}', value, step)

  def progress(self, step: int, text: str) -> None:
    """Moves the progress bar; off a terminal, says once how long it takes."""
    if self._quiet:
      return
    if self._clock is None:
      self._clock = (step, time.monotonic())
    if self._bar:
      self._bar.update(self._job, completed=step, description=text)
    elif step - self._clock[0] == _ESTIMATE_AFTER:
      each = (time.monotonic() - self._clock[1]) / _ESTIMATE_AFTER
      self.line(f'{each:.2g} s a step', step)

  def line(self, text: str, step: int | None = None) -> None:
    """Prints a line above the bar.

    Args:
      text: the line.
      step: finished steps; where there is no bar, the time left is added.
    """
    if self._quiet:
      return
    if self._bar:
      self._bar.console.print(text, highlight=False, markup=False)
      return
    if step and self._clock and step > self._clock[0]:
      spent = time.monotonic() - self._clock[1]
      left = spent / (step - self._clock[0]) * max(self._total - step, 0)
      text += f' ({left / 60:.1f} min left)'
    print(text, file=sys.stderr, flush=True)
