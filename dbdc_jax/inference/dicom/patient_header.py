"""Whom and which study a DICOM header is of, in a form that keeps the rules.

Real headers are sloppy: dates that are none, unknown character sets, private
elements, texts that are too long. What breaks the rules does not go into
another object, but for the patient's name and id: those are never changed.
"""

from typing import Any

import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.valuerep import DA, TM, PersonName, validate_value

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
# What ACR-NEMA parted their digits with (1970.01.31, 12:59:59), and their kind.
_TIMES = {'DA': ('.', DA), 'TM': (':', TM)}


def value(header: Dataset, name: str) -> Any:
  """An element's value; None if it is not there, empty or unreadable.

  Args:
    header: that it is in.
    name: its keyword.
  """
  try:
    found = header.get(name)
  except Exception:  # Bytes that the element's kind does not allow.
    return None
  return None if isinstance(found, str) and not found else found


def put(header: Dataset, name: str, found: Any) -> None:
  """Sets an element to what it is elsewhere, against the rules too.

  Args:
    header: that it is set in.
    name: its keyword.
    found: its value, elsewhere.
  """
  tag = Tag(name)
  vr = pydicom.datadict.dictionary_VR(tag)
  ignore = pydicom.config.IGNORE
  header.add(DataElement(tag, vr, found, validation_mode=ignore))


def copy(header: Dataset) -> Dataset:
  """Patient and study, without the elements that break the rules.

  What every object must have is there, empty if need be.

  Args:
    header: of an image.
  """
  out = Dataset()
  # Their values are not all readable: the tags are.
  for tag in list(header.keys()):
    wanted = tag.group in _GROUPS or tag in _ALSO
    if wanted and not tag.is_private:
      element = _checked(header, tag)
      if element is not None:
        out.add(element)
  sex = str(value(header, 'PatientSex') or '').strip().upper()
  out.PatientSex = sex if sex in ('M', 'F', 'O') else ''
  put(out, 'PatientID', _joined(value(header, 'PatientID')))
  put(out, 'PatientName', PersonName(_joined(value(header, 'PatientName'))))
  for name in _EMPTY:
    if name not in out:
      setattr(out, name, '')
  return out


def _joined(found: Any) -> str:
  """An element's text as it stands in the file, several founds too."""
  many = isinstance(found, pydicom.multival.MultiValue)
  return '\\'.join(map(str, found)) if many else str(found or '')


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
    found = element.value
    if element.VR in _AS_TEXT:
      found = _joined(found)
    if element.VR in _TIMES:
      mark, kind = _TIMES[element.VR]
      found = found.replace(mark, '')
      kind(found)
    for part in _parts(found):
      validate_value(element.VR, part, pydicom.config.RAISE)
    return DataElement(tag, element.VR, found)
  except Exception:  # Whatever it is, it does not go into another object.
    return None


def _parts(found: Any) -> list:
  if isinstance(found, str):
    return found.split('\\')
  many = isinstance(found, pydicom.multival.MultiValue)
  return list(found) if many else [found]


def _whole(item: Dataset) -> Dataset | None:
  """An item of a sequence; None if anything in it breaks the rules."""
  out = Dataset()
  for tag in list(item.keys()):
    element = _checked(item, tag)
    if element is None:
      return None
    out.add(element)
  return out
