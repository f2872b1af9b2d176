"""A DICOM file but for its pixels."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import logging
import os
import pathlib
import struct
import threading
from typing import Any, NamedTuple
import warnings

import pydicom
from pydicom import uid as uids
from pydicom.datadict import tag_for_keyword
from pydicom.tag import BaseTag
from pydicom.valuerep import VR

from data.formats.scan_error import AGAIN, ScanError

EXPORT = 'export the whole series again'
HEADERS = 'export the series with full headers'
# What a series says of itself and its reader hands on: evidence, not proof.
TOLD = (
  'Modality', 'SeriesDescription', 'SeriesNumber', 'SeriesInstanceUID',
  'StudyInstanceUID', 'ProtocolName', 'BodyPartExamined', 'ImageType',
  'ScanningSequence', 'SequenceVariant', 'ScanOptions', 'SequenceName',
  'MRAcquisitionType', 'EchoTime', 'RepetitionTime', 'InversionTime',
  'FlipAngle', 'MagneticFieldStrength', 'ContrastBolusAgent', 'KVP',
  'ConvolutionKernel', 'RescaleType', 'Units',
)  # fmt: skip
_NEEDED = (
  'SpecificCharacterSet', 'SOPClassUID', 'SOPInstanceUID', 'SamplesPerPixel',
  'PhotometricInterpretation', 'PlanarConfiguration', 'NumberOfFrames', 'Rows',
  'Columns', 'PixelSpacing', 'BitsAllocated', 'BitsStored', 'HighBit',
  'PixelRepresentation', 'PixelPaddingValue', 'PixelPaddingRangeLimit',
  'RescaleIntercept', 'RescaleSlope', 'ModalityLUTSequence',
  'ImagePositionPatient', 'ImageOrientationPatient', 'ExtendedOffsetTable',
  'ExtendedOffsetTableLengths', 'SharedFunctionalGroupsSequence',
  'PerFrameFunctionalGroupsSequence', 'InstanceNumber', 'EchoNumbers',
  'EffectiveEchoTime', 'InversionTimes', 'PulseSequenceName', 'DiffusionBValue',
  'TriggerTime', 'NominalCardiacTriggerDelayTime', 'TemporalPositionIdentifier',
  'AcquisitionNumber', 'AcquisitionTime', 'ContentTime',
)  # fmt: skip


def tag_of(keyword: str) -> BaseTag:
  """The tag of an element that the standard names."""
  tag = tag_for_keyword(keyword)
  assert tag is not None, keyword
  return BaseTag(tag)


# b-values of two vendors: no keyword, no place in the standard.
SIEMENS_B, GE_B = BaseTag(0x0019100C), BaseTag(0x00431039)
_TAGS: list[BaseTag | int] = [
  *(tag_of(name) for name in (*TOLD, *_NEEDED)), SIEMENS_B, GE_B
]  # fmt: skip
# PixelData, and those of floating-point pixels.
_PIXELS = frozenset((0x7FE00010, 0x7FE00009, 0x7FE00008))
LOST_PIXELS = 'truncated: it ends before its pixels'
_MAGIC = b'DICM'
_DEFLATED = uids.DeflatedExplicitVRLittleEndian
_VRS = {vr.value.encode() for vr in VR if len(vr.value) == 2}

_LOCK = threading.Lock()
_INSIDE: list[int] = []
_FILTERS = contextlib.ExitStack()


class Pixels(NamedTuple):
  """Where a file's pixels lie.

  Attributes:
    tag: of the element: integers or floating-point.
    vr: its value representation, where the file says it.
    offset: bytes in front of the value.
    length: of the value; None where it is encapsulated.
  """

  tag: int
  vr: str | None
  offset: int
  length: int | None


class Header(NamedTuple):
  """A file but for its pixels.

  Attributes:
    path: the file.
    found: its elements that matter here, and its `file_meta`.
    pixels: where they are; None if there are none.
    size: of the file, in bytes.
    damage: why the file cannot be used, None if it can.
    texts: what `text` has returned, by keyword.
  """

  path: pathlib.Path
  found: pydicom.Dataset
  pixels: Pixels | None
  size: int
  damage: ScanError | None
  texts: dict[str, str]

  @property
  def place(self) -> Pixels:
    """Where its pixels are; only files with pixels come so far."""
    assert self.pixels is not None
    return self.pixels

  def text(self, keyword: str) -> str:
    """An element's value as people read it; '' if there is none."""
    if keyword not in self.texts:
      self.texts[keyword] = text(self.found, keyword)
    return self.texts[keyword]

  def items(self, keyword: str) -> Sequence[pydicom.Dataset]:
    """The items of a sequence; () if there is none."""
    return items(self.found, keyword)

  def error(self, reason: str, remedy: str = HEADERS) -> ScanError:
    """What is wrong with the file."""
    return ScanError(self.path, reason, remedy)

  def need(self, sound: object, reason: str, remedy: str = HEADERS) -> None:
    """Refuses a file that is not sound, saying what is wrong."""
    if not sound:
      raise self.error(reason, remedy)

  def whole(self, keyword: str) -> int:
    """An element's whole number.

    Raises:
      ScanError: it has none.
    """
    said = self.text(keyword)
    try:
      return int(said)
    except ValueError:
      what = f'impossible {keyword} {said}' if said else f'{keyword} is missing'
      raise self.error(what) from None


