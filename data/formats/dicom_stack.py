"""How the frames of a DICOM series make one volume, or why they do not.

Frames agree within a tolerance: headers are decimals, printed with few digits.
A real disagreement names the frames that are not like most.
"""

from collections.abc import Callable, Sequence
import itertools
from typing import NamedTuple

import numpy as np

from data.files import names
from data.formats import affines
from data.formats.dicom_frames import Frame
from data.formats.dicom_header import EXPORT, GE_B, SIEMENS_B
from data.formats.scan_error import ScanError

# Gaps between neighbouring slices may differ by this share of the median.
_GAP_TOLERANCE = 0.1
# Pixel spacings may differ by this share, or by so many mm where that moves no
# pixel by more than half of one.
_SPACING_SHARE, _SPACING_MM = 1e-3, 0.01
# Directions may differ by this angle.
_DEGREES = 0.1
# An affine keeps what rounding does to it up to here (mm at the far slice, and
# the length of a direction).
_DRIFT, _LENGTH = 0.01, 1e-4
_AWAY = 'move {} away, or export the whole series again'
_APART = 'export each of them as its own series, a folder each'
_EVEN = 'resample the series to even steps, or give each part its own folder'
# What may differ between images of one place: what people call it, the elements
# that tell it, the unit.
_KINDS: tuple[tuple[str, tuple[str | int, ...], str], ...] = (
  ('echoes', ('EchoTime', 'EffectiveEchoTime'), 'ms'),
  ('echoes', ('EchoNumbers',), ''),
  ('b-values', ('DiffusionBValue', SIEMENS_B, GE_B), 's/mm2'),
  ('inversion times', ('InversionTime', 'InversionTimes'), 'ms'),
  ('flip angles', ('FlipAngle',), 'degrees'),
  ('tube voltages', ('KVP',), 'kV'),
  ('kernels', ('ConvolutionKernel',), ''),
  ('kinds of image', ('FrameType', 'ImageType'), ''),
)
_HEART: tuple[str, ...] = ('NominalCardiacTriggerDelayTime', 'TriggerTime')
_TIMES = (
  'TemporalPositionIdentifier', 'TemporalPositionIndex',
  'TemporalPositionTimeOffset', 'AcquisitionNumber', 'FrameAcquisitionDateTime',
  'AcquisitionTime', 'ContentTime',
)  # fmt: skip


class Stack(NamedTuple):
  """Frames that make one volume.

  Attributes:
    frames: in slice order, along the normal of their rows and columns.
    affine: `[4, 4]`, of `[columns, rows, slices]`, to RAS mm.
  """

  frames: list[Frame]
  affine: np.ndarray


def listed(frames: Sequence[Frame]) -> str:
  """The names of some frames, the first ones."""
  return names.listed([frame.name for frame in frames], 3)


def check_alike(
  frames: Sequence[Frame],
  name: str,
  same: Callable[[Frame, Frame], bool],
  show: Callable[[Frame], object],
  folder: str,
) -> None:
  """Checks that all frames agree; the majority is right.

  Raises:
    ScanError: naming those that differ, with their value and the others'.
  """
  groups: list[list[Frame]] = []
  for frame in frames:
    like = (group for group in groups if same(group[0], frame))
    group = next(like, None)
    if group is None:
      groups.append([frame])
    else:
      group.append(frame)
  (usual, *_), *others = sorted(groups, key=len, reverse=True)
  if not others:
    return
  odd = [frame for group in others for frame in group]
  if 2 * len(odd) < len(frames):
    raise ScanError(
      folder,
      f'{listed(odd)} differ{"s" * (len(odd) == 1)} in {name}:'
      f' {show(odd[0])}, the others have {show(usual)}',
      _AWAY.format('it' if len(odd) == 1 else 'them'),
    )
  firsts = [usual, *(group[0] for group in others)]
  some = ', '.join(f'{show(one)} ({one.name})' for one in firsts[:4])
  raise ScanError(
    folder,
    f'slices differ in {name}: {some}',
    'a folder for each of them, or ' + EXPORT,
  )


