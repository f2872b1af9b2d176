r"""Prepares scans once: checked, resampled, cached as ArrayRecord.

  python -m data.prepare --task abdomen --root btcv=DIR --root chaos=DIR \
      --modalities ct,t2

prints what it found, and a table of every scan that cannot be used.
"""

import argparse
from collections.abc import Iterator, Sequence
import dataclasses
import hashlib
import importlib
import json
import os
import pathlib
import sys
from typing import Any

import numpy as np

from data import atomic, builder, preprocess, progress
from data.prepared import META, Prepared, PreparedCase, summary
from data.scan_error import ScanError, table
from data.task import TASKS, Case, Modality, Task

# Part of the cache's key: raise it when prepared data would change, or when a
# scan would be refused that was not.
VERSION = 2


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


class _Writer:
  """Turns cases into records, and remembers what it saw."""

  def __init__(self, task, modalities, cases, roi, slice_size, advance):
    self._task, self._modalities = task, {m.name: m for m in modalities}
    self._cases, self._advance = cases, advance
    self._roi, self._slice_size = roi, slice_size
    self.meta: list[PreparedCase] = []
    self.errors: list[ScanError] = []
    self._histograms: dict[str, np.ndarray] = {}

  def records(self, modality: str) -> Iterator[dict[str, Any]]:
    """The records of a modality, one scan in memory at a time."""
    offset = 0
    for case in self._cases:
      if case.modality != modality:
        continue
      try:
        scan = case.read()
      except ScanError as error:
        self.errors.append(error)
        self._advance()
        continue
      ready = preprocess.prepare_scan(
        scan,
        self._modalities[modality],
        roi=self._roi,
        slice_size=self._slice_size,
      )
      self._remember(case, scan, ready, offset)
      offset += len(ready.images)
      for index, image in enumerate(ready.images):
        yield {
          'image': image,
          'label': ready.labels[index],
          'native_label': ready.native_labels[index],
          'case': case.name,
          'patient': case.patient,
          'modality': modality,
          'slice': index,
        }
      self._advance()

  def _remember(self, case, scan, ready, offset):
    classes = len(self._task.classes)
    counts = np.bincount(ready.labels.ravel(), minlength=classes)
    histogram = np.bincount(ready.images.ravel() >> 6, minlength=1024)
    before = self._histograms.get(case.modality, 0)
    self._histograms[case.modality] = before + histogram
    self.meta.append(
      PreparedCase(
        name=case.name,
        patient=case.patient,
        modality=case.modality,
        labeled=scan.label is not None,
        num_slices=len(ready.images),
        offset=offset,
        geometry=ready.geometry,
        spacing=ready.spacing,
        mm_per_pixel=ready.geometry['mm_per_pixel'],
        voxels_per_class=[int(n) for n in counts],
        content=hashlib.sha256(ready.images.tobytes()).hexdigest(),
      )
    )

  def fingerprint(self) -> dict[str, Any]:
    """Per modality what the data is, and a hash of all of it."""
    out: dict[str, Any] = {}
    for name in self._modalities:
      mine = [case for case in self.meta if case.modality == name]
      if not mine:
        continue
      share = np.cumsum(self._histograms[name]) / self._histograms[name].sum()
      voxels = np.sum([case.voxels_per_class for case in mine], 0)
      spacing = np.array([case.spacing for case in mine])
      out[name] = {
        'cases': len(mine),
        'labeled': sum(case.labeled for case in mine),
        'slices': sum(case.num_slices for case in mine),
        'median_spacing_mm': np.median(spacing, 0).round(4).tolist(),
        'mm_per_pixel': float(np.median([case.mm_per_pixel for case in mine])),
        'intensity_percentiles': {
          str(q): round(float(np.searchsorted(share, q / 100) / 1023), 4)
          for q in (5, 25, 50, 75, 95)
        },
        'voxels_per_class': dict(
          zip(self._task.classes, map(int, voxels), strict=True)
        ),
      }
    contents = ''.join(case.content for case in self.meta)
    out['hash'] = hashlib.sha256(contents.encode()).hexdigest()
    return out


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
    with progress.bar(quiet) as bar:
      job = bar.add_task('preparing scans', total=len(cases))
      writer = _Writer(
        task, modalities, cases, roi, slice_size, lambda: bar.advance(job)
      )
      sources = {m.name: writer.records(m.name) for m in modalities}
      _write_or_collect(writer, temporary, slice_size, sources, skip_bad)
    if writer.errors and not skip_bad:
      raise BadScans(writer.errors)
    _check_left(sources, writer)
    meta = {
      'cases': [dataclasses.asdict(case) for case in writer.meta],
      'fingerprint': writer.fingerprint(),
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


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns its exit code."""
  parser = argparse.ArgumentParser(
    prog='python -m data.prepare',
    description='Checks and prepares scans, and prints what they are.',
  )
  parser.add_argument('--task', required=True, choices=sorted(TASKS))
  parser.add_argument(
    '--root',
    action='append',
    required=True,
    metavar='ARCHIVE=DIR',
    help='folder of an archive: mmwhs, btcv or chaos; may be repeated',
  )
  parser.add_argument('--modalities', default='', help='e.g. ct,t2 (all)')
  parser.add_argument('--cache', default='', help='default: the user cache')
  parser.add_argument('--skip-bad', action='store_true')
  flags = parser.parse_args(argv)
  task = TASKS[flags.task]
  try:
    modalities = task.select(flags.modalities)
    roots = dict(pair.split('=', 1) for pair in flags.root)
    missing = {m.source for m in modalities} - roots.keys()
    if missing:
      raise ValueError(f'no --root for {", ".join(sorted(missing))}')
    prepare(
      task,
      modalities,
      roots,
      slice_size=task.slice_size,
      roi=task.roi,
      cache=flags.cache,
      skip_bad=flags.skip_bad,
    )
  except (BadScans, ValueError, OSError) as error:
    print(error, file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())
