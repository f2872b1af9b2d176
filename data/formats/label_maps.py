"""Label maps: from what a file holds to codes, and from codes to classes."""

from collections.abc import Mapping
import os

import numpy as np
from numpy import typing as npt

from data.formats.scan_error import ScanError, need

# Up to this step every whole number has a stored value of its own, well apart
# from the next one's.
_FINE_STEP = 0.5
# Codes in a wider range are sorted, others counted, which is much faster.
_WIDEST = 1 << 16


def label_codes(
  voxels: np.ndarray, file: str, step: float = 0.0
) -> tuple[np.ndarray, tuple[str, ...]]:
  """Whole-numbered codes, rounded before any cast.

  A map of floating point numbers that was saved under an integer type holds
  the stored integers times a slope: each lies within half a step of its code.

  Args:
    voxels: as the file means them.
    file: for errors.
    step: between two values that the file can hold; 0 if it is not known.

  Returns:
    int32 codes; what people should know of them.

  Raises:
    ScanError: they are not codes.
  """
  rounded = voxels
  notes: tuple[str, ...] = ()
  if not np.issubdtype(voxels.dtype, np.integer):
    rounded = np.round(voxels)
    with np.errstate(invalid='ignore'):  # Of infinite ones; found below.
      gap = np.abs(voxels - rounded)
    if not (gap <= 1e-3).all():
      notes = _check_rounding(voxels, gap, step, file)
  # A cast would wrap them, possibly onto a code that exists.
  wild = max(float(rounded.max()), -float(rounded.min()))
  fits = wild <= np.iinfo(np.int32).max
  words = f'label codes as large as {wild:.4g}'
  need(fits, file, words, 'correct the label map')
  return rounded.astype(np.int32), notes


def _check_rounding(voxels, gap, step: float, file: str) -> tuple[str, ...]:
  """What to tell of values off whole numbers by `gap`, if they are codes."""
  empty = int(np.isnan(voxels).sum())
  need(not empty, file, f'{empty} voxels are NaN', 'set them to 0')
  scaled = step not in (0.0, 1.0)
  told = f'saved with intensity scaling (scl_slope {step:.3g})'
  if scaled and step <= _FINE_STEP and (gap <= 0.5 * step + 1e-3).all():
    return (f'{told}: rounded',)
  need(
    not scaled or step <= 1e-3,
    file,
    f'{told}: its codes are no longer whole numbers',
    'save it as integers, from its source: np.round(data).astype(np.uint16)',
  )
  words = f'{int((~(gap <= 1e-3)).sum())} label voxels are not whole numbers'
  raise ScanError(file, words, 'resample labels with nearest neighbour')


def count_codes(label: np.ndarray) -> dict[int, int]:
  """Code -> number of voxels, sorted by code.

  Args:
    label: `[X, Y, Z]` int32 codes.
  """
  low, high = int(label.min()), int(label.max())
  if high - low >= _WIDEST:
    values, counts = np.unique(label, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
  counts = np.zeros(high - low + 1, np.int64)
  for part in label:  # A large map need not be there in 64 bits.
    counts += np.bincount(part.ravel() - low, minlength=len(counts))
  return {low + int(k): int(counts[k]) for k in np.flatnonzero(counts)}


def look_up(
  label: np.ndarray, table: Mapping[int, int], dtype: npt.DTypeLike
) -> np.ndarray:
  """Every code replaced by what a table has for it.

  Args:
    label: codes, `[X, Y, Z]`.
    table: of every code that occurs.
    dtype: of the result.
  """
  codes = np.array(sorted(table))
  values = np.array([table[int(code)] for code in codes], dtype)
  if codes[-1] - codes[0] >= _WIDEST:
    return values[np.searchsorted(codes, label)]
  every = np.zeros(codes[-1] - codes[0] + 1, dtype)
  every[codes - codes[0]] = values
  return np.stack([every[part - codes[0]] for part in label])


def map_codes(
  label: np.ndarray, codes: Mapping[int, int], file: str | os.PathLike
) -> np.ndarray:
  """Label codes on disk to class indices, uint8.

  A label map without a single labelled voxel is refused: every labelled scan
  of these archives shows what was drawn, so that it is an export that failed,
  and it would teach that an organ is background. A map whose codes all mean
  background here (another organ was drawn) is sound, and so is one that lacks
  some of the classes.

  Raises:
    ScanError: naming every unknown code and its voxel count; or nothing is
      labelled.
  """
  counts = count_codes(label)
  need(
    counts.keys() - {0},
    file,
    'all background: no voxel is labelled',
    'give the label map of this scan, or move the scan to the unlabelled ones',
  )
  unknown = [f'{c} ({n} voxels)' for c, n in counts.items() if c not in codes]
  need(
    not unknown,
    file,
    f'unknown label codes: {", ".join(unknown[:8])}',
    f'expected {sorted(codes)}; correct the label map, or list codes that are'
    ' not segmented under "background" in the labels of dataset.json',
  )
  return look_up(label, {code: codes[code] for code in counts}, np.uint8)
