"""Affines: where voxels lie, and whether they can."""

import numpy as np

from data.formats.scan_error import need

SIZES = 'write the true voxel sizes, in mm, into the header'
# DICOM's and ITK's axes run to the left and to the back: RAS of LPS, and back.
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
# No scanner is so long; farther away, positions are no longer exact.
_FAR = 1e6
# Axes are at right angles up to this many degrees.
_STRAIGHT = 0.1


def sides_text(sides: np.ndarray) -> str:
  """Voxel sides as people write them."""
  return ' x '.join(f'{side:.4g}' for side in sides)


def check_regular(affine: np.ndarray, file: str, what: str, remedy: str):
  """Checks that voxels fill a space, in reach.

  Raises:
    ScanError: the affine is not finite, singular, or over a kilometre away.
  """
  with np.errstate(all='ignore'):
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    volume = abs(np.linalg.det(affine[:3, :3]))
    sound = 0 < volume < np.inf and volume >= 1e-3 * np.prod(spacing)
  sound = sound and np.isfinite(affine).all()
  need(sound, file, f'{what} is not finite or singular', remedy)
  away = np.abs(affine[:3, 3]).max()
  need(away <= _FAR, file, f'{what} is {away:.3g} mm away', remedy)


def check_sides(affine: np.ndarray, file: str, unit: str = '') -> None:
  """Checks that voxels are of a scan's size: lengths may not be in mm.

  Args:
    affine: `[4, 4]`.
    file: for the error.
    unit: the unit that the header says, if it is another one than mm.

  Raises:
    ScanError: a side below 0.01 mm or above 100 mm.
  """
  sides = np.linalg.norm(affine[:3, :3], axis=0)
  sound = sides.min() >= 0.01 and sides.max() <= 100
  remedy = f'{SIZES} (it says {unit})' if unit else SIZES
  need(sound, file, f'voxels of {sides_text(sides)} mm', remedy)


def distance(a: np.ndarray, b: np.ndarray, shape) -> float:
  """How far apart two affines put a voxel, at most; mm.

  Args:
    a: `[4, 4]`.
    b: `[4, 4]`; infinitely far if it is not finite.
    shape: of the volume. The farthest voxel is at a corner.
  """
  if not np.isfinite(b).all():
    return np.inf
  last = np.subtract(shape[:3], 1)
  corners = np.indices((2, 2, 2)).reshape(3, -1) * last[:, None]
  gap = (a - b)[:3, :3] @ corners + (a - b)[:3, 3:]
  return float(np.linalg.norm(gap, axis=0).max())


def close_affines(a: np.ndarray, b: np.ndarray, shape) -> bool:
  """Whether two affines put every voxel in nearly the same place.

  The tolerance is half of the smallest voxel side at each of the volume's
  corners: headers are stored in single precision.
  """
  size = np.linalg.norm(a[:3, :3], axis=0).min()
  return distance(a, b, shape) <= 0.5 * size


def shear(affine: np.ndarray) -> float:
  """How far the axes are from right angles, degrees."""
  axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
  cosines = np.abs(axes.T @ axes - np.diag(np.diag(axes.T @ axes)))
  return float(np.degrees(np.arcsin(min(cosines.max(), 1.0))))


def straightened(affine: np.ndarray) -> np.ndarray:
  """The rotation of voxels of the same sides that is nearest to a shear."""
  sides = np.linalg.norm(affine[:3, :3], axis=0)
  left, _, right = np.linalg.svd(affine[:3, :3] / sides)
  out = affine.copy()
  out[:3, :3] = left @ right * sides
  return out


def shear_notes(affine: np.ndarray) -> tuple[str, ...]:
  """What people should know of axes that are not at right angles."""
  angle = shear(affine)
  if angle <= _STRAIGHT:
    return ()
  return (f'sheared by {angle:.3g} degrees (a tilted gantry?)',)
