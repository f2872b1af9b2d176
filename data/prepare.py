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
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import runpy
import sys
from typing import Any

from data import checking, task_file
from data.cache import builder, record_writer
from data.cache.prepared import META, Prepared, summary
from data.files import atomic, destination, progress
from data.formats.scan_error import ScanError, table
from data.readers import find_cases, folder
from data.task import Case, Modality, Task

# Part of the cache's key: raise it when prepared data would change, or when a
# scan would be refused that was not.
VERSION = 5


class BadScans(Exception):  # noqa: N818  Reads better where it is caught.
  """Scans that cannot be used.

  Attributes:
    errors: a `ScanError` each.
  """

  def __init__(self, errors: Sequence[ScanError]):
    self.errors = list(errors)
    super().__init__(
      f'{len(self.errors)} scans cannot be used\n'
      + table(errors)
      + '\nMend or remove them, or go on without them:'
      ' --config.data.skip_bad=true'
    )


def cache_folder(cache: str = '') -> pathlib.Path:
  """Where prepared data is kept; '' is the user's cache folder."""
  if cache:
    return pathlib.Path(cache).expanduser().absolute()
  home = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return pathlib.Path(home).expanduser().absolute() / 'dbdc_jax'


def _key(task: Task, cases: Sequence[Case], settings: dict[str, Any]) -> str:
  """Hash of everything that the prepared data depends on."""
  digest = hashlib.sha256()
  digest.update(json.dumps([VERSION, task.name, settings]).encode())
  for case in cases:
    digest.update(repr((case.name, case.modality)).encode())
    for file in case.files:
      try:
        stat = os.stat(file)
        facts = (file, stat.st_size, stat.st_mtime_ns)
      except OSError as error:  # Reading it will say so, in the table.
        facts = (file, error.errno)
      digest.update(repr(facts).encode())
  return digest.hexdigest()[:16]


def _check_cache(
  place: pathlib.Path, cases: Sequence[Case], roots: dict[str, str]
) -> None:
  """Refuses to prepare into the folders of the scans.

  Raises:
    ValueError: the cache is one of them.
  """
  place = destination.real(place)
  homes = {destination.real(f).parent for case in cases for f in case.files}
  homes |= {destination.real(root) for root in roots.values() if root}
  if place in homes:
    raise ValueError(
      f'{place} holds the scans: choose another folder for prepared data'
      ' (--config.data.cache=DIR, --cache DIR)'
    )


def prepare(
  task: Task,
  modalities: Sequence[Modality],
  roots: dict[str, str],
  *,
  slice_size: int,
  roi: str,
  cache: str = '',
  skip_bad: bool = False,
  include_unlabeled: bool = False,
  quiet: bool = False,
) -> Prepared:
  """Prepares scans, or finds them prepared.

  The result lies in the cache under a hash of the settings and of the input
  files' names, sizes and times. It appears there whole or not at all.

  Args:
    task: what is segmented.
    modalities: in bank order.
    roots: archive -> folder.
    slice_size: side of the prepared slices.
    roi: 'label' or 'none'.
    cache: folder, '' for the user's cache folder.
    skip_bad: go on without scans that cannot be used.
    include_unlabeled: also the archives' own test scans.
    quiet: no progress bar, no messages.

  Raises:
    BadScans: with every bad scan of all archives.
    OSError: the cache took no more; nothing of the data stays there.
  """
  try:
    found = find_cases.look(modalities, roots, include_unlabeled)
  except ScanError as error:
    raise BadScans([error]) from error
  cases = found.cases
  _check_cache(cache_folder(cache), cases, roots)
  settings = {
    'slice_size': slice_size,
    'roi': roi,
    'modalities': [m._asdict() for m in modalities],
    'skip_bad': skip_bad,
    'left': [vars(e) for e in (*found.problems, *found.left_out)],
  }
  folder = cache_folder(cache) / f'{task.name}-{_key(task, cases, settings)}'
  if (folder / META).exists():
    prepared = Prepared(folder)
    if not quiet:
      print(summary(prepared))
    return prepared
  with atomic.filling(folder, (folder / META).exists) as temporary:
    modalities = find_cases.decide_planes(modalities, cases)
    with progress.bar(quiet) as bar:
      job = bar.add_task('preparing scans', total=len(cases))
      writer = record_writer.RecordWriter(
        task,
        modalities,
        cases,
        roi=roi,
        slice_size=slice_size,
        advance=lambda: bar.advance(job),
      )
      sources = {m.name: writer.records(m.name) for m in modalities}
      _write_or_collect(writer, temporary, slice_size, sources, skip_bad)
    bad = found.problems + writer.errors
    if bad and not skip_bad:
      raise BadScans(bad)
    _check_left(sources, writer)
    meta = {
      'cases': [dataclasses.asdict(case) for case in writer.meta],
      'fingerprint': writer.fingerprint(),
      'planes': {m.name: m.plane for m in modalities},
      'notes': writer.notes
      + [
        {'file': e.file, 'note': f'left out, {e.reason}'}
        for e in found.left_out
      ],
      'skipped': [vars(e) for e in bad],
    }
    (temporary / META).write_text(json.dumps(meta) + '\n')
  prepared = Prepared(folder)
  if not quiet:
    print(summary(prepared))
  return prepared


