"""Label maps that leave something open: what a dataset.json says of them.

A modality may say so for its label maps:

  "labels": {"liver": 1, "spleen": 2, "ignore": 255}
  "drawn": {"scan_a": ["liver"]}      or "drawn.csv", a table beside the file:
                                          case,liver,spleen
                                          scan_a,1,0
  "sparse": true                      slices without a label were not drawn
  "sparse": {"scan_a": [0, 10, 20]}   only these were; 0 is the file's first

A case that `drawn` does not name was drawn for all classes, one that `sparse`
does not name on all slices.
"""

from collections.abc import Sequence
import csv
import pathlib
from typing import Any

from data.files import names

_YES, _NO = ('1', 'yes', 'true', 'x'), ('0', 'no', 'false', '')
# JSON's value of a modality's `drawn`, and of its `sparse`.
Drawn = dict[str, list[str]]
Sparse = bool | dict[str, list[int]]


class NoTableError(ValueError):
  """A table that cannot be read, or is none of this form."""


def table(path: pathlib.Path) -> Drawn:
  """`drawn` from a CSV file: a row for each case, a column for each class.

  Raises:
    NoTableError: names it.
  """
  try:
    # utf-8-sig: spreadsheets put a mark in front.
    lines = path.read_text(encoding='utf-8-sig').splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise NoTableError(f'{path}: not a readable table ({error})') from error
  separator = ';' if lines and ';' in lines[0] else ','
  rows = [row for row in csv.reader(lines, delimiter=separator) if any(row)]
  head = [cell.strip() for cell in rows[0]] if rows else []
  if len(head) < 2 or head[0].lower() != 'case':
    raise NoTableError(
      f'{path}: the first line must be "case" and the names of the classes,'
      f' not {",".join(head)!r}'
    )
  out: Drawn = {}
  for number, row in enumerate(rows[1:], 2):
    cells = [cell.strip().lower() for cell in row[1:]]
    whole = len(cells) == len(head) - 1 and {*cells} <= {*_YES, *_NO}
    if not whole or not row[0].strip() or row[0].strip() in out:
      raise NoTableError(
        f'{path}: line {number}: give a case once, and 1 or 0 for each of'
        f' {", ".join(head[1:])}'
      )
    marks = zip(head[1:], cells, strict=True)
    out[row[0].strip()] = [name for name, cell in marks if cell in _YES]
  return out


def tables(found: Any, folder: pathlib.Path) -> list[pathlib.Path]:
  """The tables that a dataset.json's content names."""
  return [folder / fields['drawn'] for fields in _naming(found)]


def with_tables(found: Any, folder: pathlib.Path) -> Any:
  """The same with what they hold in their places.

  Raises:
    NoTableError: one cannot be read, or is none.
  """
  for fields in _naming(found):
    fields['drawn'] = table(folder / fields['drawn'])
  return found


def _naming(found: Any) -> list[dict[str, Any]]:
  several = found.get('modalities') if isinstance(found, dict) else None
  every = several.values() if isinstance(several, dict) else ()
  dicts = [fields for fields in every if isinstance(fields, dict)]
  return [fields for fields in dicts if isinstance(fields.get('drawn'), str)]


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
