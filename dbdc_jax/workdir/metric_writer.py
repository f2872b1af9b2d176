"""What a run says while it runs: metrics.jsonl, TensorBoard, a progress bar.

`metrics.jsonl` is the truth, one JSON object a line; everything else can be
made from it. Only the lead process writes.
"""

from collections.abc import Mapping
import contextlib
import errno
import json
import math
import os
import pathlib
import sys
import time
from typing import Any

from flax import traverse_util
from rich import progress as rich_progress
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2, summary_pb2

from data.files import atomic, progress

_NAME = 'metrics.jsonl'
# Nothing moves meanwhile.
_COMPILING = 'compiling the step (the first time up to two minutes)'
# Steps after the first one until a run without a progress bar says how long it
# will take.
_ESTIMATE_AFTER = 10


def flatten(metrics: Mapping[str, Any]) -> dict[str, float | None]:
  """Nested metrics to 'outer/inner' names; what is not finite becomes None."""
  flat = traverse_util.flatten_dict(dict(metrics), sep='/')
  return {k: float(v) if math.isfinite(v) else None for k, v in flat.items()}


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


def read_epochs(workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """The rows of a run's epochs."""
  return [row for row in read_rows(workdir) if row['kind'] == 'epoch']


class _Events:
  """TensorBoard's event file, written by the thread that trains.

  tensorboardX's own writer has a thread and a queue, which a full disk ends
  silently and which then blocks the run.
  """

  def __init__(self, folder: pathlib.Path, first_step: int):
    folder.mkdir(parents=True, exist_ok=True)
    self._path = folder
    self._writer = EventsWriter(str(folder / 'events'))
    # Tells TensorBoard to forget what an interrupted run wrote behind here.
    log = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._put(event_pb2.Event(step=first_step + 1, session_log=log))

  def _put(self, event: Any) -> None:
    event.wall_time = time.time()
    with atomic.naming(self._path):
      self._writer.write_event(event)
      self._writer.flush()

  def write(self, values: Mapping[str, float], step: int) -> None:
    """Writes scalars by their names."""
    scalars = [v for n, x in values.items() for v in summary.scalar(n, x).value]
    self._put(
      event_pb2.Event(step=step, summary=summary_pb2.Summary(value=scalars))
    )

  def close(self) -> None:
    """Closes the file; what a full disk did not take was an error already."""
    with contextlib.suppress(OSError):
      self._writer.close()


class MetricWriter:
  """Writes a run's metrics; a context manager.

  Every row is on the disk before `write` returns: a checkpoint that is saved
  afterwards never lacks its row.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    *,
    first_step: int = 0,
    lead: bool = True,
    total_steps: int = 0,
  ):
    """Makes a writer.

    Args:
      workdir: the run's folder.
      first_step: finished steps of the state that is gone on from; rows behind
        it are dropped, they will be written again.
      lead: whether this process writes at all.
      total_steps: for the progress bar.
    """
    self._folder, self._first_step = pathlib.Path(workdir), first_step
    self._lead, self._total = lead, total_steps
    self._opened = contextlib.ExitStack()
    self._bar: rich_progress.Progress | None = None
    # (step, time) once the first step is done: compiling is not counted.
    self._clock: tuple[int, float] | None = None

  def __enter__(self) -> 'MetricWriter':
    if not self._lead:
      return self
    self._folder.mkdir(parents=True, exist_ok=True)
    self._path = self._folder / _NAME
    rows = read_rows(self._folder)
    kept = [json.dumps(row) for row in rows if row['step'] <= self._first_step]
    atomic.write(self._path, ''.join(row + '\n' for row in kept).encode())
    self._file = self._opened.enter_context(self._path.open('ab', buffering=0))
    self._events = _Events(self._folder / 'tensorboard', self._first_step)
    self._opened.callback(self._events.close)
    if sys.stderr.isatty():
      self._bar = self._opened.enter_context(progress.bar())
      self._job = self._bar.add_task(
        _COMPILING, total=self._total, completed=self._first_step
      )
    else:
      self.line(_COMPILING)
    return self

  def __exit__(self, *error) -> None:
    self._opened.close()

  def write(
    self, step: int, epoch: int, kind: str, metrics: Mapping[str, Any]
  ) -> None:
    """Writes a row.

    Args:
      step: finished steps.
      epoch: finished epochs.
      kind: 'epoch', 'train' or 'test'.
      metrics: names to numbers, possibly nested.

    Raises:
      OSError: the disk is full; names the file.
    """
    if not self._lead:
      return
    flat = flatten(metrics)
    row = {'step': step, 'epoch': epoch, 'kind': kind, 'time': time.time()}
    line = (json.dumps(row | flat) + '\n').encode()
    with atomic.naming(self._path):
      if (self._file.write(line) or 0) < len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
      os.fsync(self._file.fileno())
    named = {f'{kind}/{k}': v for k, v in flat.items() if v is not None}
    self._events.write(named, step)

  def progress(self, step: int, text: str) -> None:
    """Moves the progress bar; off a terminal, says once how long it takes."""
    if not self._lead:
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
    if not self._lead:
      return
    if self._bar:
      self._bar.console.print(text, highlight=False, markup=False)
      return
    if step and self._clock and step > self._clock[0]:
      spent = time.monotonic() - self._clock[1]
      left = spent / (step - self._clock[0]) * max(self._total - step, 0)
      text += f' ({left / 60:.1f} min left)'
    print(text, file=sys.stderr, flush=True)