@contextlib.contextmanager
def unsaid() -> Iterator[None]:
  """Without the library's remarks: what matters is found by the checks.

  Archives that were made anonymous have unusual ids, and hospitals' character
  sets are often misspelt: any word will do. Filters are of the whole process:
  threads that are inside at a time share one.
  """
  with _LOCK:
    _INSIDE.append(1)
    if len(_INSIDE) == 1:
      _FILTERS.enter_context(_ignoring())
  try:
    yield
  finally:
    with _LOCK:
      _INSIDE.pop()
      if not _INSIDE:
        _FILTERS.close()


@contextlib.contextmanager
def _ignoring() -> Iterator[None]:
  logger = logging.getLogger('pydicom')
  before = logger.level
  logger.setLevel(logging.CRITICAL + 1)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      yield
  finally:
    logger.setLevel(before)


def text(found: pydicom.Dataset | Mapping[str, Any], keyword: str) -> str:
  """An element's value as people read it, several joined by a backslash."""
  try:
    value = found.get(keyword)
    if value is None:
      return ''
    if isinstance(value, str | bytes | int | float):
      value = [value]
    return '\\'.join(str(v).strip().strip('\0') for v in value)
  except Exception:  # Nothing that anybody could read.
    return ''


def items(found: pydicom.Dataset, keyword: str) -> Sequence[pydicom.Dataset]:
  """The items of a sequence; () if there is none that can be read."""
  try:
    value = found.get(keyword)
    return value if isinstance(value, pydicom.Sequence) else ()
  except Exception:
    return ()


def _begins_like_dicom(head: bytes) -> bool:
  """Whether the first element is one that a data set begins with."""
  if len(head) < 8:
    return False
  for order in '<>':
    group, element, length = struct.unpack_from(f'{order}HHI', head)
    if group in (2, 8) and element <= 0x70:
      return head[4:6] in _VRS or (order == '<' and length <= 256)
  return False


def damaged(error: ScanError) -> Header:
  """What stands for a file of which nothing could be read."""
  return Header(pathlib.Path(error.file), pydicom.Dataset(), None, 0, error, {})


def read_header(path: pathlib.Path) -> Header | None:
  """Reads a file up to its pixels; None if it is no DICOM file at all.

  Raises:
    OSError: it cannot be read.
  """
  with path.open('rb') as file, unsaid():
    size = os.fstat(file.fileno()).st_size
    head = file.read(132)
    if head[128:] != _MAGIC and not _begins_like_dicom(head):
      return None
    file.seek(0)
    return _parse(path, file, size, head[128:] == _MAGIC)


def _parse(path, file, size: int, preamble: bool) -> Header:
  """The header of an open DICOM file."""
  pixels = []

  def at_pixels(tag, vr, length):
    if tag in _PIXELS:
      length = None if length == 0xFFFFFFFF else length
      pixels.append(Pixels(int(tag), vr, file.tell(), length))
    return tag in _PIXELS

  try:
    # The compressed part of a deflated file says nowhere how much will come
    # out of it.
    if preamble:
      meta = pydicom.filereader.read_file_meta_info(path)
      deflated = meta.get('TransferSyntaxUID') == _DEFLATED
    else:
      deflated = _DEFLATED.encode() in file.read(1 << 16)
    if deflated:
      reason = 'a deflated DICOM file'
      return damaged(ScanError(path, reason, 'export the series uncompressed'))
    file.seek(0)
    found = pydicom.filereader.read_partial(
      file, at_pixels, force=True, specific_tags=_TAGS
    )
    cut = file.tell() > size
  except Exception as error:
    reason = f'not a readable DICOM file, or truncated ({error})'
    return damaged(ScanError(path, reason, AGAIN))
  reason = ''
  place = pixels[0] if pixels else None
  if place is None and _should_have_pixels(found, cut):
    reason = LOST_PIXELS
  elif place and place.length and place.offset + place.length > size:
    there = max(size - place.offset, 0)
    reason = f'truncated: {there} of the {place.length} bytes of its pixels'
    reason += ' are there'
  damage = ScanError(path, reason, AGAIN) if reason else None
  return Header(path, found, place, size, damage, {})


def object_class(found: pydicom.Dataset) -> uids.UID:
  """Its SOP class; an empty one if it does not say."""
  meta = getattr(found, 'file_meta', {})
  return uids.UID(
    text(found, 'SOPClassUID') or text(meta, 'MediaStorageSOPClassUID')
  )


def _should_have_pixels(found: pydicom.Dataset, cut: bool) -> bool:
  """Whether a file without pixels lost them."""
  kind = object_class(found)
  if kind == uids.MediaStorageDirectoryStorage:
    return False
  if kind.name.endswith('Image Storage') or 'Rows' in found:
    return True
  # Whatever it is, it begins with these.
  if 'SOPInstanceUID' not in found or 'SeriesInstanceUID' not in found:
    return True
  return cut and not kind.name.endswith(' Storage')


def frame_count(header: Header) -> int:
  """How many frames a file announces.

  Raises:
    ScanError: no sensible number.
  """
  if not header.text('NumberOfFrames'):
    return 1
  count = header.whole('NumberOfFrames')
  header.need(count >= 0, f'impossible NumberOfFrames {count}')
  return max(count, 1)
