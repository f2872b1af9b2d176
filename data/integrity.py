"""Looking at scans without preparing them: what is there, and what is wrong.

Refused is whatever training would refuse or misunderstand. Of each scan alone:
what cannot be read, and CT that is not in Hounsfield units. Of a modality: a
scan that is cut in another view than most, or whose pixels or slices are
`FAR` times as large or as small as those of most. Of the data set: a scan that
is there as two patients', classes that are one by accident, too few labelled
patients.
"""

import collections
from collections.abc import Callable, Sequence
import hashlib
import re
from typing import Any

import numpy as np
from rich.cells import cell_len

from data import split
from data.files import names
from data.formats.scan_error import ScanError
from data.preprocessing import hounsfield, planes, preprocess
from data.task import UNKNOWN, Case, Modality, Scan, Task

# Scans of a modality whose median pixel or slice distance differs by more from
# this one's are another kind of scan, or their header is wrong.
FAR = 3.0
_PLANE = (
  'give these scans a modality of their own, or write "plane" into dataset.json'
)
_SIZES = (
  'correct the voxel sizes in its header, or give such scans a modality of'
  ' their own'
)
# Columns of the table are not wider.
_WIDEST = 40
# What `--init` calls a class that has no name.
_NAMELESS = re.compile(r'class -?\d+')


def _facts(case: Case, scan: Scan, modality: Modality) -> dict[str, Any]:
  sizes = np.linalg.norm(scan.affine[:3, :3], axis=0)
  found, open_ = None, 0.0
  if scan.label is not None:
    found = [c for c in np.unique(scan.label).tolist() if c not in (0, UNKNOWN)]
    open_ = float(np.mean(scan.label == UNKNOWN))
  window = modality.intensity.window
  in_hu = window is not None and window[0] < 0
  return {
    'case': case.name,
    'patient': case.patient,
    'modality': case.modality,
    'file': case.files[0],
    'shape': [int(n) for n in scan.image.shape],
    'spacing_mm': [round(float(mm), 4) for mm in sizes],
    'affine': scan.affine.tolist(),
    'intensity': [float(scan.image.min()), float(scan.image.max())],
    'classes': found,
    'drawn': scan.drawn and list(scan.drawn),
    'not_looked_at': round(open_, 4),
    'notes': list(scan.notes),
    'content': hashlib.sha256(scan.image.tobytes()).hexdigest(),
    'doubt': hounsfield.doubt(scan.image) if in_hu else '',
  }


def _cut(rows: Sequence[dict[str, Any]], modality: Modality) -> None:
  """Adds how each scan of a modality is cut into slices."""
  affines = [np.array(row['affine']) for row in rows]
  plane = planes.decide(modality.plane, affines)
  for row, affine in zip(rows, affines, strict=True):
    spacing = preprocess.reoriented_spacing(affine, plane)
    turned = planes.orientation(affine, plane)[:, 0].astype(int)
    axis = turned.tolist().index(0)
    row['plane'] = planes.cut(affine, plane)
    row['slices'] = row['shape'][axis]
    row['slice_mm'] = round(spacing[0], 4)
    row['pixel_mm'] = [round(mm, 4) for mm in spacing[1:]]


def check(
  task: Task, cases: Sequence[Case], advance: Callable[[], None], where: str
) -> tuple[list[dict[str, Any]], list[ScanError]]:
  """Reads every scan as a preparation would, and keeps nothing.

  Args:
    task: what they are scans of.
    cases: what is read.
    advance: called after each.
    where: the data set's file or folder, for what is wrong with all of it.

  Returns:
    A dict of facts for each scan that can be read, and an error for whatever
    training would refuse or misunderstand.
  """
  kinds = {m.name: m for m in task.modalities}
  facts, errors = [], []
  for case in cases:
    try:
      facts.append(_facts(case, case.read(), kinds[case.modality]))
    except ScanError as error:
      errors.append(error)
    advance()
  for name, modality in kinds.items():
    rows = [row for row in facts if row['modality'] == name]
    if rows:
      _cut(rows, modality)
      errors += _unequal(rows, name)
  for row in facts:
    remedy = 'export it in HU, or give it a modality of its own: the window of'
    remedy += f' {row["modality"]} is in HU'
    if row['doubt']:
      errors.append(ScanError(row['file'], row['doubt'], remedy))
  errors += _twice(facts)
  errors += _accidental(task, cases, where)
  read = {row['case'] for row in facts}
  errors += _few([c for c in cases if c.name in read], where)
  return facts, errors


