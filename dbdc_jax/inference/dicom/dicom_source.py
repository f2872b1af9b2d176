"""What a DICOM SEG object takes from the headers of the scan it was made of.

Of each file a small header is made that holds what a segmentation repeats or
refers to, and nothing else: the library that makes the object takes no other.
Ids are repeated as they stand, whether they keep the rules or not: by them the
objects belong together.
"""

import pathlib
from typing import Any, NamedTuple

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.valuerep import DSfloat, PersonName

from data.formats.nifti import Volume
from data.formats.scan_error import ScanError, need
from dbdc_jax.inference.dicom import patient_header
from dbdc_jax.inference.dicom.patient_header import value

NIFTI = 'give --format nifti'
_HEADERS = f'export the series with full headers, or {NIFTI}'
_AGAIN = 'leave the series as it is while it is segmented'
# What makes files one scan of one person.
_SHARED = (
  'SOPClassUID',
  'StudyInstanceUID',
  'SeriesInstanceUID',
  'FrameOfReferenceUID',
)
_WHOLE = (*_SHARED, 'PatientID')
# Where a multi-frame file says what others say of the whole file.
_MACROS = {
  'ImagePositionPatient': 'PlanePositionSequence',
  'ImageOrientationPatient': 'PlaneOrientationSequence',
  'PixelSpacing': 'PixelMeasuresSequence',
  'SliceThickness': 'PixelMeasuresSequence',
}
_COUNTS = {
  'ImagePositionPatient': 3,
  'ImageOrientationPatient': 6,
  'PixelSpacing': 2,
}
# The kinds that the library is told of: it knows neither makers' own kinds nor
# series of enhanced files with one frame each. References name the true one.
_SINGLE = '1.2.840.10008.5.1.4.1.1.4'
_MULTIPLE = '1.2.840.10008.5.1.4.1.1.4.1'


class Headers(NamedTuple):
  """Sound headers of a volume's files.

  Attributes:
    images: one per slice, in slice order, or one of a multi-frame file.
    planes: for each slice its place among the images or frames.
    frames: how many images or frames there are.
    patient_name: kept apart, as the library warns of names like 'Anonymized'.
    kind: their SOPClassUID.
  """

  images: list[Dataset]
  planes: np.ndarray
  frames: int
  patient_name: PersonName
  kind: str


def read(volume: Volume) -> Headers:
  """The headers of a volume's files.

  Args:
    volume: with `files` in slice order; one multi-frame file may hold all.

  Raises:
    ScanError: no files, or they lack what a segmentation must refer to.
  """
  if not volume.files:
    raise ScanError(
      'the scan',
      'not read from DICOM files',
      f'give a DICOM series, or {NIFTI}',
    )
  found = [_read(path) for path in volume.files]
  first, path = found[0], volume.files[0]
  base = patient_header.copy(first)
  for name in _WHOLE:
    values = {str(value(header, name)) for header in found}
    need(len(values) <= 1, path.parent, f'slices differ in {name}', _HEADERS)
  for name in _SHARED:
    patient_header.put(base, name, _needed(first, name, path))
  patient_name, base.PatientName = base.PatientName, ''
  kind = str(base.SOPClassUID)
  base.Modality = str(value(first, 'Modality') or 'OT')
  base.Columns, base.Rows = volume.voxels.shape[:2]
  size = (value(first, 'Columns'), value(first, 'Rows'))
  if size != volume.voxels.shape[:2]:
    raise ScanError(path, f'{size[0]} x {size[1]} pixels by now', _AGAIN)
  if len(found) == volume.voxels.shape[2]:
    images, planes = _slices(base, found, volume)
    count = len(images)
  elif len(found) == 1:
    images, planes = [base], _frames(base, first, volume)
    count = base.NumberOfFrames
  else:
    words = f'{len(found)} files with several frames each'
    raise ScanError(path.parent, words, NIFTI)
  return Headers(images, planes, count, patient_name, kind)


def _read(path: pathlib.Path) -> Dataset:
  try:
    return pydicom.dcmread(path, stop_before_pixels=True, force=True)
  except Exception as error:
    raise ScanError(path, f'unreadable by now ({error})', _AGAIN) from error


def _needed(header: Dataset, name: str, path: pathlib.Path) -> Any:
  found = value(header, name)
  need(found is not None, path, f'{name} is missing or unreadable', _HEADERS)
  return found


def _number(found: Any) -> DSfloat:
  """A decimal string as it stands, shortened where it is too long."""
  if isinstance(found, DSfloat) and len(str(found)) <= 16:
    return found
  return DSfloat(float(found), auto_format=True)


def _said(header: Dataset, name: str, frame: int) -> Any:
  """What its own groups say of a frame, or the shared ones, or the file."""
  for groups, index in (
    ('PerFrameFunctionalGroupsSequence', frame),
    ('SharedFunctionalGroupsSequence', 0),
  ):
    members = value(header, groups) or ()
    if index < len(members):
      macro = value(members[index], _MACROS[name])
      if macro and value(macro[0], name):
        return value(macro[0], name)
  return value(header, name)


