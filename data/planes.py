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
# What a dataset.json may say, with its meaning. What a run records of scans
# that are cut as acquired names the view of most of them, too.
PLANES = {
  ACQUIRED: 'as the scan was acquired (default)',
  **{view: f'{view} slices, whatever the voxels' for view in VIEWS},
  **{
    f'{ACQUIRED}-{view}': f'as acquired; turned to {view}, and cut so where'
    ' no axis is coarse'
    for view in VIEWS
  },
}
# Slices whose normal is this near (cosine) to a view's are turned like it.
_NEAR = 0.5


def axes(plane: str) -> tuple[str, str, str]:
  """Where slices, rows and columns of a plane run to, e.g. ('S', 'P', 'L')."""
  _, _, view = plane.rpartition('-')
  return VIEWS.get(view, VIEWS['axial'])


def _directions(axes: Sequence[str]) -> np.ndarray:
  """`[3, 3]`, a row each: the RAS directions of axis letters."""
  out = np.zeros((3, 3))
  for row, (world, sign) in zip(
    out, nib.orientations.axcodes2ornt(tuple(axes)), strict=True
  ):
    row[int(world)] = sign
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
    plane: what its dataset.json says, a key of `PLANES`.
    affines: of its scans.

  Returns:
    'acquired' with the view of most scans; anything else stays what it is.
  """
  if plane != ACQUIRED or not affines:
    return plane
  views = [view_of(affine) for affine in affines]
  return f'{ACQUIRED}-{max(VIEWS, key=views.count)}'


def cut(affine: np.ndarray, plane: str) -> str:
  """The view that a scan of a modality of this plane is cut in."""
  coarse = acquired_axis(affine) is not None
  if plane == ACQUIRED or (plane.startswith(ACQUIRED) and coarse):
    return view_of(affine)
  _, _, view = plane.rpartition('-')
  return view


def orientation(affine: np.ndarray, plane: str) -> np.ndarray:
  """How the axes of a scan become (slices, rows, columns).

  Args:
    affine: `[4, 4]`, voxel index to RAS mm.
    plane: a key of `PLANES`.

  Returns:
    `[3, 2]`: for each array axis, which axis it becomes and 1 or -1, nibabel's
    way of writing flips.
  """
  axis = acquired_axis(affine) if plane.startswith(ACQUIRED) else None
  if axis is None:
    return nib.orientations.ornt_transform(
      nib.orientations.io_orientation(affine),
      nib.orientations.axcodes2ornt(axes(plane)),
    )
  steps = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
  target = _directions(axes(plane))
  if plane == ACQUIRED or abs(target[0] @ steps[:, axis]) < _NEAR:
    target = _directions(VIEWS[view_of(affine)])
  cosines = target @ steps  # [3 targets, 3 array axes]
  one, other = (k for k in range(3) if k != axis)
  straight = abs(cosines[1, one]) + abs(cosines[2, other])
  swapped = abs(cosines[1, other]) + abs(cosines[2, one])
  rows, columns = (one, other) if straight >= swapped else (other, one)
  out = np.ones((3, 2))
  for place, array_axis in enumerate((axis, rows, columns)):
    out[array_axis] = place, -1 if cosines[place, array_axis] < 0 else 1
  return out


def upright(spacing: Sequence[float], plane: str) -> tuple[np.ndarray, str]:
  """The grid of voxels that are slices, rows and columns already.

  Args:
    spacing: (slice, row, column), mm.
    plane: a key of `PLANES`.

  Returns:
    The affine, and the plane in which `orientation` leaves the axes as they
    are.
  """
  affine = np.eye(4)
  affine[:3, :3] = _directions(axes(plane)).T * np.asarray(spacing)
  _, _, view = plane.rpartition('-')
  return affine, 'axial' if plane == ACQUIRED else view
