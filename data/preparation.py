"""Scans prepared once: checked, resampled, cached as ArrayRecord."""

from collections.abc import Sequence
import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

from data import task_file
from data.cache import builder, record_writer
from data.cache.prepared import META, Prepared
from data.files import atomic, destination, errors, progress
from data.formats.scan_error import ScanError, table
from data.readers import find_cases
from data.task import Case, Modality, Task

# Part of the cache's key: raise it when prepared data would change, or when a
# scan would be refused that was not.
VERSION = 5


class BadScans(errors.Refusal):
  """Scans that cannot be used.

  Attributes:
    errors: a `ScanError` each.
  """

  def __init__(self, found: Sequence[ScanError]):
    self.errors = list(found)
    super().__init__(
      f'{len(self.errors)} scans cannot be used\n'
      + table(found)
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
        facts: tuple = (file, stat.st_size, stat.st_mtime_ns)
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
    remedy = 'choose another folder for prepared data (--config.data.cache=DIR,'
    raise ValueError(f'{place} holds the scans: {remedy} --cache DIR)')


def prepare(
  task: Task | str,
  modalities: Sequence[Modality] | str,
  roots: dict[str, str],
  *,
  slice_size: int | None = None,
  roi: str | None = None,
  cache: str = '',
  skip_bad: bool = False,
  include_unlabeled: bool = False,
  quiet: bool = False,
) -> Prepared:
  """Prepares scans, or finds them prepared.

  The result lies in the cache under a hash of the settings and of the input
  files' names, sizes and times. It appears there whole or not at all.

  Args:
    task: what is segmented: heart, abdomen, or the path of a dataset.json.
    modalities: in bank order; names, e.g. 'ct,t2', '' being all of the task.
    roots: archive -> folder, e.g. {'btcv': DIR, 'chaos': DIR}.
    slice_size: side of the prepared slices; the task's by default.
    roi: 'label' or 'none'; the task's by default.
    cache: folder, '' for the user's cache folder.
    skip_bad: go on without scans that cannot be used.
    include_unlabeled: also the archives' own test scans.
    quiet: no progress bar.

  Raises:
    BadScans: with every bad scan of all archives.
    OSError: the cache took no more; nothing of the data stays there.
  """
  if isinstance(task, str):
    task = task_file.find(task)
  if isinstance(modalities, str):
    modalities = task.select(modalities)
  slice_size, roi = slice_size or task.slice_size, roi or task.roi
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
  if not (folder / META).exists():
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
      left = [
        {'file': e.file, 'note': f'left out, {e.reason}'}
        for e in found.left_out
      ]
      meta = {
        'cases': [dataclasses.asdict(case) for case in writer.meta],
        'fingerprint': writer.fingerprint(),
        'planes': {m.name: m.plane for m in modalities},
        'notes': writer.notes + left,
        'skipped': [vars(e) for e in bad],
      }
      (temporary / META).write_text(json.dumps(meta) + '\n')
  return Prepared(folder)


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
