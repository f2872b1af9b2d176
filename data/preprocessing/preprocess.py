"""From a scan as it lies on disk to 2-D slices, and back.

Prepared slices are those of the modality's plane (`planes.py`): of axial ones,
axis 0 runs from feet to head, rows from the front of the patient to the back,
columns from the patient's right to the left (the way radiologists look at
them). Intensities are uint16 (`task.to_float`).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from scipy import ndimage

from data.preprocessing import padding, planes
from data.task import ONE, UNKNOWN, Intensity, Modality, Scan, to_float

# Margin around the labelled region, in mm, for roi='label'.
ROI_MARGIN = 10.0


class SliceTooSmallError(ValueError):
  """A scan's slices do not fit into the prepared ones."""


class PreparedScan(NamedTuple):
  """A scan ready for training.

  Attributes:
    images: `[S, size, size]` uint16.
    labels: `[S, size, size]` uint8, zeros for a scan without a label,
      `UNKNOWN` where nobody looked.
    native_labels: `[S, h, w]` uint8 on the reoriented, cropped grid.
    geometry: what the way back needs (JSON-able).
    spacing: (slice, row, column) of the native grid, mm.
  """

  images: np.ndarray
  labels: np.ndarray
  native_labels: np.ndarray
  geometry: dict[str, Any]
  spacing: tuple[float, float, float]


def reoriented_spacing(
  affine: np.ndarray, plane: str
) -> tuple[float, float, float]:
  """Voxel sides in mm of a reoriented scan: (slice, row, column)."""
  sizes = np.linalg.norm(affine[:3, :3], axis=0)
  # An orientation says for each input axis which output axis it becomes.
  inputs = np.argsort(planes.orientation(affine, plane)[:, 0])
  across, down, along = map(float, sizes[inputs])
  return across, down, along


def reorient(voxels: np.ndarray, affine: np.ndarray, plane: str) -> np.ndarray:
  """`[X, Y, Z]` on disk to `[slices, rows, columns]` of a plane."""
  return nib.orientations.apply_orientation(
    voxels, planes.orientation(affine, plane)
  )


def limits(image: np.ndarray, intensity: Intensity) -> tuple[float, float]:
  """The scanner values of a volume that become 0 and 1.

  A fixed window; or the darkest value, padding and single odd voxels left out
  (`padding.py`), to the upper percentile (the maximum where that is the
  darkest value).
  """
  low, high = intensity.window or padding.limits(
    image, intensity.upper_percentile
  )
  return low, (high if high > low else float(image.max()))


def between(image: np.ndarray, low: float, high: float) -> np.ndarray:
  """Scanner units to [0, 1], float32; without any contrast, 0."""
  if high <= low:
    return np.zeros(image.shape, np.float32)
  return np.clip((image - low) / (high - low), 0, 1).astype(np.float32)


def to_unit(image: np.ndarray, intensity: Intensity) -> np.ndarray:
  """Scanner units of a whole volume to [0, 1], float32; see `limits`."""
  return between(image, *limits(image, intensity))


def label_box(
  label: np.ndarray, spacing: Sequence[float], margin: float
) -> list[list[int]] | None:
  """Bounding box of the label's largest connected component.

  Stray foreground elsewhere, as some archives have at the volume's border, is
  ignored. Which class a voxel has makes no difference.

  Args:
    label: `[S, H, W]` classes.
    spacing: mm.
    margin: mm added on every side.

  Returns:
    `[[start, stop]] * 3`, or None without any foreground.
  """
  parts, count = ndimage.label((label > 0) & (label != UNKNOWN))
  if not count:
    return None
  largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
  box = []
  found = ndimage.find_objects(parts)[largest - 1]
  for part, size, mm in zip(found, label.shape, spacing, strict=True):
    extra = int(np.ceil(margin / mm))
    box.append([max(0, part.start - extra), min(size, part.stop + extra)])
  return box