def _same_spacing(a: Frame, b: Frame) -> bool:
  tolerance = np.minimum(_SPACING_MM, 0.5 * a.spacing / np.max(a.shape))
  tolerance = np.maximum(_SPACING_SHARE * a.spacing, tolerance)
  return bool((np.abs(a.spacing - b.spacing) <= tolerance).all())


def _same_turn(a: Frame, b: Frame) -> bool:
  # As an angle, whatever the length that rounding gave a direction.
  angle = lambda u, v: np.degrees(
    np.arctan2(np.linalg.norm(np.cross(u, v)), u @ v)
  )
  u, v = a.orientation, b.orientation
  return max(angle(u[:3], v[:3]), angle(u[3:], v[3:])) <= _DEGREES


def _normal(frame: Frame) -> np.ndarray:
  """The slice normal (LPS), from the orientation's two directions."""
  row, column = frame.orientation[:3], frame.orientation[3:]
  normal = np.cross(row, column)
  lengths = [np.linalg.norm(v) for v in (row, column, normal)]
  if np.abs(np.array(lengths) - 1).max() > 0.01:
    words = f'impossible ImageOrientationPatient {frame.orientation.tolist()}'
    raise frame.header.error(words, EXPORT)
  return normal / lengths[2]


def _sorts(key: str | int, places: Sequence[Sequence[Frame]]) -> list[str]:
  """The values of an element that tells the images of every place apart.

  Args:
    key: of `Frame.said`.
    places: the frames of each place.

  Returns:
    Every value once, in the order of the files; [] if it does not.
  """
  value = lambda frame: frame.said(key)
  if any(len(p) > 1 and len({*map(value, p)}) < 2 for p in places):
    return []
  frames = sorted(
    (frame for place in places for frame in place),
    key=lambda frame: (frame.header.path, frame.number),
  )
  values = list(dict.fromkeys(map(value, frames)))
  return values if 1 < len(values) <= max(map(len, places)) else []


def _words(noun: str, key: str | int, unit: str, values: list[str]) -> str:
  """'2 echoes (EchoTime 4.6 and 2.3 ms)'."""
  some = [value or 'none' for value in values[:4]]
  some[-2:] = [' and '.join(some[-2:])]
  shown = ', '.join(some) + (', ...' if len(values) > 4 else '')
  name = f'{key} ' if isinstance(key, str) else ''
  unit = f' {unit}' if unit else ''
  return f'{len(values)} {noun} ({name}{shown}{unit})'


def _explain(places: Sequence[Sequence[Frame]], where: float, folder: str):
  """The error of a series with several images at a place.

  Args:
    places: the frames of each place, in order.
    where: mm along the normal of the first place with several.
    folder: shown.
  """
  several = [place for place in places if len(place) > 1]
  for noun, keys, unit in _KINDS:
    for key in keys:
      if values := _sorts(key, places):
        words = _words(noun, key, unit, values)
        return ScanError(folder, f'{words} in one series', _APART)
  if 2 * len(several) > len(places):
    most = max(map(len, several))
    for noun, times in (('heart phases', _HEART), ('dynamics', _TIMES)):
      if any(len({f.said(key) for f in several[0]}) > 1 for key in times):
        return ScanError(folder, f'{most} {noun} at each position', _APART)
    if most > 2 or len(several) > 2:
      return ScanError(folder, f'{most} images at each position', _APART)
  two = ' and '.join(frame.name for frame in several[0][:2])
  return ScanError(
    folder,
    f'repeated slice at {where:.2f} mm: {two}, which are not the same file',
    'remove the duplicate that is wrong',
  )


