"""Segmentation metrics on whole volumes, in millimetres, float64.

Definitions (see `DEFINITIONS`): surface = mask minus its 6-connected erosion,
the volume's edge counting as surface. The distances of a pair are computed
once (`surface_distances`) and serve every metric.

Empty masks: both empty = no value (NaN; to be left out and counted); exactly
one empty = Dice 0, NSD 0, HD95 and ASSD = the volume's diagonal.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

# Above this many surface voxels (noise, mostly) a distance transform is
# faster than a tree.
TREE_LIMIT = 200_000

DEFINITIONS: dict[str, dict[str, str]] = {
  'dice': {
    'definition': '2 |A and B| / (|A| + |B|) of the whole volume, times 100',
    'unit': 'percent',
    'empty': 'both empty: left out; one empty: 0',
  },
  'hd95': {
    'definition': 'largest of the two directed 95th percentiles (linear) of'
    ' surface distances',
    'unit': 'mm',
    'empty': "both empty: left out; one empty: the volume's diagonal",
  },
  'assd': {
    'definition': 'mean of all surface distances of both directions',
    'unit': 'mm',
    'empty': "both empty: left out; one empty: the volume's diagonal",
  },
  'nsd': {
    'definition': 'share of both surfaces within the tolerance of the other'
    ' (tolerance: the largest voxel side), times 100',
    'unit': 'percent',
    'empty': 'both empty: left out; one empty: 0',
  },
  'hd95_voxel': {
    'definition': 'hd95 with a voxel side of 1',
    'unit': 'voxel',
    'empty': "both empty: left out; one empty: the volume's diagonal",
  },
  'hd95_union_voxel': {
    'definition': '95th percentile of the union of both directed sets of'
    ' surface distances, with a voxel side of 1',
    'unit': 'voxel',
    'empty': "both empty: left out; one empty: the volume's diagonal",
  },
}


class Distances(NamedTuple):
  """Distances from each surface voxel to the other surface.

  Attributes:
    forward: from the prediction's surface to the reference's.
    backward: from the reference's surface to the prediction's.
    diagonal: of the volume, for the empty rule.
  """

  forward: np.ndarray
  backward: np.ndarray
  diagonal: float


def dice(
  prediction: np.ndarray, reference: np.ndarray, num_classes: int
) -> np.ndarray:
  """Dice of every class, from one joint histogram.

  Args:
    prediction: class indices.
    reference: class indices of the same shape.
    num_classes: C, background included.

  Returns:
    `[C]` in [0, 1]; NaN where both are empty.
  """
  joint = np.bincount(
    reference.ravel().astype(np.int64) * num_classes + prediction.ravel(),
    minlength=num_classes**2,
  ).reshape(num_classes, num_classes)
  sizes = joint.sum(0) + joint.sum(1)
  with np.errstate(invalid='ignore'):
    return np.where(sizes > 0, 2 * np.diag(joint) / sizes, np.nan)


def _joint_box(a: np.ndarray, b: np.ndarray) -> tuple[slice, ...]:
  """Bounding box of two masks together."""
  both = a | b
  box = []
  for axis in range(both.ndim):
    others = tuple(i for i in range(both.ndim) if i != axis)
    found = np.flatnonzero(both.any(axis=others))
    box.append(slice(int(found[0]), int(found[-1]) + 1))
  return tuple(box)


def surface(mask: np.ndarray) -> np.ndarray:
  """Mask minus its 6-connected erosion; the array's edge is surface."""
  cross = ndimage.generate_binary_structure(mask.ndim, 1)
  return mask & ~ndimage.binary_erosion(mask, cross, border_value=0)


def surface_distances(
  prediction: np.ndarray,
  reference: np.ndarray,
  spacing: tuple[float, ...],
  tree_limit: int = TREE_LIMIT,
) -> Distances | None:
  """Directed surface distances of two boolean volumes.

  Args:
    prediction: bool.
    reference: bool, the same shape.
    spacing: voxel sides, mm.
    tree_limit: surface voxels above which distance transforms are used.

  Returns:
    None if both are empty; if exactly one is, arrays that hold only the
    volume's diagonal.
  """
  prediction, reference = prediction.astype(bool), reference.astype(bool)
  sides = np.asarray(spacing, np.float64)
  diagonal = float(np.linalg.norm(sides * np.array(prediction.shape)))
  if not prediction.any() and not reference.any():
    return None
  if not prediction.any() or not reference.any():
    far = np.array([diagonal])
    return Distances(far, far, diagonal)
  # A mask is as empty outside of the box as outside of the volume.
  box = _joint_box(prediction, reference)
  a, b = surface(prediction[box]), surface(reference[box])
  if a.sum() + b.sum() > tree_limit:
    to_b = ndimage.distance_transform_edt(~b, sampling=sides)
    to_a = ndimage.distance_transform_edt(~a, sampling=sides)
    return Distances(to_b[a], to_a[b], diagonal)
  at_a, at_b = np.argwhere(a) * sides, np.argwhere(b) * sides
  return Distances(
    cKDTree(at_b).query(at_a)[0], cKDTree(at_a).query(at_b)[0], diagonal
  )


def from_distances(
  distances: Distances | None, tolerance: float
) -> dict[str, float]:
  """hd95, assd, nsd and hd95_union of one pair of masks.

  Args:
    distances: of `surface_distances`.
    tolerance: of the NSD, mm.

  Returns:
    NaN for all if both masks are empty; NSD in [0, 1].
  """
  if distances is None:
    return dict.fromkeys(('hd95', 'assd', 'nsd', 'hd95_union'), np.nan)
  forward, backward, _ = distances
  both = np.concatenate([forward, backward])
  return {
    'hd95': float(max(np.percentile(forward, 95), np.percentile(backward, 95))),
    'assd': float(both.mean()),
    'nsd': float((both <= tolerance).mean()),
    'hd95_union': float(np.percentile(both, 95)),
  }


def _one_empty(prediction: np.ndarray, reference: np.ndarray) -> bool:
  return bool(np.any(prediction)) != bool(np.any(reference))


def hd95(
  prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]
) -> float:
  """95 % Hausdorff distance of two boolean volumes, mm; see the module."""
  return from_distances(surface_distances(prediction, reference, spacing), 0.0)[
    'hd95'
  ]


def hd95_union_voxel(prediction: np.ndarray, reference: np.ndarray) -> float:
  """95th percentile of both directed distance sets together, in voxels."""
  spacing = (1.0,) * prediction.ndim
  return from_distances(surface_distances(prediction, reference, spacing), 0.0)[
    'hd95_union'
  ]


def assd(
  prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]
) -> float:
  """Average symmetric surface distance of two boolean volumes, mm."""
  return from_distances(surface_distances(prediction, reference, spacing), 0.0)[
    'assd'
  ]


def nsd(
  prediction: np.ndarray,
  reference: np.ndarray,
  spacing: tuple[float, ...],
  tolerance: float,
) -> float:
  """Normalised surface Dice at a tolerance in mm, in [0, 1]."""
  if _one_empty(prediction, reference):
    return 0.0
  return from_distances(
    surface_distances(prediction, reference, spacing), tolerance
  )['nsd']
