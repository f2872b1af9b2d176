r"""Prepares scans once: checked, resampled, cached as ArrayRecord.

  python -m data.prepare --task abdomen --root btcv=DIR --root chaos=DIR \
      --modalities ct,t2
      prepares; prints what it found, and every scan that cannot be used
  python -m data.prepare --init DIR
      writes a first DIR/dataset.json from the scans below DIR
  python -m data.prepare --check DIR [--config configs/abdomen.py] [--json]
      only reads every scan, and says what it is or what is wrong with it

Exit codes: 0 all scans are sound, 1 some are not, 2 a wrong command line.
"""

import argparse
from collections.abc import Sequence
import contextlib
import dataclasses
import hashlib
import importlib
import json
import os
import pathlib
import runpy
import sys
from typing import Any

from data import (
  atomic,
  builder,
  folder,
  integrity,
  planes,
  progress,
  record_writer,
  task_file,
)
from data.prepared import META, Prepared, summary
from data.scan_error import ScanError, table
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


def find_cases(
  modalities: Sequence[Modality],
  roots: dict[str, str],
  include_unlabeled: bool = False,
) -> list[Case]:
  """All cases of the modalities, by modality and then as the reader sorts.

  Args:
    modalities: in bank order.
    roots: archive -> folder.
    include_unlabeled: also the archives' own test scans.

  Raises:
    ScanError: an archive is not where it should be, or a scan is there twice.
  """
  found = []
  for source in dict.fromkeys(m.source for m in modalities):
    reader = importlib.import_module(f'data.{source}')
    mine = [m for m in modalities if m.source == source]
    found += reader.cases(roots[source], mine, include_unlabeled)
  seen: dict[tuple[str, str], Case] = {}
  for case in found:
    other = seen.setdefault((case.modality, case.name), case)
    if other is not case:
      raise ScanError(
        case.files[0],
        f'the same scan as {other.files[0]}',
        'remove one of them',
      )
  order = {m.name: k for k, m in enumerate(modalities)}
  return sorted(found, key=lambda case: order[case.modality])


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
    cases = find_cases(modalities, roots, include_unlabeled)
  except ScanError as error:
    raise BadScans([error]) from error
  settings = {
    'slice_size': slice_size,
    'roi': roi,
    'modalities': [m._asdict() for m in modalities],
    'skip_bad': skip_bad,
  }
  folder = cache_folder(cache) / f'{task.name}-{_key(task, cases, settings)}'
  if (folder / META).exists():
    prepared = Prepared(folder)
    if not quiet:
      print(summary(prepared))
    return prepared
  with atomic.filling(folder, (folder / META).exists) as temporary:
    modalities = decide_planes(modalities, cases)
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
    if writer.errors and not skip_bad:
      raise BadScans(writer.errors)
    _check_left(sources, writer)
    meta = {
      'cases': [dataclasses.asdict(case) for case in writer.meta],
      'fingerprint': writer.fingerprint(),
      'planes': {m.name: m.plane for m in modalities},
      'notes': writer.notes,
      'skipped': [
        {'file': e.file, 'reason': e.reason, 'remedy': e.remedy}
        for e in writer.errors
      ],
    }
    (temporary / META).write_text(json.dumps(meta) + '\n')
  prepared = Prepared(folder)
  if not quiet:
    print(summary(prepared))
  return prepared


def decide_planes(
  modalities: Sequence[Modality], cases: Sequence[Case]
) -> list[Modality]:
  """Decides how each modality's scans are cut, by the headers of all of them.

  Args:
    modalities: some of whose planes may be 'acquired'.
    cases: their scans; bad ones have no say.
  """
  decided = []
  for modality in modalities:
    affines = []
    for case in cases:
      asked = modality.plane == planes.ACQUIRED and case.affine is not None
      if asked and case.modality == modality.name:
        with contextlib.suppress(ScanError):
          affines.append(case.affine())
    plane = planes.decide(modality.plane, affines)
    decided.append(modality._replace(plane=plane))
  return decided


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
  add('--modalities', default='', help='e.g. ct,t2 (all)')
  add('--cache', default='', help='default: the user cache')
  add('--skip-bad', action='store_true', help='go on without bad scans')
  flags = parser.parse_args(argv)
  if sum(map(bool, (flags.task, flags.init, flags.check))) != 1:
    parser.error('give one of --task, --init DIR and --check DIR')
  return flags


def _init(root: pathlib.Path) -> None:
  """Writes a first dataset.json, and says what to look at."""
  path = root / folder.TASK_FILE
  if path.exists():
    raise ValueError(f'{path} is there already: edit it, or move it away')
  with progress.bar(False) as bar:
    job = bar.add_task('reading scans', total=integrity.count_scans(root))
    found = integrity.first_task(root, lambda: bar.advance(job))
  task_file.write(found, path)
  print(f'{path}:\n{json.dumps(found, indent=2)}')
  print(
    'Look it over: class names (equal names are one class in all modalities),'
    ' intensity window, slice_size.'
  )


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
    task = task_file.find(str(pathlib.Path(flags.check) / folder.TASK_FILE))
    roots = {m.source: flags.check for m in task.modalities}
  needed = {m.source for m in task.select(flags.modalities)}
  missing = needed - {source for source, root in roots.items() if root}
  if missing:
    raise ValueError(f'no --root for {", ".join(sorted(missing))}')
  return task, roots


def _check(task: Task, roots: dict[str, str], flags) -> int:
  """The integrity table; 1 if anything is wrong."""
  cases = find_cases(task.select(flags.modalities), roots)
  with progress.bar(flags.json) as bar:
    job = bar.add_task('reading scans', total=len(cases))
    facts, errors = integrity.check(cases, lambda: bar.advance(job))
  if flags.json:
    bad = [vars(error) for error in errors]
    print(json.dumps({'scans': facts, 'bad': bad}, indent=2))
  else:
    print(integrity.text(facts, task))
    print(f'{len(facts)} of {len(cases)} scans are sound')
    if errors:
      print(table(errors), file=sys.stderr)
  return int(bool(errors))


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns its exit code."""
  flags = _flags(argv)
  try:
    if flags.init:
      _init(pathlib.Path(flags.init))
      return 0
    task, roots = _settings(flags)
    if flags.check:
      return _check(task, roots, flags)
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
    print(table([error]), file=sys.stderr)
    return 1
  except (BadScans, ValueError, OSError) as error:
    print(error, file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())
