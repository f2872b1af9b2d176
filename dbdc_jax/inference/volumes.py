"""Volumes of what was found, in mL, as a table for spreadsheets.

One line per scan: its name, its modality, a column per class. A cell is empty
where the modality's labels do not have the class: nobody has looked for it, so
that 0 would be wrong. The file is UTF-8 with a byte order mark, by which
spreadsheets know it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
import csv
import io
import os
import pathlib
import re

import numpy as np

from data.files import atomic
from data.formats.scan_error import ScanError

SCAN, MODALITY = 'scan', 'modality'
_UNIT = ' (mL)'
# A spreadsheet takes text that starts so for a formula. Before it goes an
# apostrophe, before apostrophes and such text one more.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_MOVE = 'move it elsewhere, or choose another output folder'

Row = Mapping[str, str]


def rows(
  name: str,
  modality: str,
  classes: np.ndarray,
  affine: np.ndarray,
  names: Sequence[str],
  drawn: Collection[int] | None = None,
) -> list[Row]:
  """The lines of a scan: column -> cell.

  Args:
    name: of the scan.
    modality: that it was segmented as.
    classes: `[X, Y, Z]` class indices.
    affine: `[4, 4]`, voxel index to mm, sheared or oblique as it may be.
    names: of the classes, background first.
    drawn: indices of the classes that the modality's labels have; the cells of
      the others stay empty. None: all have been drawn.
  """
  millilitres = abs(np.linalg.det(np.asarray(affine)[:3, :3])) / 1000
  # Counted in parts: each is copied as 64-bit numbers.
  counts = np.zeros(len(names), int)
  for part in classes:
    counts += np.bincount(part.ravel(), minlength=len(names))
  cells = {SCAN: name, MODALITY: modality}
  for index, title in enumerate(names[1:], 1):
    known = drawn is None or index in drawn
    volume = float(counts[index] * millilitres)
    cells[title + _UNIT] = f'{volume:.8g}' if known else ''
  return [cells]


def merge(before: Iterable[Row], now: Iterable[Row]) -> list[Row]:
  """Lines of both; those of now take the place of their scan's from before."""
  lines = {row[SCAN]: row for row in before}
  lines |= {row[SCAN]: row for row in now}
  return list(lines.values())


def write(path: str | os.PathLike, lines: Sequence[Row]) -> None:
  """Writes the table; it appears whole, or what was there before stays.

  The columns are those of all lines, a cell that a line lacks stays empty.

  Raises:
    OSError: the disk took no more; the text names the file.
  """
  columns = list(
    dict.fromkeys([SCAN, MODALITY, *(c for r in lines for c in r)])
  )
  cells = [columns, *([row.get(c, '') for c in columns] for row in lines)]
  shown = (map(_shown, row) for row in cells)
  atomic.write_csv(pathlib.Path(path), shown, 'utf-8-sig')


def read(path: str | os.PathLike) -> list[Row]:
  """The lines of a table, as `rows` gave them; none if there is no file.

  A spreadsheet may have written it anew: with semicolons, and with commas in
  its numbers.

  Raises:
    ScanError: a file that is no table of volumes; it must not be replaced.
  """
  path = pathlib.Path(path)
  if not path.exists():
    return []
  try:
    text = path.read_bytes().decode('utf-8-sig')
  except UnicodeDecodeError as error:
    raise ScanError(path, f'not UTF-8 ({error})', _MOVE) from error
  first = text.splitlines()[0] if text else ''
  delimiter = max(',;\t', key=first.count)
  try:
    table = list(csv.reader(io.StringIO(text, newline=''), delimiter=delimiter))
  except csv.Error as error:
    raise ScanError(path, f'unreadable ({error})', _MOVE) from error
  columns = [_meant(cell) for cell in table[0]] if table else []
  if columns[:2] != [SCAN, MODALITY] or len(set(columns)) != len(columns):
    raise ScanError(path, 'no table of volumes', _MOVE)
  found: list[Row] = []
  for number, line in enumerate(table[1:], 2):
    if not any(line):
      continue
    if len(line) != len(columns):
      raise ScanError(
        path, f'line {number} has {len(line)} cells, not {len(columns)}', _MOVE
      )
    row = dict(zip(columns, map(_meant, line), strict=True))
    if delimiter == ';':
      numbers = {c: v.replace(',', '.') for c, v in row.items() if _UNIT in c}
      row |= numbers
    found.append(row)
  return found


def _shown(cell: str) -> str:
  return "'" + cell if _FORMULA.match(cell) else cell


def _meant(cell: str) -> str:
  return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
