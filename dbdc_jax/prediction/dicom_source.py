"""What a DICOM SEG object takes from the headers of the scan it was made of.

Real headers are sloppy: dates that are none, unknown character sets, private
elements, ids that break the rules. Here each becomes a small, sound header
that holds what a segmentation repeats or refers to, and nothing else. Ids are
repeated as they stand, sound or not: by them the objects belong together.
"""

import pathlib
from typing import Any, NamedTuple

import numpy as np
import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import DA, TM, DSfloat, PersonName, validate_value

from data.scan_error import ScanError
from data.volume_io import Volume

NIFTI = 'give --format nifti'
_HEADERS = f'export the series with full headers, or {NIFTI}'
_AGAIN = 'leave the series as it is while it is segmented'
# Patient, clinical trial and study are in these groups; what of them belongs
# into a segmentation is the library's knowledge.
_GROUPS = (0x0008, 0x0010, 0x0012, 0x0032)
_ALSO = [
  pydicom.tag.Tag(name)
  for name in (
    'StudyID',
    'LossyImageCompression',
    'LossyImageCompressionRatio',
    'LossyImageCompressionMethod',
  )
]
# What makes files one scan of one person.
_SHARED = (
  'SOPClassUID',
  'StudyInstanceUID',
  'SeriesInstanceUID',
  'FrameOfReferenceUID',
)
_WHOLE = (*_SHARED, 'PatientID')
_EMPTY = (
  'PatientName',
  'PatientID',
  'PatientBirthDate',
  'PatientSex',
  'AccessionNumber',
  'StudyID',
  'StudyDate',
  'StudyTime',
  'ReferringPhysicianName',
)
# What is text on disk, whatever the library makes of it.
_AS_TEXT = ('DA', 'DS', 'IS', 'PN', 'TM', 'UI')
_OLD = {'DA': '.', 'TM': ':'}
_TIMES = {'DA': DA, 'TM': TM}
_PLACED = ('ImagePositionPatient', 'ImageOrientationPatient', 'PixelSpacing')


class Source(NamedTuple):
  """Sound headers.

  Attributes:
    images: one per slice, in slice order, or one of a multi-frame file.
    planes: for each slice its place among the images or frames.
    count: how many images or frames there are.
    patient_name: kept apart, as the library warns of names like 'Anonymized'.
  """

  images: list[Dataset]
  planes: np.ndarray
  count: int
  patient_name: PersonName


def read(volume: Volume) -> Source:
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
  base = _sound(first)
  for name in _WHOLE:
    values = {str(header.get(name, '')) for header in found}
    if len(values) > 1:
      raise ScanError(path.parent, f'slices differ in {name}', _HEADERS)
  for name in _SHARED:
    _add(base, name, _needed(first, name, path))
  for name in _EMPTY:
    if name not in base:
      setattr(base, name, '')
  patient_name, base.PatientName = base.PatientName, ''
  base.Modality = str(first.get('Modality') or 'OT')
  base.Columns, base.Rows = volume.voxels.shape[:2]
  _add(base, 'SOPInstanceUID', _needed(first, 'SOPInstanceUID', path))
  size = (first.get('Columns'), first.get('Rows'))
  if size != volume.voxels.shape[:2]:
    raise ScanError(path, f'{size[0]} x {size[1]} pixels by now', _AGAIN)
  if 'PerFrameFunctionalGroupsSequence' in first:
    source = _frames(base, found, volume)
  else:
    source = _slices(base, found, volume)
  return source._replace(patient_name=patient_name)


def _read(path: pathlib.Path) -> Dataset:
  try:
    return pydicom.dcmread(path, stop_before_pixels=True, force=True)
  except Exception as error:
    raise ScanError(path, f'unreadable by now ({error})', _AGAIN) from error


def _needed(header: Dataset, name: str, path: pathlib.Path) -> Any:
  value = header.get(name)
  if value is None or value == '':
    raise ScanError(path, f'{name} is missing', _HEADERS)
  return value