def _factor_and_offset(geometry, axis):
  """Prepared pixels per native pixel along rows (0) or columns (1).

  Returns:
    (factor, offset): prepared = (native + 0.5) * factor - 0.5 + offset.
  """
  factor = geometry['spacing'][1 + axis] / geometry['mm_per_pixel']
  return factor, geometry['pad'][axis]


def resample(
  stack: np.ndarray,
  geometry: dict[str, Any],
  canvas: tuple[int, int],
  order: int,
) -> np.ndarray:
  """Resamples slices in plane, padding with 0.

  Args:
    stack: `[S, h, w]` on the native grid.
    geometry: says how large a pixel is, and where the slice lies.
    canvas: rows and columns to make.
    order: 1 for images (linear), 0 for labels (nearest).

  Returns:
    `[S, *canvas]`.
  """
  factors, at = [], []
  for axis, side in enumerate(canvas):
    factor, pad = _factor_and_offset(geometry, axis)
    factors.append(factor)
    # Native coordinates of the prepared pixels.
    at.append((0.5 - pad) / factor - 0.5 + np.arange(side) / factor)
  places = list(zip(at, geometry['native_shape'][1:], strict=True))
  inside = [(a > -0.5 - 1e-6) & (a < n - 0.5 + 1e-6) for a, n in places]
  if order == 0:
    pick = [np.clip(np.round(a), 0, n - 1).astype(int) for a, n in places]
    out = stack[:, pick[0][:, None], pick[1][None]]
  else:
    # Shrinking: average first, so that thin structures do not flicker.
    sigma = [0, *(0.5 * np.sqrt(max(f**-2 - 1, 0)) for f in factors)]
    smooth = ndimage.gaussian_filter(stack, sigma, mode='nearest')
    out = _linear(_linear(smooth, at[0], 1), at[1], 2)
  return np.where(inside[0][:, None] & inside[1][None], out, 0)


def _linear(stack, at, axis):
  """Linear interpolation along an axis at float positions, edges repeated."""
  size = stack.shape[axis]
  at = np.clip(at, 0, size - 1)
  low = np.minimum(at.astype(int), max(size - 2, 0))
  shape = [1] * stack.ndim
  shape[axis] = len(at)
  share = (at - low).astype(np.float32).reshape(shape)
  lower = np.take(stack, low, axis)
  return lower + share * (
    np.take(stack, np.minimum(low + 1, size - 1), axis) - lower
  )


def prepare_scan(
  scan: Scan,
  modality: Modality,
  *,
  roi: str,
  slice_size: int,
  margin: float = ROI_MARGIN,
) -> PreparedScan:
  """Reorients, normalises, crops and resamples a scan.

  In plane one isotropic factor per scan makes the longer side `slice_size`
  pixels long, or, where the modality says so, every pixel equally large; the
  rest is padded with 0. Slices stay what they are, and none is dropped.

  Args:
    scan: as read from disk.
    modality: says how intensities are treated, and along which axis the scan
      is cut.
    roi: 'label' crops to the label's largest component plus a margin (a scan
      without a label stays whole), 'none' keeps everything.
    slice_size: pixels.
    margin: mm, for roi='label'.

  Raises:
    SliceTooSmallError: it does not fit at the modality's `mm_per_pixel`.
    ValueError: an unknown `roi`.
  """
  grid = scan.affine, modality.plane
  image = reorient(scan.image, *grid)
  label = None if scan.label is None else reorient(scan.label, *grid)
  transform = planes.orientation(*grid)
  spacing = reoriented_spacing(*grid)
  box = [[0, n] for n in image.shape]
  if roi == 'label' and label is not None:
    box = label_box(label, spacing, margin) or box
  elif roi not in ('label', 'none'):
    raise ValueError(f'data.roi={roi!r}: choose label or none')
  crop = tuple(slice(*part) for part in box)
  full_shape = image.shape
  image = to_unit(image[crop], modality.intensity)
  native = np.zeros(image.shape, np.uint8) if label is None else label[crop]
  lengths = [n * mm for n, mm in zip(image.shape[1:], spacing[1:], strict=True)]
  mm = modality.mm_per_pixel or max(lengths) / slice_size
  if max(lengths) > mm * slice_size * (1 + 1e-6):
    raise SliceTooSmallError(
      f'slices of {max(lengths):.0f} mm do not fit into {slice_size} pixels of'
      f' {mm} mm: slice_size must be at least'
      f' {8 * int(np.ceil(max(lengths) / mm / 8))}'
    )
  canvas = (slice_size, slice_size)
  geometry = {
    'original_shape': [int(n) for n in scan.image.shape],
    'affine': scan.affine.tolist(),
    'orientation': transform.tolist(),
    'reoriented_shape': [int(n) for n in full_shape],
    'box': box,
    'slice_size': slice_size,
    **_centred(image.shape, spacing, mm, canvas),
  }
  resampled = resample(image, geometry, canvas, order=1)
  return PreparedScan(
    images=np.round(resampled * ONE).astype(np.uint16),
    labels=resample(native, geometry, canvas, order=0).astype(np.uint8),
    native_labels=np.ascontiguousarray(native),
    geometry=geometry,
    spacing=spacing,
  )


