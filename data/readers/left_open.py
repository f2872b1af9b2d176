"""Label maps that leave something open, as `formats/partly_drawn.py` has it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data.files import names
from data.formats.scan_error import need
from data.preprocessing import planes
from data.task import UNKNOWN, Modality


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
