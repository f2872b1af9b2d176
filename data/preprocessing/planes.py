"""Along which axis of a scan its slices lie, and how they are turned.

A scan that was acquired as thick slices has its detail inside of them. Cutting
it across them would stack rows of a few voxels over gaps of millimetres. So the
slices of a scan whose voxels are coarse along one axis (`ANISOTROPIC`) are the
acquired ones, voxel for voxel. A scan without such an axis is cut from feet to
head, or as most scans of its modality are.

Slices are turned, never resampled, into the orientation of the view that they
are nearest to:

  view      slices run to   rows run to    columns run to
  axial     the head        the back       the patient's left
  coronal   the back        the feet       the patient's left
  sagittal  the left        the feet       the back
"""

from collections.abc import Sequence
import itertools

import nibabel as nib
import numpy as np

# Voxels are this much longer along the slice axis than along the second
# longest one, where a scan counts as acquired in slices.
ANISOTROPIC = 1.5
VIEWS = {
  'axial': ('S', 'P', 'L'),
  'coronal': ('P', 'I', 'L'),
  'sagittal': ('L', 'I', 'P'),
}
ACQUIRED = 'acquired'
# What a dataset.json may say: as the scan was acquired (default); slices of a
# view, whatever the voxels; as acquired, but turned to a view, and cut so where
# no axis is coarse. The last is what a run records of scans that are cut as
# acquired: the view of most of them.
PLANES = (ACQUIRED, *VIEWS, *(f'{ACQUIRED}-{view}' for view in VIEWS))
# Slices whose normal is this near (cosine) to a view's are turned like it.
_NEAR = 0.5


def _view(plane: str) -> str:
  """The view that a plane names; 'axial' if none."""
  view = plane.rpartition('-')[2]
  return view if view in VIEWS else 'axial'


def axes(plane: str) -> tuple[str, str, str]:
  """Where slices, rows and columns of a plane run to, e.g. ('S', 'P', 'L')."""
  return VIEWS[_view(plane)]


def _directions(axes: Sequence[str]) -> np.ndarray:
  """`[3, 3]`, a row each: the RAS directions of axis letters."""
  out = np.zeros((3, 3))
  worlds, signs = nib.orientations.axcodes2ornt(tuple(axes)).T
  out[range(3), worlds.astype(int)] = signs
  return out


def acquired_axis(affine: np.ndarray) -> int | None:
  """The array axis that a scan's slices follow; None if no axis is coarse.

  Args:
    affine: `[4, 4]`, voxel index to RAS mm.
  """
  sides = np.linalg.norm(affine[:3, :3], axis=0)
  order = np.argsort(sides)
  # A hair: headers are in single precision.
  coarse = sides[order[2]] >= ANISOTROPIC * sides[order[1]] * (1 - 1e-6)
  return int(order[2]) if coarse else None


def view_of(affine: np.ndarray) -> str:
  """The view that a scan's acquired slices are nearest to; 'axial' if none."""
  axis = acquired_axis(affine)
  if axis is None:
    return 'axial'
  world = int(nib.orientations.io_orientation(affine)[axis, 0])
  return ('sagittal', 'coronal', 'axial')[world]


def decide(plane: str, affines: Sequence[np.ndarray]) -> str:
  """The plane of a modality, decided for all of its scans.

  Args:
    plane: what its dataset.json says, one of `PLANES`.
    affines: of its scans.

  Returns:
    'acquired' with the view of most scans that have a coarse axis ('axial' if
    none has); anything else stays what it is.
  """
  if plane != ACQUIRED or not affines:
    return plane
  views = [view_of(a) for a in affines if acquired_axis(a) is not None]
  return f'{ACQUIRED}-{max(VIEWS, key=views.count)}'


def cut(affine: np.ndarray, plane: str) -> str:
  """The view that a scan of a modality of this plane is turned to.

  Slices that were acquired obliquely, between two views, are turned to that of
  the plane where it is near; a scan that is far from it has its own.
  """
  axis = acquired_axis(affine)
  if axis is None or not plane.startswith(ACQUIRED):
    return _view(plane)
  if plane != ACQUIRED:
    normal = affine[:3, axis] / np.linalg.norm(affine[:3, axis])
    if abs(_directions(axes(plane))[0] @ normal) >= _NEAR:
      return _view(plane)
  return view_of(affine)


def orientation(affine: np.ndarray, plane: str) -> np.ndarray:
  """How the axes of a scan become (slices, rows, columns).

  Args:
    affine: `[4, 4]`, voxel index to RAS mm.
    plane: one of `PLANES`.

  Returns:
    `[3, 2]`: for each array axis, which axis it becomes and 1 or -1, nibabel's
    way of writing flips.
  """
  wanted = VIEWS[cut(affine, plane)]
  axis = acquired_axis(affine) if plane.startswith(ACQUIRED) else None
  if axis is None:
    return nib.orientations.ornt_transform(
      nib.orientations.io_orientation(affine),
      nib.orientations.axcodes2ornt(wanted),
    )
  steps = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
  target = _directions(wanted)
  fit = target @ steps  # Cosines, [3 targets, 3 array axes].
  # Of the eight ways to lay rows and columns, those that are no mirror image.
  normal = -1 if fit[0, axis] < 0 else 1
  one, other = (k for k in range(3) if k != axis)
  ways = []
  for rows, columns in ((one, other), (other, one)):
    for down, left in itertools.product((1, -1), repeat=2):
      out = np.zeros((3, 2))
      out[[axis, rows, columns]] = (0, normal), (1, down), (2, left)
      turned = steps[:, [axis, rows, columns]] * (normal, down, left)
      if np.linalg.det(turned) * np.linalg.det(target) > 0:
        ways.append((down * fit[1, rows] + left * fit[2, columns], out))
  return max(ways, key=lambda way: way[0])[1]


def affine_of(axes: Sequence[str], spacing: Sequence[float]) -> np.ndarray:
  """The affine `[4, 4]` of a grid whose axes run to `axes`, e.g. 'SPL'.

  Args:
    axes: a letter each; the first voxel lies at 0 mm.
    spacing: voxel sides, mm.
  """
  affine = np.eye(4)
  affine[:3, :3] = _directions(axes).T * np.asarray(spacing)
  return affine
