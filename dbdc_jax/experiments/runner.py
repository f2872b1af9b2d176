"""Runs, one after another, each in a process of its own."""

from collections.abc import Callable, Sequence
import dataclasses
import pathlib
import subprocess
import sys
import time

from rich import progress

from data.files import atomic
from dbdc_jax.experiments import plan
from dbdc_jax.experiments.plan import PlannedRun

# A run that was told to stop may need this long, in seconds, for its last save.
_PATIENCE = 30
_LINES = 6


@dataclasses.dataclass
class RunOutcome:
  """How a run ended.

  Attributes:
    run: which.
    reason: '' if it succeeded.
    seconds: that it took now; 0 if it was finished before.
  """

  run: PlannedRun
  reason: str = ''
  seconds: float = 0.0


def log_file(run: PlannedRun) -> pathlib.Path:
  """What a run prints goes there, beside its folder."""
  return run.workdir.with_name(run.workdir.name + '.log')


def execute(run: PlannedRun) -> str:
  """Runs the command; its output goes to the run's log.

  Returns:
    '' if it succeeded, else its exit code and the last lines that it printed.

  Raises:
    KeyboardInterrupt: Ctrl-C; the run has ended as well.
    SystemExit: SIGTERM; the run has ended as well.
  """
  path = log_file(run)
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('ab') as log:
    start = log.tell()
    process = subprocess.Popen(
      run.command,
      cwd=plan.ROOT,  # There Python finds the project.
      stdout=log,
      stderr=subprocess.STDOUT,
      stdin=subprocess.DEVNULL,
    )
    try:
      code = process.wait()
    except BaseException:
      process.terminate()
      try:
        process.wait(_PATIENCE)
      except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
      raise
  if not code:
    return ''
  printed = path.read_bytes()[start:].decode(errors='replace').strip()
  last = '\n'.join(printed.splitlines()[-_LINES:])
  return f'exit code {code}: {last}'


class Clock:
  """How long what is left may take, from what is finished."""

  def __init__(self, runs: Sequence[PlannedRun]):
    """Reads the durations of runs that are finished already."""
    self._durations: dict[str, list[float]] = {}
    for run in runs:
      if found := plan.results(run):
        networks = found['run']['networks'].values()
        self.add(run, sum(network['train_seconds'] for network in networks))

  def add(self, run: PlannedRun, seconds: float) -> None:
    """A run has finished."""
    self._durations.setdefault(run.variant.name, []).append(seconds)

  def left(self, runs: Sequence[PlannedRun]) -> float | None:
    """Seconds that `runs` may take; None while nothing is known.

    Each that is still to be done counts as the mean of its own row's finished
    runs; where there is none, as the mean of all.
    """
    means = {name: sum(d) / len(d) for name, d in self._durations.items()}
    if not means:
      return None
    usual = sum(means.values()) / len(means)
    left = filter(plan.is_open, runs)
    return sum(means.get(run.variant.name, usual) for run in left)


def duration(seconds: float | None) -> str:
  """Seconds for readers."""
  if seconds is None:
    return 'not known yet'
  if seconds < 90:
    return f'{seconds:.0f} s'
  if seconds < 90 * 60:
    return f'{seconds / 60:.0f} min'
  return f'{seconds / 3600:.1f} h'


def _bar() -> progress.Progress:
  """The overall progress, on terminals only."""
  return progress.Progress(
    progress.TextColumn('{task.completed:.0f}/{task.total:.0f} runs'),
    progress.BarColumn(),
    progress.TextColumn('{task.description}'),
    progress.TimeElapsedColumn(),
    disable=not sys.stdout.isatty(),
  )


def run_all(
  runs: Sequence[PlannedRun],
  on_end: Callable[[], None],
  execute: Callable[[PlannedRun], str] = execute,
) -> list[RunOutcome]:
  """Runs what is not finished; goes on past what fails.

  Args:
    runs: of the whole table.
    on_end: called after every run, to write the tables.
    execute: runs one; '' or why it failed.

  Returns:
    How each ended.
  """
  clock, outcomes = Clock(runs), []
  with atomic.terminable(), _bar() as bar:
    job = bar.add_task('', total=len(runs))
    for index, run in enumerate(runs):
      where, why = plan.state(run)
      outcome = RunOutcome(run)
      if where in (plan.UNAVAILABLE, plan.OTHER):
        outcome.reason = f'{where}: {why}'
      elif where != plan.DONE:
        left = duration(clock.left(runs[index:]))
        bar.update(job, description=f'{run.name}; time left: {left}')
        started = time.monotonic()
        outcome.reason = execute(run)
        outcome.seconds = time.monotonic() - started
        if not outcome.reason and plan.state(run)[0] != plan.DONE:
          outcome.reason = 'it ended without results'
        if not outcome.reason:
          clock.add(run, outcome.seconds)
        left = duration(clock.left(runs[index + 1 :]))
        bar.console.print(
          f'[{index + 1}/{len(runs)}] {run.name}: '
          + ('failed' if outcome.reason else 'done')
          + f' in {duration(outcome.seconds)}; time left: {left}',
          markup=False,
          highlight=False,
          soft_wrap=True,
        )
        on_end()
      outcomes.append(outcome)
      bar.update(job, completed=index + 1)
  return outcomes