def _placed(header: Dataset, name: str, frame: int, path: pathlib.Path):
  """Numbers that tell where a frame lies."""
  try:
    numbers = [_number(found) for found in _said(header, name, frame)]
    sound = np.isfinite(numbers).all() and len(numbers) == _COUNTS[name]
  except (TypeError, ValueError, OverflowError):
    sound = False
  need(sound, path, f'{name} is missing or unreadable', _HEADERS)
  return numbers


def _measures(header: Dataset, frame: int, volume: Volume) -> dict[str, Any]:
  """What all slices have alike: one has it as good as the other."""
  step = float(np.linalg.norm(volume.affine[:3, 2]))
  try:
    thickness = float(_said(header, 'SliceThickness', frame))
  except (TypeError, ValueError):
    thickness = 0.0
  return {
    'PixelSpacing': _placed(header, 'PixelSpacing', frame, volume.files[0]),
    'SliceThickness': DSfloat(
      thickness if thickness > 0 else step, auto_format=True
    ),
    'SpacingBetweenSlices': DSfloat(step, auto_format=True),
  }


def _ordered(volume: Volume, positions: np.ndarray, path) -> np.ndarray:
  """For each slice the one of the positions that it is at.

  Args:
    volume: the slices.
    positions: `[images, 3]`, LPS mm.
    path: named in errors.

  Raises:
    ScanError: two at one place, or they are not where the volume is.
  """
  count = volume.voxels.shape[2]
  # RAS as LPS.
  first, onwards = (volume.affine[:3, k] * (-1, -1, 1) for k in (3, 2))
  step = np.linalg.norm(onwards)
  need(len(positions) >= count, path, f'{len(positions)} frames by now', _AGAIN)
  if len(positions) == count:
    # Distances differ a little in sound series: only their order counts.
    planes = np.argsort((positions - first) @ onwards, kind='stable')
  else:
    expected = first + np.arange(count)[:, None] * onwards
    far = np.linalg.norm(expected[:, None] - positions[None], axis=2)
    planes = far.argmin(1)
    if ((far < 0.25 * step).sum(1) > 1).any():
      raise ScanError(path, 'several frames at one position', NIFTI)
    if far.min(1).max() > 0.25 * step:
      raise ScanError(path, 'its frames lie elsewhere by now', _AGAIN)
  along = positions[planes] @ onwards / step
  if count > 1 and np.diff(along).min() < 0.01 * step:
    raise ScanError(path, 'several frames at one position', NIFTI)
  if np.linalg.norm(positions[planes[0]] - first) > 0.5 * step:
    raise ScanError(path, 'it lies elsewhere by now', _AGAIN)
  return planes


def _slices(
  base: Dataset, found: list[Dataset], volume: Volume
) -> tuple[list[Dataset], np.ndarray]:
  """Headers of files of one frame each, and the slices' order."""
  paths = volume.files
  shared = _measures(found[0], 0, volume)
  # One for all: they may differ in the last digits.
  name = 'ImageOrientationPatient'
  shared[name] = _placed(found[0], name, 0, paths[0])
  images, uids = [], set()
  for header, path in zip(found, paths, strict=True):
    uid = _needed(header, 'SOPInstanceUID', path)
    if uid in uids:
      words = 'SOPInstanceUID of another slice'
      raise ScanError(path, words, f'export it again, or {NIFTI}')
    uids.add(uid)
    position = _placed(header, 'ImagePositionPatient', 0, path)
    image = _dataset(ImagePositionPatient=position, **shared)
    image.update(base)
    patient_header.put(image, 'SOPClassUID', _SINGLE)
    patient_header.put(image, 'SOPInstanceUID', uid)
    images.append(image)
  positions = np.array([i.ImagePositionPatient for i in images], float)
  planes = _ordered(volume, positions, paths[0].parent)
  if (np.diff(planes) < 0).any():
    raise ScanError(paths[0].parent, 'its slices lie elsewhere by now', _AGAIN)
  return images, planes


def _frames(base: Dataset, header: Dataset, volume: Volume) -> np.ndarray:
  """Completes the header of a multi-frame file; the slices' frames."""
  path = volume.files[0]
  patient_header.put(base, 'SOPClassUID', _MULTIPLE)
  patient_header.put(
    base, 'SOPInstanceUID', _needed(header, 'SOPInstanceUID', path)
  )
  count = len(value(header, 'PerFrameFunctionalGroupsSequence') or ())
  places = [
    _placed(header, 'ImagePositionPatient', frame, path)
    for frame in range(count)
  ]
  planes = _ordered(volume, np.array(places, float).reshape(-1, 3), path)
  used, name = int(planes[0]), 'ImageOrientationPatient'
  shared = _dataset(
    PlaneOrientationSequence=[
      _dataset(**{name: _placed(header, name, used, path)})
    ],
    PixelMeasuresSequence=[_dataset(**_measures(header, used, volume))],
  )
  own = [
    _dataset(PlanePositionSequence=[_dataset(ImagePositionPatient=place)])
    for place in places
  ]
  base.NumberOfFrames = count
  base.SharedFunctionalGroupsSequence = [shared]
  base.PerFrameFunctionalGroupsSequence = own
  return planes


def _dataset(**values: Any) -> Dataset:
  made = Dataset()
  for name, found in values.items():
    setattr(made, name, found)
  return made