def _centred(shape, spacing, mm: float, canvas) -> dict[str, Any]:
  """The geometry of slices `[S, h, w]` in the middle of a canvas."""
  sides = zip(canvas, shape[1:], spacing[1:], strict=True)
  return {
    'native_shape': [int(n) for n in shape],
    'spacing': list(spacing),
    'mm_per_pixel': mm,
    'pad': [(side - n * size / mm) / 2 for side, n, size in sides],
  }


def region_geometry(
  shape: Sequence[int], spacing: Sequence[float], mm: float, smallest: int
) -> tuple[dict[str, Any], tuple[int, int]]:
  """How slices of any size are resampled for prediction, and back.

  Args:
    shape: `[S, h, w]` of the region.
    spacing: (slice, row, column), mm.
    mm: side of a resampled pixel.
    smallest: pixels that each side has at least.

  Returns:
    The geometry for `resample` and `native_probabilities`, and the canvas.
  """
  lengths = [n * side for n, side in zip(shape[1:], spacing[1:], strict=True)]
  # A hair less: what fits to rounding needs no further pixel.
  rows, columns = (max(smallest, int(np.ceil(n / mm - 1e-6))) for n in lengths)
  return _centred(shape, spacing, mm, (rows, columns)), (rows, columns)


def native_probabilities(
  probabilities: np.ndarray, geometry: dict[str, Any]
) -> np.ndarray:
  """One slice `[H, W, ...]` on the native grid, `[h, w, ...]`, bilinear."""
  for axis, size in enumerate(geometry['native_shape'][1:]):
    factor, pad = _factor_and_offset(geometry, axis)
    where = (np.arange(size) + 0.5) * factor - 0.5 + pad
    probabilities = _linear(probabilities, where, axis)
  return probabilities


def to_native(
  probabilities: np.ndarray, geometry: dict[str, Any]
) -> np.ndarray:
  """Brings class probabilities back to the scan's own (cropped) grid.

  Args:
    probabilities: `[S, size, size, C]`.
    geometry: of the prepared scan.

  Returns:
    `[S, h, w]` uint8 classes: bilinear probabilities, then the largest.
  """
  return np.stack(
    [
      np.argmax(native_probabilities(p, geometry), -1).astype(np.uint8)
      for p in probabilities
    ]
  )


def image_to_native(image: np.ndarray, geometry: dict[str, Any]) -> np.ndarray:
  """One prepared slice `[size, size]` uint16 as `[h, w]` in [0, 1]."""
  return native_probabilities(to_float(image), geometry)


def restore(voxels: np.ndarray, affine: np.ndarray, plane: str) -> np.ndarray:
  """`[slices, rows, columns]` as on disk: the inverse of `reorient`."""
  forward = planes.orientation(affine, plane)
  flipped = tuple(int(target) for target, sign in forward if sign < 0)
  return np.transpose(np.flip(voxels, flipped), forward[:, 0].astype(int))