def _add(header: Dataset, name: str, value: Any) -> None:
  """Sets an element that is repeated as it stands, against the rules too."""
  tag = pydicom.datadict.tag_for_keyword(name)
  vr = pydicom.datadict.dictionary_VR(tag)
  ignore = pydicom.config.IGNORE
  header.add(DataElement(tag, vr, value, validation_mode=ignore))


def _sound(header: Dataset) -> Dataset:
  """Patient and study, without the elements that break the rules."""
  out = Dataset()
  # Their values are not all readable: the tags are.
  for tag in list(header.keys()):
    wanted = tag.group in _GROUPS or tag in _ALSO
    if wanted and not tag.is_private:
      element = _checked(header, tag)
      if element is not None:
        out.add(element)
  sex = str(header.get('PatientSex') or '').strip().upper()
  out.PatientSex = sex if sex in ('M', 'F', 'O') else ''
  _add(out, 'PatientID', _joined(header.get('PatientID')))
  _add(out, 'PatientName', PersonName(_joined(header.get('PatientName'))))
  return out


def _joined(value: Any) -> str:
  """An element's text as it stands in the file, several values too."""
  many = isinstance(value, pydicom.multival.MultiValue)
  return '\\'.join(map(str, value)) if many else str(value or '')


def _checked(header: Dataset, tag) -> DataElement | None:
  """An element with its text decoded; None if it breaks the rules."""
  try:
    element = header[tag]
    if element.VR == 'SQ':
      items = [_whole(item) for item in element.value]
      sound = bool(items) and None not in items
      return DataElement(tag, 'SQ', items) if sound else None
    if element.VM > 1 and pydicom.datadict.dictionary_VM(tag) == '1':
      return None
    value = element.value
    if element.VR in _AS_TEXT:
      value = _joined(value)
    # ACR-NEMA wrote 1970.01.31 and 12:59:59.
    if element.VR in _OLD:
      value = value.replace(_OLD[element.VR], '')
      _TIMES[element.VR](value)
    for part in _parts(value):
      validate_value(element.VR, part, pydicom.config.RAISE)
    return DataElement(tag, element.VR, value)
  except Exception:  # Whatever it is, it does not go into another object.
    return None


def _parts(value: Any) -> list:
  if isinstance(value, str):
    return value.split('\\')
  many = isinstance(value, pydicom.multival.MultiValue)
  return list(value) if many else [value]


def _whole(item: Dataset) -> Dataset | None:
  """An item of a sequence; None if anything in it breaks the rules."""
  out = Dataset()
  for tag in list(item.keys()):
    element = _checked(item, tag)
    if element is None:
      return None
    out.add(element)
  return out


def _numbers(values) -> list[DSfloat]:
  """Decimal strings as they stand, shortened where they are too long."""
  return [
    value
    if isinstance(value, DSfloat) and len(str(value)) <= 16
    else DSfloat(float(value), auto_format=True)
    for value in values
  ]


def _thickness(found: Dataset, step: float) -> DSfloat:
  """Of the slices, or the distance between them where it is not told."""
  try:
    thickness = float(found.get('SliceThickness'))
  except (TypeError, ValueError):
    thickness = 0.0
  return DSfloat(thickness if thickness > 0 else step, auto_format=True)


def _step(volume: Volume) -> float:
  return float(np.linalg.norm(volume.affine[:3, 2]))


def _ordered(volume: Volume, positions: np.ndarray, path) -> np.ndarray:
  """For each slice the one of the positions that it is at.

  Args:
    volume: the slices.
    positions: `[images, 3]`, LPS mm.
    path: named in errors.

  Raises:
    ScanError: two at one place, or they are not where the volume is.
  """
  step, count = _step(volume), volume.voxels.shape[2]
  # RAS as LPS.
  first, onwards = (volume.affine[:3, k] * (-1, -1, 1) for k in (3, 2))
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


