"""Every way in which a scan's array axes may lie in the world."""

import itertools

import numpy as np

# The direction of each array axis, e.g. 'LPS': 48 of them.
ORIENTATIONS = [
  ''.join(flip)
  for axes in itertools.permutations(('RL', 'AP', 'SI'))
  for flip in itertools.product(*axes)
]


def affine_of(codes, spacing, origin=(0, 0, 0), rotation=None) -> np.ndarray:
  """Affine `[4, 4]`, RAS mm, of array axes that point as `codes` say.

  Args:
    codes: of `ORIENTATIONS`.
    spacing: mm along each array axis.
    origin: RAS mm of the first voxel.
    rotation: `[3, 3]`, of the whole grid.
  """
  affine = np.eye(4)
  affine[:3, :3] = 0
  for axis, (code, mm) in enumerate(zip(codes, spacing, strict=True)):
    world = 'RLAPSI'.index(code)
    affine[world // 2, axis] = -mm if world % 2 else mm
  if rotation is not None:
    affine[:3, :3] = rotation @ affine[:3, :3]
  affine[:3, 3] = origin
  return affine