def _check_places(
  frames: Sequence[Frame], positions: np.ndarray, folder: str
) -> float:
  """Distance between slices in mm, from their sorted positions."""
  gaps = np.diff(positions)
  new = gaps > 1e-3 * gaps.max(initial=0) + 1e-6
  if not new.all():
    cuts = np.flatnonzero(new) + 1
    bounds = itertools.pairwise([0, *cuts, len(frames)])
    places = [frames[start:stop] for start, stop in bounds]
    raise _explain(places, positions[int(np.argmin(new))], folder)
  step = float(np.median(gaps))
  uneven = np.abs(gaps - step) > _GAP_TOLERANCE * step
  if not uneven.any():
    mean = float(gaps.mean())
    return mean if abs(mean - step) * len(gaps) > _DRIFT else step
  # Where slices are missing, the gaps are multiples of the others.
  step = float(np.sort(gaps)[(len(gaps) - 1) // 2])
  times = gaps / step
  wide = np.round(times) > 1
  whole = np.abs(times - np.round(times)) <= _GAP_TOLERANCE * np.round(times)
  where = positions[int(np.argmax(gaps))]
  reason = f'missing slice after {where:.2f} mm (steps of {step:.2f} mm)'
  remedy = EXPORT
  if 2 * wide.sum() > len(gaps) or not whole.all():
    span = f'{gaps.min():.2f} to {gaps.max():.2f}'
    reason, remedy = f'slices lie unevenly, {span} mm apart', _EVEN
  raise ScanError(folder, reason, remedy)


def _check_straight(places, normal, frames, folder) -> None:
  """Slices must lie behind one another, along their normal."""
  moved = places - places[0]
  along = moved @ normal
  sideways = np.linalg.norm(moved - np.outer(along, normal), axis=1)
  allowed = max(
    0.5 * frames[0].spacing.min(), np.tan(np.radians(_DEGREES)) * along[-1]
  )
  if sideways.max() <= allowed:
    return
  even = np.abs(np.diff(moved, axis=0) - moved[-1] / (len(moved) - 1)).max()
  reason = 'slices are shifted sideways'
  if even <= allowed:
    tilt = np.degrees(np.arctan2(sideways[-1], along[-1]))
    reason += f', each by the same: a gantry tilted by {tilt:.1f} degrees'
    raise ScanError(folder, reason, 'resample the series to a straight grid')
  worst = frames[int(np.argmax(sideways))]
  reason += f' by up to {sideways.max():.2f} mm ({worst.name})'
  remedy = EXPORT + ', or resample it to a straight grid'
  raise ScanError(folder, reason, remedy)


def _affine(first: Frame, normal: np.ndarray, step: float) -> np.ndarray:
  """Affine of `[columns, rows, slices]`, LPS turned into RAS."""
  directions = first.orientation.reshape(2, 3).T
  lengths = np.linalg.norm(directions, axis=0)
  if np.abs(lengths - 1).max() > _LENGTH:
    directions = directions / lengths
  affine = np.eye(4)
  affine[:3, :2] = directions * first.spacing[::-1]
  affine[:3, 2] = normal * step
  affine[:3, 3] = first.position
  return affines.LPS @ affine


def stack(frames: Sequence[Frame], folder: str) -> Stack:
  """Puts frames in order and checks that they make one volume.

  Args:
    frames: of one series.
    folder: shown in errors.

  Raises:
    ScanError: they do not.
  """
  if len(frames) < 2:
    # Unlike a NIfTI file, it says neither how many slices belong together nor
    # how far apart they are: most likely the others were not copied.
    raise ScanError(folder, 'a single slice is no volume', EXPORT)
  stacks = {frame.said('StackID') for frame in frames}
  if len(stacks) > 1:
    found = ' and '.join(sorted(stacks))
    raise ScanError(
      folder, f'{len(stacks)} stacks in one series (StackID {found})', _APART
    )
  shape = lambda f: f'{f.shape[0]} x {f.shape[1]}'
  spacing = lambda f: np.round(f.spacing, 4).tolist()
  turn = lambda f: np.round(f.orientation, 4).tolist()
  same_shape = lambda a, b: a.shape == b.shape
  check_alike(frames, 'Rows x Columns', same_shape, shape, folder)
  check_alike(frames, 'PixelSpacing', _same_spacing, spacing, folder)
  check_alike(frames, 'ImageOrientationPatient', _same_turn, turn, folder)
  normal, *_ = map(_normal, frames)
  frames = sorted(frames, key=lambda f: float(normal @ f.position))
  places = np.array([frame.position for frame in frames])
  step = _check_places(frames, places @ normal, folder)
  _check_straight(places, normal, frames, folder)
  affine = _affine(frames[0], normal, step)
  affines.check_sides(affine, folder)
  return Stack(frames, affine)