def _write_or_collect(writer, temporary, slice_size, sources, skip_bad):
  """Writes the records; a modality without any good scan stops the writing."""
  try:
    builder.write(str(temporary), slice_size, sources)
  except Exception:
    if not writer.errors:
      raise
    # Nothing could be written; the table is what matters. Read the rest.
    for records in sources.values():
      for _ in records:
        pass
    if skip_bad:
      _check_left(sources, writer)
      raise  # Bad scans were no reason to stop: this is another error.


def _check_left(names, writer):
  """Every modality must have a good scan left."""
  if set(names) - {case.modality for case in writer.meta}:
    raise BadScans(writer.errors)


def _flags(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog='python -m data.prepare',
    formatter_class=argparse.RawDescriptionHelpFormatter,
    description=__doc__,
  )
  add = parser.add_argument
  add('--task', help='heart, abdomen, or the path of a dataset.json')
  add(
    '--root',
    action='append',
    default=[],
    metavar='SOURCE=DIR',
    help='folder of mmwhs, btcv or chaos; may be repeated',
  )
  add('--init', metavar='DIR', help='write a first DIR/dataset.json')
  add('--check', metavar='DIR', help='read every scan, prepare none')
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
  flags = parser.parse_args(argv)
  if sum(map(bool, (flags.task, flags.init, flags.check))) != 1:
    parser.error('give one of --task, --init DIR and --check DIR')
  return flags


def _settings(flags: argparse.Namespace) -> tuple[Task, dict[str, str]]:
  """The task, and the folder of each of its sources."""
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


def _task_of(root: pathlib.Path, flags: argparse.Namespace) -> Task:
  """The task of a folder; without a dataset.json, what --init would write."""
  path = root / folder.TASK_FILE
  if path.exists() or path.is_symlink():
    return task_file.find(str(path))
  found = checking.guess(root, flags.series, flags.json)
  print(f'no {path} yet: checked as --init would write it', file=sys.stderr)
  for note in found.notes:
    print(note, file=sys.stderr)
  return task_file.from_dict(found.content, root.absolute().name)


def _check(flags) -> int:
  """Looks at every scan; 1 if anything is wrong."""
  task, roots = _settings(flags)
  chosen = task.select(flags.modalities)
  task = task._replace(modalities=chosen)
  found = find_cases.look(chosen, roots)
  return checking.check(task, found, where=flags.check, as_json=flags.json)


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns its exit code."""
  flags = _flags(argv)
  for stream in (sys.stdout, sys.stderr):
    # Names may have letters that the terminal's encoding lacks.
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='backslashreplace')
  try:
    if flags.init:
      return checking.init(pathlib.Path(flags.init), flags.series)
    if flags.check:
      return _check(flags)
    task, roots = _settings(flags)
    prepare(
      task,
      task.select(flags.modalities),
      roots,
      slice_size=task.slice_size,
      roi=task.roi,
      cache=flags.cache,
      skip_bad=flags.skip_bad,
    )
  except ScanError as error:
    return checking.refuse([error], as_json=flags.json)
  except checking.BadFirst as error:
    return checking.refuse(error.errors, error.left_out, flags.json)
  except (BadScans, ValueError, OSError) as error:
    print(error, file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())
