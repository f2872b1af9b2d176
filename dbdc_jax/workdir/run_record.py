"""What a workdir says about its run: config, versions, commit, data, owner."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import errno
import fcntl
import functools
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

from flax import traverse_util

from configs import common
from data import task_file
from data.cache.prepared import Prepared
from data.files import atomic, destination
from dbdc_jax import __version__
from dbdc_jax.methods import Problem
from dbdc_jax.runtime import parallel
from dbdc_jax.workdir import run_folder
from dbdc_jax.workdir.run_folder import RunFolder

_PACKAGES = (
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'numpy',
  'scipy',
  'nibabel',
  'pydicom',
  'tensorflow-datasets',
  'grain',
)
# Fields that may differ between the calls of one run: none of them changes what
# is learnt. `epochs` may grow, and `modalities` is compared name by name.
_HARMLESS = (
  'eval_only',
  'expectation',
  'init_from',
  'epochs',
  'minutes',
  'modalities',
  'evaluation',
  'data.cache',
  'data.memory_limit_gib',
  'data.split',
)


# What a run writes into its folder.
_WRITTEN = (
  *(run_folder.CONFIG, run_folder.RECORD, run_folder.TASK, run_folder.SPLIT),
  *(run_folder.LOOKS, run_folder.COMPONENTS, run_folder.RESULTS),
  *('results.csv', 'metrics.jsonl', 'progress.png', 'overlays'),
  *('checkpoints', 'tensorboard'),
)
_REMEDY = (
  '; without it the run cannot be gone on with: bring the file back, or choose'
  ' another --workdir'
)


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a JSON file of a run; it is either whole or not there."""
  atomic.write_json(path, value, sort_keys=True, allow_nan=True)


def _leaves(config: Mapping[str, Any]) -> dict[str, Any]:
  return traverse_util.flatten_dict(dict(config), sep='.')


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
  """Lines 'field: old -> new' for every field that matters to a resume."""
  old_leaves, new_leaves = _leaves(old), _leaves(new)
  lines = []
  for field in sorted(old_leaves.keys() | new_leaves.keys()):
    if any(field == h or field.startswith(h + '.') for h in _HARMLESS):
      continue
    before, after = old_leaves.get(field), new_leaves.get(field)
    if before != after:
      lines.append(f'{field}: {before!r} -> {after!r}')
  return lines


def other_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
  """`difference` of two configs, where `old` may be of an earlier version.

  A field that is younger than the old one had its default.
  """
  defaults = _leaves(common.base().to_dict())
  return difference(defaults | _leaves(old), new)


@contextlib.contextmanager
def owned(workdir: pathlib.Path) -> Iterator[None]:
  """Keeps other runs out of a workdir; a process that dies gives it back.

  Raises:
    ValueError: another run is at work there; says which.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  path = workdir / '.lock'
  with path.open('a+') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      if error.errno not in (errno.EAGAIN, errno.EACCES):
        raise
      file.seek(0)
      raise ValueError(
        f'{workdir} is in use by {file.read().strip() or "another run"}: wait'
        ' for it, or choose another --workdir'
      ) from error
    file.truncate(0)
    file.write(f'process {os.getpid()} on {platform.node()}\n')
    file.flush()
    yield
    file.truncate(0)


def check_place(workdir: pathlib.Path, roots: Iterable[str]) -> None:
  """Checks that a run would write over nothing but what a run has written.

  Args:
    workdir: the run's folder.
    roots: of the scans.

  Raises:
    ValueError: naming what lies there.
  """
  if (workdir / '.lock').exists() or started(workdir):
    return
  found = [name for name in _WRITTEN if os.path.lexists(workdir / name)]
  if destination.real(workdir) in map(destination.real, roots):
    found = ['the scans']
  if found:
    raise ValueError(
      f'{workdir} holds {", ".join(found)} and is no run: choose another'
      ' --workdir'
    )


def started(workdir: pathlib.Path) -> bool:
  """Whether a workdir holds a checkpoint, its own or a modality's."""
  own = workdir.glob('checkpoints/[0-9]*')
  return any(own) or any(workdir.glob('*/checkpoints/[0-9]*'))


