"""Strict reading of a DICOM series: one folder, one volume."""

import os
import pathlib
import warnings

import numpy as np
import pydicom

from data.volume_io import ScanError, Volume, check_image

# Gaps between neighbouring slices may differ by this share of the median.
_GAP_TOLERANCE = 0.1
_EXPORT = 'export the whole series again'


def _read_slice(path: pathlib.Path) -> pydicom.Dataset:
  """One file, with everything that a volume needs."""
  file = str(path)
  try:
    with warnings.catch_warnings():
      # What pydicom only warns of is an error here.
      warnings.simplefilter('error')
      found = pydicom.dcmread(path)
      found.pixel_array  # noqa: B018  Decodes, and thereby checks, the pixels.
  except Exception as error:
    raise ScanError(
      file,
      f'not a readable DICOM image, or truncated ({error})',
      'copy the file again from its source',
    ) from error
  for name in (
    'PixelSpacing',
    'ImagePositionPatient',
    'ImageOrientationPatient',
  ):
    if name not in found or found[name].value in (None, ''):
      raise ScanError(
        file, f'{name} is missing', 'export the series with full headers'
      )
  if found.pixel_array.ndim != 2:
    raise ScanError(
      file,
      f'pixels of shape {found.pixel_array.shape}: no grey-value slice',
      'give single-frame grey-value DICOM files',
    )
  return found


def _normal(found: pydicom.Dataset, file: str) -> np.ndarray:
  """The slice normal (LPS), from the orientation's two directions."""
  directions = np.array(found.ImageOrientationPatient, np.float64)
  row, column = directions[:3], directions[3:]
  normal = np.cross(row, column)
  length = np.linalg.norm(normal)
  if not np.isfinite(length) or abs(length - 1) > 0.01:
    raise ScanError(
      file,
      f'impossible ImageOrientationPatient {directions.tolist()}',
      _EXPORT,
    )
  return normal / length


def _check_one_series(slices: list[pydicom.Dataset], folder: str) -> None:
  series = {str(s.get('SeriesInstanceUID', '')) for s in slices}
  if len(series) > 1:
    raise ScanError(
      folder, f'{len(series)} series in one folder', 'one folder per series'
    )
  for name in ('Rows', 'Columns', 'PixelSpacing', 'ImageOrientationPatient'):
    values = {str(s[name].value) for s in slices}
    if len(values) > 1:
      raise ScanError(
        folder, f'slices differ in {name}: {sorted(values)[:3]}', _EXPORT
      )


def _check_gaps(positions: np.ndarray, folder: str) -> float:
  """Distance between slices in mm, from their sorted positions."""
  gaps = np.diff(positions)
  step = float(np.median(gaps))
  if (gaps <= 1e-3 * max(step, 1e-3)).any():
    where = positions[int(np.argmin(gaps))]
    raise ScanError(
      folder, f'repeated slice at {where:.2f} mm', 'remove the duplicate'
    )
  if (np.abs(gaps - step) > _GAP_TOLERANCE * step).any():
    where = positions[int(np.argmax(np.abs(gaps - step)))]
    raise ScanError(
      folder,
      f'missing slice after {where:.2f} mm (steps of {step:.2f} mm)',
      _EXPORT,
    )
  return step


def dicom_files(folder: pathlib.Path) -> list[pathlib.Path]:
  """The files of a series, hidden ones left out, sorted by name."""
  return sorted(
    f for f in folder.iterdir() if f.is_file() and not f.name.startswith('.')
  )


def read_dicom(folder: str | os.PathLike) -> tuple[Volume, list[pathlib.Path]]:
  """Reads a series, sorted by position along the slice normal.

  Args:
    folder: holds the files of one series and nothing else.

  Returns:
    The volume `[columns, rows, slices]` (so that its first axis is the
    patient's left-right in an axial scan), float32, and the files in slice
    order.

  Raises:
    ScanError: for anything that is not one complete series.
  """
  folder = pathlib.Path(folder)
  name = str(folder)
  paths = dicom_files(folder)
  if not paths:
    raise ScanError(name, 'no DICOM files in it', 'copy the series there')
  slices = [_read_slice(path) for path in paths]
  if len(slices) < 2:
    raise ScanError(name, 'a single slice is no volume', _EXPORT)
  _check_one_series(slices, name)
  normal = _normal(slices[0], str(paths[0]))
  along = np.array(
    [normal @ np.array(s.ImagePositionPatient, np.float64) for s in slices]
  )
  order = np.argsort(along, kind='stable')
  slices = [slices[i] for i in order]
  step = _check_gaps(along[order], name)
  voxels = np.stack(
    [
      s.pixel_array.astype(np.float32) * float(s.get('RescaleSlope', 1))
      + float(s.get('RescaleIntercept', 0))
      for s in slices
    ]
  )
  check_image(voxels, name)
  volume = Volume(
    np.transpose(voxels, (2, 1, 0)), _affine(slices[0], normal, step, name)
  )
  return volume, [paths[i] for i in order]


def _affine(first, normal, step, folder) -> np.ndarray:
  """Affine of `[columns, rows, slices]`, LPS turned into RAS."""
  directions = np.array(first.ImageOrientationPatient, np.float64)
  rows_apart, columns_apart = (float(v) for v in first.PixelSpacing)
  if not (rows_apart > 0 and columns_apart > 0):
    raise ScanError(
      folder,
      f'PixelSpacing {[rows_apart, columns_apart]} is not positive',
      'export the series with full headers',
    )
  affine = np.eye(4)
  affine[:3, 0] = directions[:3] * columns_apart
  affine[:3, 1] = directions[3:] * rows_apart
  affine[:3, 2] = normal * step
  affine[:3, 3] = np.array(first.ImagePositionPatient, np.float64)
  return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