def _unequal(rows: Sequence[dict[str, Any]], name: str) -> list[ScanError]:
  """Scans that are not cut as most of their modality are."""
  views = collections.Counter(row['plane'] for row in rows)
  ((most, _),) = views.most_common(1)
  out, same = [], [row for row in rows if row['plane'] == most]
  for row in rows:
    if row['plane'] != most:
      reason = f'cut into {row["plane"]} slices, most scans of {name} into'
      out.append(ScanError(row['file'], f'{reason} {most} ones', _PLANE))
  for what, sizes in (
    ('slice distance', [row['slice_mm'] for row in same]),
    ('pixels', [max(row['pixel_mm']) for row in same]),
  ):
    median = float(np.median(sizes))
    for row, size in zip(same, sizes, strict=True):
      if max(size / median, median / size) > FAR:
        reason = f'{what} of {size:.4g} mm, of most scans of {name}'
        out.append(ScanError(row['file'], f'{reason} {median:.4g} mm', _SIZES))
  return out


def _twice(rows: Sequence[dict[str, Any]]) -> list[ScanError]:
  """Scans that are there twice, as those of two patients."""
  out = []
  seen: dict[str, dict[str, Any]] = {}
  for row in rows:
    other = seen.setdefault(row['content'], row)
    if other['patient'] != row['patient']:
      reason = f'the same voxels as {other["file"]}, of another patient'
      remedy = 'remove one of them, or name one patient for both in "patients"'
      out.append(ScanError(row['file'], reason, remedy))
  return out


def _accidental(
  task: Task, cases: Sequence[Case], where: str
) -> list[ScanError]:
  """Classes without a name that several modalities share."""
  out = []
  drawn = {case.modality for case in cases if case.labeled}
  for index, name in enumerate(task.classes):
    having = [
      m.name
      for m in task.modalities
      if index in m.codes.values() and m.name in drawn
    ]
    if _NAMELESS.fullmatch(name) and len(having) > 1:
      reason = f'{name!r} is one class in {" and ".join(having)}: equal names'
      reason += ' are one organ'
      out.append(ScanError(where, reason, 'give the classes their names'))
  return out


def _few(cases: Sequence[Case], where: str) -> list[ScanError]:
  """Why the patients cannot be split into training, validation and test."""
  try:
    split.make(cases, seed=0, fold=0, labeled_fraction=1.0)
  except ValueError as error:
    remedy = 'label more scans: 15 patients are better'
    return [ScanError(where, str(error), remedy)]
  return []


def _labelled(row: dict[str, Any], drawn: int) -> str:
  if row['classes'] is None:
    return 'no'
  chosen, count = row['drawn'], len(row['classes'])
  missing = (drawn if chosen is None else len(chosen)) - count
  text = f'{count} class{"es" * (count != 1)}'
  if chosen is not None:
    text += f' of {len(chosen)} drawn'
  if missing:
    text += f' ({missing} not in it)'
  if row['not_looked_at']:
    text += f', {100 * row["not_looked_at"]:.0f} % not looked at'
  return text


def text(facts: Sequence[dict[str, Any]], task: Task) -> str:
  """The scans that can be read, as a table."""
  masks = task.labelable(task.modalities)
  drawn = {
    m.name: int(row[1:].sum())
    for m, row in zip(task.modalities, masks, strict=True)
  }
  head = ('scan', 'shape', 'mm', 'slices', 'pixel mm', 'values', 'labelled')
  rows = [head]
  for row in facts:
    low, high = row['intensity']
    rows.append(
      (
        row['case'],
        ' x '.join(map(str, row['shape'])),
        ' x '.join(f'{mm:.2f}' for mm in row['spacing_mm']),
        f'{row["slices"]} {row["plane"]}',
        ' x '.join(f'{mm:.2f}' for mm in row['pixel_mm']),
        f'{low:.0f} to {high:.0f}',
        _labelled(row, drawn[row['modality']]),
      )
    )
  lines = _columns(rows)
  for number, row in enumerate(facts, 1):
    notes = map(names.printable, row['notes'])
    lines[number] = '\n    '.join((lines[number], *notes))
  return '\n'.join(lines)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
  """Rows as lines of columns; the first and the last begin at the left.

  A very long name pushes its own row to the right, and no other.
  """
  last = len(rows[0]) - 1
  widths = [
    min(max(map(cell_len, column)), _WIDEST)
    for column in zip(*rows, strict=True)
  ]
  lines = []
  for row in rows:
    cells = []
    for place, (cell, width) in enumerate(zip(row, widths, strict=True)):
      space = ' ' * (width - cell_len(cell))
      left = place in (0, last)
      cells.append(cell + space if left else space + cell)
    lines.append('  '.join(cells).rstrip())
  return lines