def _slices(base: Dataset, found: list[Dataset], volume: Volume) -> Source:
  """Headers of single-frame files."""
  count = volume.voxels.shape[2]
  if len(found) != count:
    raise ScanError(
      volume.files[0].parent,
      f'{len(found)} files for {count} slices',
      NIFTI,
    )
  images, positions, uids = [], [], set()
  for header, path in zip(found, volume.files, strict=True):
    image = Dataset()
    image.update(base)
    uid = _needed(header, 'SOPInstanceUID', path)
    if uid in uids:
      raise ScanError(
        path, 'SOPInstanceUID of another slice', f'export it again, or {NIFTI}'
      )
    uids.add(uid)
    _add(image, 'SOPInstanceUID', uid)
    position = _needed(header, 'ImagePositionPatient', path)
    image.ImagePositionPatient = _numbers(position)
    positions.append(np.array(position, float))
    # One for all: they may differ in the last digits.
    for name in _PLACED[1:]:
      value = _needed(found[0], name, volume.files[0])
      setattr(image, name, _numbers(value))
    image.SliceThickness = _thickness(found[0], _step(volume))
    image.SpacingBetweenSlices = DSfloat(_step(volume), auto_format=True)
    images.append(image)
  planes = _ordered(volume, np.array(positions), volume.files[0].parent)
  if (np.diff(planes) < 0).any():
    raise ScanError(
      volume.files[0].parent, 'its slices lie elsewhere by now', _AGAIN
    )
  return Source(images, planes, count, PersonName(''))


def _group(header: Dataset, frame: int, sequence: str) -> Dataset:
  """A frame's functional group, its own or shared by all."""
  own = header.PerFrameFunctionalGroupsSequence[frame].get(sequence)
  shared = header.get('SharedFunctionalGroupsSequence') or [Dataset()]
  group = own or shared[0].get(sequence)
  return group[0] if group else Dataset()


def _frames(base: Dataset, found: list[Dataset], volume: Volume) -> Source:
  """The header of a multi-frame file."""
  header, path = found[0], volume.files[0]
  if len(found) > 1:
    raise ScanError(
      path.parent, f'{len(found)} multi-frame files in one scan', NIFTI
    )
  count = len(header.PerFrameFunctionalGroupsSequence)
  per_frame, positions = [], []
  for frame in range(count):
    place = _group(header, frame, 'PlanePositionSequence')
    position = _needed(place, 'ImagePositionPatient', path)
    positions.append(np.array(position, float))
    per_frame.append(
      _nested('PlanePositionSequence', ImagePositionPatient=_numbers(position))
    )
  planes = _ordered(volume, np.array(positions), path)
  used = int(planes[0])
  place = _group(header, used, 'PlaneOrientationSequence')
  measures = _group(header, used, 'PixelMeasuresSequence')
  shared = _nested(
    'PlaneOrientationSequence',
    ImageOrientationPatient=_numbers(
      _needed(place, 'ImageOrientationPatient', path)
    ),
  )
  shared.update(
    _nested(
      'PixelMeasuresSequence',
      PixelSpacing=_numbers(_needed(measures, 'PixelSpacing', path)),
      SliceThickness=_thickness(measures, _step(volume)),
      SpacingBetweenSlices=DSfloat(_step(volume), auto_format=True),
    )
  )
  base.NumberOfFrames = count
  base.SharedFunctionalGroupsSequence = [shared]
  base.PerFrameFunctionalGroupsSequence = per_frame
  return Source([base], planes, count, PersonName(''))


def _nested(sequence: str, **values: Any) -> Dataset:
  """A header with one sequence of one item."""
  item, out = Dataset(), Dataset()
  for name, value in values.items():
    setattr(item, name, value)
  setattr(out, sequence, [item])
  return out
