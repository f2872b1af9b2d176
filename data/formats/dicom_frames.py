"""What a DICOM header says of each of its frames.

A classic file is one slice. An enhanced file has many frames; what is said of a
frame stands in its own functional groups, in the shared ones, or in the file.
"""

from collections.abc import Sequence
import pathlib
from typing import NamedTuple

import numpy as np
import pydicom

from data.formats.dicom_header import (
  EXPORT,
  GE_B,
  HEADERS,
  Header,
  frame_count,
  items,
  tag_of,
)
from data.formats.scan_error import ScanError

# Others may hold the same elements for reasons of their own.
_FIRST = (
  'PlanePositionSequence',
  'PlaneOrientationSequence',
  'PixelMeasuresSequence',
  'PixelValueTransformationSequence',
)


class Frame(NamedTuple):
  """One slice.

  Attributes:
    header: of its file.
    number: of the frame in its file, from 0.
    shape: rows, columns.
    spacing: mm between rows, between columns.
    position: LPS mm of the first pixel, `[3]`.
    orientation: LPS directions along a row and along a column, `[6]`.
    slope: of the rescaling; None if it has none.
    intercept: of the rescaling; None if it has none.
    places: the data sets that speak of it, the most special one first.
  """

  header: Header
  number: int
  shape: tuple[int, int]
  spacing: np.ndarray
  position: np.ndarray
  orientation: np.ndarray
  slope: float | None
  intercept: float | None
  places: tuple[pydicom.Dataset, ...]

  @property
  def scale(self) -> float:
    """The slope, 1 if it has none."""
    return 1.0 if self.slope is None else self.slope

  @property
  def unit(self) -> str:
    """The rescaling's type, e.g. 'HU', or ''."""
    return self.said('RescaleType')

  @property
  def name(self) -> str:
    """How people find it."""
    if self.header.text('NumberOfFrames') in ('', '1'):
      return self.header.path.name
    return f'frame {self.number + 1} of {self.header.path.name}'

  def said(self, key: str | int) -> str:
    """What an element (keyword or tag) says of it, as text; '' if nothing."""
    try:
      element = element_of(self.places, key)
      value = '' if element is None else element.value
      if key == GE_B:
        # A number hides more in the digits in front.
        value = int(value[0]) % 100000 if value else ''
      elif isinstance(value, bytes):
        value = value.decode('ascii', 'replace').strip(' \0')
      elif not isinstance(value, str | int | float):
        value = '\\'.join(map(str, value))
      return f'{value:g}' if isinstance(value, float) else str(value).strip()
    except Exception:  # Nothing that anybody could read.
      return ''


def numbers(
  places: Sequence[pydicom.Dataset], name: str, count: int, file: pathlib.Path
) -> np.ndarray | None:
  """The finite numbers of an element, `[count]`; None if it is empty.

  Args:
    places: where it may be.
    name: its keyword.
    count: how many numbers it must have.
    file: shown in errors.

  Raises:
    ScanError: it holds anything else.
  """
  try:
    element = element_of(places, name)
    if element is None:
      return None
    out = np.array(element.value, np.float64).ravel()
  except Exception as error:
    raise ScanError(file, f'unreadable {name} ({error})', HEADERS) from error
  if not len(out):
    return None
  if out.shape != (count,) or not np.isfinite(out).all():
    raise ScanError(file, f'impossible {name} {out.tolist()}', HEADERS)
  return out


def element_of(places: Sequence[pydicom.Dataset], key: str | int):
  """The first element of that name that says anything; None if none does.

  Args:
    places: where it may be.
    key: its keyword, or its tag if it has none.
  """
  tag = tag_of(key) if isinstance(key, str) else key
  for place in places:
    if tag in place:
      element = place[tag]
      if element.value is not None and element.value != '':
        return element
  return None


def _macros(found: pydicom.Dataset, groups: str, index: int) -> list:
  """The functional groups of a frame, or the shared ones, as data sets.

  Those of the standard, where a frame lies and what its values mean first: a
  vendor's own may repeat what another frame says.
  """
  return [
    sequence[0]
    for group in items(found, groups)[index : index + 1]
    for name in sorted(group.dir('Sequence'), key=lambda n: n not in _FIRST)
    if (sequence := items(group, name))
  ]


def frames_of(header: Header) -> list[Frame]:
  """The frames of a file.

  Raises:
    ScanError: it does not say where they lie.
  """
  found, count = header.found, frame_count(header)
  shared = _macros(found, 'SharedFunctionalGroupsSequence', 0)
  described = len(header.items('PerFrameFunctionalGroupsSequence'))
  words = f'{count} frames are announced, {described} are described'
  header.need(described in (0, count), words, EXPORT)
  out = []
  for index in range(count):
    own = _macros(found, 'PerFrameFunctionalGroupsSequence', index)
    out.append(_frame(header, index, [*own, *shared, found], count))
  return out


def _frame(header: Header, index: int, places, count: int) -> Frame:
  file, needed = header.path, []
  for name, size in (
    ('PixelSpacing', 2),
    ('ImagePositionPatient', 3),
    ('ImageOrientationPatient', 6),
  ):
    # What is said of a whole file cannot be where each of its frames lies.
    own = places[:-1] if count > 1 and size == 3 else places
    found = numbers(own, name, size, file)
    if found is None:
      which = f' for its {count} frames' if count > 1 else ''
      raise header.error(f'{name} is missing{which}')
    needed.append(found)
  spacing, position, orientation = needed
  words = f'PixelSpacing {spacing.tolist()} is not positive'
  header.need((spacing > 0).all(), words)
  names = 'RescaleSlope', 'RescaleIntercept'
  rescale = (numbers(places, name, 1, file) for name in names)
  slope, intercept = (x if x is None else float(x[0]) for x in rescale)
  return Frame(
    header,
    index,
    (int(header.found.Rows), int(header.found.Columns)),
    spacing,
    position,
    orientation,
    slope,
    intercept,
    tuple(places),
  )
