"""Label maps that leave something open: classes, slices and voxels not drawn.

A modality of a dataset.json may say so for its label maps:

  "labels": {"liver": 1, "spleen": 2, "ignore": 255}
  "drawn": {"scan_a": ["liver"]}      or "drawn.csv", a table beside the file:
                                          case,liver,spleen
                                          scan_a,1,0
  "sparse": true                      slices without a label were not drawn
  "sparse": {"scan_a": [0, 10, 20]}   only these were; 0 is the file's first

A case that `drawn` does not name was drawn for all classes, one that `sparse`
does not name on all slices.
"""

from collections.abc import Mapping, Sequence
import csv
import pathlib
from typing import Any

import numpy as np

from data.files import names
from data.formats.scan_error import need
from data.preprocessing import planes
from data.task import UNKNOWN, Modality

_YES, _NO = ('1', 'yes', 'true', 'x'), ('0', 'no', 'false', '')
# JSON's value of a modality's `drawn`, and of its `sparse`.
Drawn = dict[str, list[str]]
Sparse = bool | dict[str, list[int]]


def table(path: pathlib.Path) -> Drawn:
  """`drawn` from a CSV file: a row for each case, a column for each class.

  Raises:
    ValueError: it is not readable or not of this form; names it.
  """
  try:
    # utf-8-sig: spreadsheets put a mark in front.
    lines = path.read_text(encoding='utf-8-sig').splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(f'{path}: not a readable table ({error})') from error
  separator = ';' if lines and ';' in lines[0] else ','
  rows = [row for row in csv.reader(lines, delimiter=separator) if any(row)]
  head = [cell.strip() for cell in rows[0]] if rows else []
  if len(head) < 2 or head[0].lower() != 'case':
    raise ValueError(
      f'{path}: the first line must be "case" and the names of the classes,'
      f' not {",".join(head)!r}'
    )
  out: Drawn = {}
  for number, row in enumerate(rows[1:], 2):
    cells = [cell.strip().lower() for cell in row[1:]]
    whole = len(cells) == len(head) - 1 and {*cells} <= {*_YES, *_NO}
    if not whole or not row[0].strip() or row[0].strip() in out:
      raise ValueError(
        f'{path}: line {number}: give a case once, and 1 or 0 for each of'
        f' {", ".join(head[1:])}'
      )
    marks = zip(head[1:], cells, strict=True)
    out[row[0].strip()] = [name for name, cell in marks if cell in _YES]
  return out


def drawn(found: Any, classes: Sequence[str]) -> dict[str, tuple[int, ...]]:
  """`drawn` as class indices.

  Args:
    found: the JSON's value, a table's content in its place.
    classes: those of the modality and the task, background first; '' for one
      that the modality does not have.

  Raises:
    ValueError: saying what is wrong.
  """
  known = ', '.join(filter(None, classes[1:]))
  out: dict[str, tuple[int, ...]] = {}
  if not isinstance(found, dict):
    raise ValueError(
      f'drawn={found!r}: give the classes of each case, {{"CASE":'
      ' ["liver"]}, or the name of a table, "drawn.csv"'
    )
  for case, chosen in found.items():
    fits = isinstance(chosen, list) and chosen
    if not fits or not {*chosen} <= {*filter(None, classes[1:])}:
      raise ValueError(
        f'drawn: {case!r}: {chosen!r}: list one or more of {known}'
      )
    indices = (classes.index(name) for name in chosen)
    out[names.normal(case)] = tuple(sorted({*indices}))
  return out


def sparse(found: Any) -> bool | dict[str, tuple[int, ...]]:
  """`sparse`, checked.

  Raises:
    ValueError: saying what is wrong.
  """
  if isinstance(found, bool):
    return found
  if not isinstance(found, dict):
    raise ValueError(
      f'sparse={found!r}: give true, or the slices of each case, {{"CASE":'
      ' [0, 10, 20]}'
    )
  out: dict[str, tuple[int, ...]] = {}
  for case, slices in found.items():
    fits = isinstance(slices, list) and slices
    if not fits or not all(type(n) is int and n >= 0 for n in slices):
      raise ValueError(
        f'sparse: {case!r}: {slices!r}: list one or more slices, from 0 on'
      )
    out[names.normal(case)] = tuple(sorted({*slices}))
  return out


def called(case: str) -> tuple[str, str]:
  """How a dataset.json may call a case: as it is shown, or by its file."""
  return case, names.original(case)


def _of(found: Mapping[str, Any], case: str) -> Any:
  return next((found[key] for key in called(case) if key in found), None)


def unmatched(modality: Modality, cases: Sequence[str]) -> list[str]:
  """Cases of `drawn` and `sparse` that are none of those there are."""
  known = {key for case in cases for key in called(case)}
  listed = [*modality.drawn]
  if isinstance(modality.sparse, dict):
    listed += modality.sparse
  return sorted({*listed} - known)


def leave_open(
  label: np.ndarray,
  affine: np.ndarray,
  modality: Modality,
  case: str,
  file: str,
) -> tuple[np.ndarray, tuple[int, ...] | None]:
  """A label map with `UNKNOWN` where nobody drew, and what it was drawn for.

  Args:
    label: `[X, Y, Z]` uint8 classes, `UNKNOWN` where they are to be ignored.
    affine: of its voxels.
    modality: of the scan.
    case: its name.
    file: where it lies, for errors.

  Returns:
    The label map, and its foreground classes; None: all that there are.

  Raises:
    ScanError: it holds what dataset.json says was not drawn.
  """
  chosen = _of(modality.drawn, case)
  every = {*modality.codes.values()} - {0, UNKNOWN}
  if chosen is not None:
    others = {*np.unique(label).tolist()} - {0, UNKNOWN, *chosen}
    codes = sorted(c for c, index in modality.codes.items() if index in others)
    need(
      not others,
      file,
      f'has the codes {", ".join(map(str, codes))} of classes that dataset.json'
      ' says were not drawn in it',
      'list all classes that were drawn under "drawn"',
    )
    chosen = None if {*chosen} == every else tuple(chosen)
  return _slices(label, affine, modality, case, file), chosen


def _slices(label, affine, modality, case, file):
  """Slices on which nobody drew become `UNKNOWN`."""
  listed = modality.sparse
  if isinstance(listed, dict):
    listed = _of(listed, case)
  if not listed:
    return label
  turned = planes.orientation(affine, modality.plane)[:, 0].astype(int)
  axis = turned.tolist().index(0)
  slices = np.moveaxis(label, axis, 0)
  filled = ((slices != 0) & (slices != UNKNOWN)).any((1, 2))
  there = filled
  if not isinstance(listed, bool):
    count = len(slices)
    wrong = [n for n in listed if n >= count]
    words = f'has {count} slices (0 to {count - 1}), and dataset.json lists'
    listed_wrong = ', '.join(map(str, wrong))
    remedy = 'correct the slices under "sparse"; the first of the file is 0'
    need(not wrong, file, f'{words} {listed_wrong}', remedy)
    there = np.isin(np.arange(count), listed)
    more = np.flatnonzero(filled & ~there).tolist()
    need(
      not more,
      file,
      f'has labels on slices {names.listed([str(n) for n in more])}, which'
      ' dataset.json does not list under "sparse"',
      'list every slice that was drawn',
    )
  out = slices.copy()
  out[~there] = UNKNOWN
  return np.moveaxis(out, 0, axis)