def _refuse(workdir: pathlib.Path, what: str, lines: list[str]) -> None:
  if lines:
    raise ValueError(
      f'{workdir} holds a run {what}:\n  '
      + '\n  '.join(lines)
      + '\nChoose another --workdir, or bring those back.'
    )


def check_data(workdir: pathlib.Path, fingerprint: Mapping[str, Any]) -> None:
  """Checks that a workdir's run was started with the same data.

  Args:
    workdir: of a run that is resumed.
    fingerprint: of the prepared data.

  Raises:
    ValueError: naming what differs.
  """
  old = RunFolder(workdir, _REMEDY).record['data']
  _refuse(workdir, 'on other data', difference(old, fingerprint))


def check_resumable(workdir: pathlib.Path, problem: Problem) -> list[str]:
  """Checks that a workdir's run was started with the same settings.

  Args:
    workdir: the run's folder.
    problem: as it is wanted now.

  Returns:
    Sentences on what differs and may.

  Raises:
    ValueError: naming each field that differs and may not, or that there is
      nothing to test.
  """
  config = problem.config
  if not started(workdir):
    if config.eval_only:
      raise ValueError(f'eval_only: no run in {workdir}; train there first')
    return []
  folder = RunFolder(workdir, _REMEDY)
  old, record = folder.read(run_folder.CONFIG), folder.record
  lines = other_settings(old, config.to_dict())
  now = {'modalities': list(problem.names), 'classes': list(problem.classes)}
  for name, value in now.items():
    if record[name] != value:
      before, after = ', '.join(record[name]), ', '.join(value)
      lines.append(f'{name}: {before} -> {after}')
  if config.epochs < old['epochs']:
    lines.append(f'epochs: {old["epochs"]} -> {config.epochs} (fewer)')
  _refuse(workdir, 'with other settings', lines)
  notes = []
  if config.epochs > old['epochs']:
    notes.append(
      f'epochs: {old["epochs"]} -> {config.epochs}: learning rate and ramp'
      ' follow the new length from here on'
    )
  if record['threads'] != _threads():
    notes.append(
      f'threads: {record["threads"]} -> {_threads()}: the last bits of CPU'
      ' results depend on their number (set NPROC)'
    )
  return notes


def added(workdir: pathlib.Path) -> list[str]:
  """Modalities whose bank rows alone a run trains; see `save`."""
  return RunFolder(workdir, _REMEDY).record.get('added', [])


def _threads() -> str:
  """Threads that XLA computes with on CPU."""
  return os.environ.get('NPROC', str(os.cpu_count()))


def _commit() -> str:
  """The git commit of the code, '' outside a checkout."""
  try:
    return subprocess.run(
      ['git', 'rev-parse', 'HEAD'],
      cwd=pathlib.Path(__file__).parent,
      capture_output=True,
      text=True,
      check=True,
    ).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return ''


@functools.cache
def version() -> str:
  """The program's version, and the commit of a checkout."""
  commit = _commit()
  return __version__ + (f'+{commit[:12]}' if commit else '')


def versions() -> dict[str, Any]:
  """Versions of the packages, and the commit of the code."""
  return {
    'packages': {p: importlib.metadata.version(p) for p in _PACKAGES},
    'commit': _commit(),
  }


def save(
  workdir: pathlib.Path,
  problem: Problem,
  prepared: Prepared,
  added: Sequence[str],
) -> None:
  """Writes config.json, run.json and task.json.

  Args:
    workdir: the run's folder.
    problem: the run's.
    prepared: the prepared data; bad scans are left out of it.
    added: modalities whose bank rows alone are trained.
  """
  task = problem.task.with_planes(prepared.planes)
  write_json(workdir / run_folder.CONFIG, problem.config.to_dict())
  task_file.write(task_file.to_dict(task), workdir / run_folder.TASK)
  write_json(
    workdir / run_folder.RECORD,
    {
      **versions(),
      'modalities': list(problem.names),
      'classes': list(task.classes),
      'devices': parallel.describe(),
      'threads': _threads(),
      'data': prepared.fingerprint,
      'skipped_scans': prepared.skipped,
      'added': list(added),
    },
  )
