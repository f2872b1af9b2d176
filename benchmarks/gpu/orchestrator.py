"""Runs the parts in a worker process, without jax in its own.

A part that fails, hangs or crashes costs only itself: the worker is started
again with the parts behind it. After each part everything known is on the disk.
"""

import argparse
from collections.abc import Mapping
import pathlib
import sys
import time
import traceback

from benchmarks.gpu import plan, summary, workspace

# A worker that has not begun a part by then is started again.
_START_SECONDS = 90
_RESTARTS = 3


def sound(states: Mapping[str, str | int]) -> bool:
  """Whether no part differs, failed, crashed or was killed."""
  fine = ('ok', 'skipped', 'not reached', 'not compared', 'stopped at the end')
  return all(
    state.startswith(fine)
    for state in states.values()
    if isinstance(state, str)
  )


class Orchestrator:
  """One call of the command; see the module's docstring."""

  def __init__(self, flags: argparse.Namespace):
    self._flags = flags
    self._begin = time.time()
    self._deadline = self._begin + flags.budget
    self._out = pathlib.Path(flags.out)
    workspace.claim(self._out)
    workspace.claim(workspace.work(), fresh=not flags.keep)
    workspace.running_file().unlink(missing_ok=True)
    (workspace.work() / 'parts').mkdir(parents=True, exist_ok=True)
    parts = plan.chosen(flags.parts)
    self._limits = {p.name: p.most * flags.slow for p in parts}
    self._left = [p.name for p in parts]
    for name in self._left:  # With --keep, the other parts' numbers stay.
      workspace.part_file(name).unlink(missing_ok=True)
    self._states: dict[str, str | int] = {}
    self._worker, self._started, self._began = None, 0.0, False

  def run(self) -> bool:
    """Runs the parts; then the table. Returns whether nothing went wrong."""
    with open(self._out / 'log.txt', 'a', buffering=1) as self._log:
      self._say(f'parts: {", ".join(self._left)}')
      beside = [self._prepare_data()]
      if 'torch_heart' in self._left and not self._flags.tiny:
        beside.append(self._warm_up_torch())
      try:
        self._work()
      finally:
        running = self._running()[0]
        if self._worker is not None and self._worker.poll() is None and running:
          self._states[running] = 'stopped at the end of the budget'
        for process in (self._worker, *beside):
          workspace.end(process)
        self._collect()
        for name in self._left:
          self._states.setdefault(name, 'not reached')
        self._flush()
        self._table()
    return sound(self._states)

  def _say(self, text: str) -> None:
    line = f'[{time.time() - self._begin:6.1f}] {text}'
    print(line, flush=True)
    print(line, file=self._log, flush=True)

  def _spawn(self, role: str, **env: str):
    """Starts this command again as a worker or to prepare the data."""
    flags = self._flags
    command = [sys.executable, workspace.HERE / 'check.py', '--role', role]
    command += ['--out', self._out, '--deadline', self._deadline]
    command += ['--tiny'] * flags.tiny
    command += ['--parts', ','.join(self._left), '--slow', flags.slow]
    if flags.torch_python:
      command += ['--torch-python', flags.torch_python]
    return workspace.start(command, self._log, **env)

  def _prepare_data(self):
    """Draws the phantom on idle cores while programs compile."""
    return self._spawn(
      'data',
      JAX_PLATFORMS='cpu',
      CUDA_VISIBLE_DEVICES='',
      OMP_NUM_THREADS='2',
    )

  def _warm_up_torch(self):
    """Lets PyTorch compile into its cache, long before it is timed."""
    python = self._flags.torch_python or sys.executable
    command = [python, workspace.HERE / 'torch_dbdc.py']
    command += ['--k', 2, '--bf16', '--compile', '--steps', 1]
    return workspace.start(command, self._log, workspace.HERE)

  def _work(self) -> None:
    """Until all parts are done or the budget is spent."""
    while self._left and time.time() < self._deadline - 5:
      if self._worker is None or self._worker.poll() is not None:
        if self._worker is not None and not self._go_on():
          break
        self._worker = self._spawn('worker')
        self._started, self._began = time.time(), False
      time.sleep(0.4)
      self._collect()
      self._end_what_hangs()

  def _go_on(self) -> bool:
    """Whether a worker that has ended is to be followed by another."""
    # What it did last may not have been seen yet.
    self._collect()
    code, running = self._worker.returncode, self._running()[0]
    if running:  # Crashed in the middle of a part.
      self._give_up(running, f'worker ended with {code}')
    elif code == 0:
      return False
    else:
      self._states['worker'] = f'ended with {code}'
      self._say(f'worker ended with {code}')
    restarts = int(self._states.get('restarts', 0)) + 1
    self._states['restarts'] = restarts
    return bool(self._left) and (bool(running) or restarts <= _RESTARTS)

  def _running(self) -> tuple[str, float]:
    """The part that runs, '' for none, and the time it began."""
    found = workspace.read(workspace.running_file()) or {}
    return found.get('part', ''), found.get('since', time.time())

  def _give_up(self, name: str, state: str) -> None:
    self._say(f'{name}: {state}')
    self._states[name] = state
    self._left = [n for n in self._left if n != name]
    workspace.running_file().unlink(missing_ok=True)

  def _end_what_hangs(self) -> None:
    running, since = self._running()
    self._began |= bool(running)
    if running:
      took = time.time() - since
      if took > self._limits.get(running, took):
        workspace.end(self._worker)
        self._worker = None  # It has not crashed.
        self._give_up(running, f'killed after {took:.0f} s')
    elif not self._began and time.time() - self._started > _START_SECONDS:
      self._say('worker does not begin: killed')
      workspace.end(self._worker)
      self._started = time.time()

  def _collect(self) -> None:
    """Takes note of the parts that are done."""
    new = False
    for name in list(self._left):
      found = workspace.read(workspace.part_file(name)) or {}
      if found.get('done'):
        new = self._began = True
        self._left.remove(name)
        state = found.get('state', 'ok')
        self._states[name] = state
        self._say(f'{name}: {state} ({found.get("part_seconds", 0.0):.1f} s)')
        if state.startswith('NO GPU'):
          self._left = []  # Nothing below would mean anything.
          break
    if new:
      self._flush()

  def _flush(self) -> None:
    """Writes all that is known."""
    found = {
      name: workspace.read(workspace.part_file(name)) for name in plan.NAMES
    }
    content = {
      'budget': self._flags.budget,
      'tiny': self._flags.tiny,
      'seconds': round(time.time() - self._begin, 1),
      'states': self._states,
      'data': workspace.read(workspace.work() / 'data.json'),
      'parts': {k: v for k, v in found.items() if v is not None},
    }
    workspace.write(self._out / 'results.json', content)

  def _table(self) -> None:
    try:
      for line in summary.lines(workspace.read(self._out / 'results.json')):
        self._say(line)
    except Exception:
      self._say('summary failed\n' + traceback.format_exc())
    self._say(f'files: {sorted(p.name for p in self._out.iterdir())}')
