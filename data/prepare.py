r"""Prepares scans once: checked, resampled, cached as ArrayRecord.

  python -m data.prepare --task abdomen --root btcv=DIR --root chaos=DIR \
      --modalities ct,t2
      prepares; prints what it found, and every scan that cannot be used
  python -m data.prepare --init DIR
      writes a first DIR/dataset.json from the scans below DIR; nnU-Net's own
      stays, and is read as it is
  python -m data.prepare --check DIR [--config configs/abdomen.py] [--json]
      only reads every scan, and says what it is or what is wrong with it; a
      DIR without a dataset.json is checked as --init would write it

Exit codes: 0 all scans are sound, 1 training would refuse or misunderstand
some, 2 a wrong command line.
"""

import argparse
from collections.abc import Sequence
import pathlib
from typing import TYPE_CHECKING

from data.files import command

if TYPE_CHECKING:
  from data.task import Task


def _flags() -> argparse.ArgumentParser:
  parser = command.parser('data.prepare', __doc__)
  add = parser.add_argument
  what = parser.add_mutually_exclusive_group(required=True)
  one_of = what.add_argument
  one_of('--task', help='heart, abdomen, or the path of a dataset.json')
  one_of('--init', metavar='DIR', help='write DIR/dataset.json')
  one_of('--check', metavar='DIR', help='read every scan, prepare none')
  roots = 'folder of mmwhs, btcv or chaos; may be repeated'
  add('--root', action='append', default=[], metavar='SOURCE=DIR', help=roots)
  add(
    '--config',
    metavar='FILE',
    help='with --check: a config whose task DIR holds, e.g. configs/abdomen.py'
    ' (default: the task of DIR/dataset.json)',
  )
  add('--json', action='store_true', help='with --check: as JSON')
  add(
    '--series',
    default='',
    help='with --init, and --check without a dataset.json: which one of DICOM'
    ' folders that hold several, by description or number',
  )
  add('--modalities', default='', help='e.g. ct,t2 (all)')
  add('--cache', default='', help='default: the user cache')
  add('--skip-bad', action='store_true', help='go on without bad scans')
  return parser


def _settings(flags: argparse.Namespace) -> tuple['Task', dict[str, str]]:
  """The task, and the folder of each of its sources."""
  import runpy

  from data import task_file

  if flags.task:
    task = task_file.find(flags.task)
    roots = dict(pair.split('=', 1) for pair in flags.root if '=' in pair)
    if flags.task.endswith('.json'):
      roots.setdefault('folder', str(pathlib.Path(flags.task).parent))
  elif flags.config:
    path, _, argument = flags.config.partition(':')
    # A config is a program; what it needs to know is where the scans are.
    make = runpy.run_path(path)['get_config']
    pairs = [argument] if argument else []
    if 'scans=' not in argument:
      pairs.append(f'scans={flags.check}')
    config = make(','.join(pairs))
    task = task_file.find(config.task)
    roots = {m.source: config.data[m.source] for m in task.modalities}
  else:
    task = _task_of(pathlib.Path(flags.check), flags)
    roots = {m.source: flags.check for m in task.modalities}
  needed = {m.source for m in task.select(flags.modalities)}
  missing = needed - {source for source, root in roots.items() if root}
  if missing:
    raise ValueError(f'no --root for {", ".join(sorted(missing))}')
  return task, roots


def _task_of(root: pathlib.Path, flags: argparse.Namespace) -> 'Task':
  """The task of a folder; without a dataset.json, what --init would write."""
  from data import checking, task_file
  from data.readers import folder

  path = root / folder.TASK_FILE
  if path.exists() or path.is_symlink():
    return task_file.find(str(path))
  found = checking.guess(root, flags.series, flags.json)
  notes = [f'no {path} yet: checked as --init would write it', *found.notes]
  command.tell('\n'.join(notes))
  return task_file.from_dict(found.content, root.absolute().name)


def _check(flags: argparse.Namespace) -> int:
  """Looks at every scan; 1 if anything is wrong."""
  from data import checking
  from data.first_task import BadFirst
  from data.formats.scan_error import ScanError
  from data.readers import find_cases

  try:
    task, roots = _settings(flags)
    task = task._replace(modalities=task.select(flags.modalities))
    found = find_cases.look(task.modalities, roots)
  except (ScanError, BadFirst) as error:
    if not flags.json:
      raise
    if isinstance(error, BadFirst):
      checking.print_json([], error.errors, error.left_out)
    else:
      checking.print_json([], [error])
    return 1
  return checking.check(task, found, where=flags.check, as_json=flags.json)


def _prepare(flags: argparse.Namespace) -> int | None:
  """Everything behind the command line."""
  from data import checking, preparation
  from data.cache import prepared

  if not (flags.task or flags.init or flags.check):
    raise command.WrongFlags('--task, --init and --check need a value')
  if flags.init:
    return checking.init(pathlib.Path(flags.init), flags.series)
  if flags.check:
    return _check(flags)
  task, roots = _settings(flags)
  found = preparation.prepare(
    task, flags.modalities, roots, cache=flags.cache, skip_bad=flags.skip_bad
  )
  print(prepared.summary(found))
  return 0


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns its exit code."""
  return command.run(_flags, _prepare, argv)


if __name__ == '__main__':
  command.leave(main())
