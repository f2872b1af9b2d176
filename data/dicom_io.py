"""Strict reading of a DICOM series: one folder, one volume."""

import os
import pathlib
from typing import NamedTuple
import warnings

import numpy as np
import pydicom

from data.volume_io import ScanError, Volume, check_image, check_sides

# Gaps between neighbouring slices may differ by this share of the median.
_GAP_TOLERANCE = 0.1
_EXPORT = 'export the whole series again'
_HEADERS = 'export the series with full headers'


class _Slice(NamedTuple):
  """What a volume needs of one file.

  Attributes:
    path: the file.
    series: its SeriesInstanceUID.
    pixels: `[rows, columns]` float32, scanner units.
    spacing: mm between rows, between columns.
    position: LPS mm of the first pixel, `[3]`.
    orientation: LPS directions along a row and along a column, `[6]`.
  """

  path: pathlib.Path
  series: str
  pixels: np.ndarray
  spacing: np.ndarray
  position: np.ndarray
  orientation: np.ndarray


def _numbers(found: pydicom.Dataset, name: str, count: int, file: str):
  """The finite numbers of an element, `[count]` float64; None if it is empty.

  Raises:
    ScanError: it holds anything else.
  """
  try:
    value = found.get(name)
    if value is None or value == '':
      return None
    numbers = np.array(value, np.float64).ravel()
  except Exception as error:
    raise ScanError(file, f'unreadable {name} ({error})', _HEADERS) from error
  if numbers.shape != (count,) or not np.isfinite(numbers).all():
    raise ScanError(file, f'impossible {name} {numbers.tolist()}', _HEADERS)
  return numbers


def _decode(path: pathlib.Path) -> tuple[pydicom.Dataset, np.ndarray]:
  """A file's header and its pixels as they are stored."""
  try:
    with warnings.catch_warnings():
      # What pydicom only warns of is an error here.
      warnings.simplefilter('error')
      meta = pydicom.filereader.read_file_meta_info(path)
      syntax = meta.get('TransferSyntaxUID')
      if syntax != pydicom.uid.DeflatedExplicitVRLittleEndian:
        found = pydicom.dcmread(path)
        return found, found.pixel_array
  except Exception as error:
    raise ScanError(
      str(path),
      f'not a readable DICOM image, or truncated ({error})',
      'copy the file again from its source',
    ) from error
  # Nothing in front of the compressed part says how much will come out of it.
  raise ScanError(
    str(path), 'a deflated DICOM file', 'export the series uncompressed'
  )


def _read_slice(path: pathlib.Path) -> _Slice:
  """One file, with everything that a volume needs."""
  file = str(path)
  found, pixels = _decode(path)
  if pixels.ndim != 2:
    raise ScanError(
      file,
      f'pixels of shape {pixels.shape}: no grey-value slice',
      'give single-frame grey-value DICOM files',
    )
  with warnings.catch_warnings():
    # Archives that were made anonymous have unusual ids: any word will do.
    warnings.simplefilter('ignore')
    series = str(found.get('SeriesInstanceUID', ''))
    needed = {}
    for name, count in (
      ('PixelSpacing', 2),
      ('ImagePositionPatient', 3),
      ('ImageOrientationPatient', 6),
    ):
      needed[name] = _numbers(found, name, count, file)
      if needed[name] is None:
        raise ScanError(file, f'{name} is missing', _HEADERS)
    slope = _numbers(found, 'RescaleSlope', 1, file)
    intercept = _numbers(found, 'RescaleIntercept', 1, file)
  if (needed['PixelSpacing'] <= 0).any():
    spacing = needed['PixelSpacing'].tolist()
    raise ScanError(file, f'PixelSpacing {spacing} is not positive', _HEADERS)
  if slope is not None and slope[0] == 0:
    raise ScanError(file, 'RescaleSlope is 0', _HEADERS)
  slope = 1.0 if slope is None else float(slope[0])
  intercept = 0.0 if intercept is None else float(intercept[0])
  with np.errstate(all='ignore'):  # `check_image` finds what overflows.
    pixels = pixels.astype(np.float32) * np.float32(slope)
    pixels += np.float32(intercept)
  return _Slice(path, series, pixels, *needed.values())


def _normal(first: _Slice) -> np.ndarray:
  """The slice normal (LPS), from the orientation's two directions."""
  row, column = first.orientation[:3], first.orientation[3:]
  normal = np.cross(row, column)
  lengths = [np.linalg.norm(v) for v in (row, column, normal)]
  if np.abs(np.array(lengths) - 1).max() > 0.01:
    raise ScanError(
      str(first.path),
      f'impossible ImageOrientationPatient {first.orientation.tolist()}',
      _EXPORT,
    )
  return normal / lengths[2]


def _check_one_series(slices: list[_Slice], folder: str) -> None:
  series = {s.series for s in slices}
  if len(series) > 1:
    raise ScanError(
      folder, f'{len(series)} series in one folder', 'one folder per series'
    )
  for name, values in (
    ('Rows x Columns', {s.pixels.shape for s in slices}),
    ('PixelSpacing', {tuple(s.spacing.tolist()) for s in slices}),
    (
      'ImageOrientationPatient',
      {tuple(s.orientation.tolist()) for s in slices},
    ),
  ):
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
    # Unlike a NIfTI file, it says neither how many slices belong together nor
    # how far apart they are: most likely the others were not copied.
    raise ScanError(name, 'a single slice is no volume', _EXPORT)
  _check_one_series(slices, name)
  normal = _normal(slices[0])
  slices.sort(key=lambda s: float(normal @ s.position))
  places = np.array([s.position for s in slices])
  step = _check_gaps(places @ normal, name)
  _check_straight(places, normal, slices[0], name)
  voxels = np.stack([s.pixels for s in slices])
  check_image(voxels, name)
  affine = _affine(slices[0], normal, step)
  check_sides(affine, name)
  volume = Volume(np.transpose(voxels, (2, 1, 0)), affine)
  return volume, [s.path for s in slices]


def _check_straight(places, normal, first, folder) -> None:
  """Slices must lie behind one another, along their normal."""
  moved = places - places[0]
  sideways = np.linalg.norm(moved - np.outer(moved @ normal, normal), axis=1)
  if sideways.max() > 0.5 * first.spacing.min():
    raise ScanError(
      folder,
      f'slices are shifted sideways by up to {sideways.max():.2f} mm',
      'resample the series to a straight grid (a tilted gantry?)',
    )


def _affine(first: _Slice, normal: np.ndarray, step: float) -> np.ndarray:
  """Affine of `[columns, rows, slices]`, LPS turned into RAS."""
  rows_apart, columns_apart = first.spacing
  affine = np.eye(4)
  affine[:3, 0] = first.orientation[:3] * columns_apart
  affine[:3, 1] = first.orientation[3:] * rows_apart
  affine[:3, 2] = normal * step
  affine[:3, 3] = first.position
  return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
