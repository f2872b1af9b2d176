"""Segmentation metrics on whole volumes, in millimetres, float64.

Definitions (see `DEFINITIONS`): surface = mask minus its 6-connected erosion,
the volume's edge counting as surface. Surfaces of all classes are found once
(`surfaces`), the distances of a pair (`distances`) serve every metric.

Empty masks: both empty = no value (NaN; to be left out and counted); exactly
one empty = Dice 0, NSD 0, HD95 and ASSD = the volume's diagonal.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from data.task import UNKNOWN

# Above this many surface voxels (noise, mostly) a distance transform is
# faster than a tree.
TREE_LIMIT = 200_000

_LEFT_OUT = 'both empty: left out; one empty: '
_ZERO, _DIAGONAL = _LEFT_OUT + '0', _LEFT_OUT + "the volume's diagonal"
_COUNTS = 'an empty mask has 0, which counts'
# Metric -> its definition, its unit, and what it is of empty masks.
_DEFINED = {
  'dice': (
    '2 |A and B| / (|A| + |B|) of the whole volume, times 100', 'percent', _ZERO
  ),
  'hd95': (
    'largest of the two directed 95th percentiles (linear) of surface'
    ' distances', 'mm', _DIAGONAL
  ),
  'assd': (
    'mean of all surface distances of both directions', 'mm', _DIAGONAL
  ),
  'nsd': (
    'share of both surfaces within the tolerance of the other (tolerance: the'
    ' largest voxel side), times 100', 'percent', _ZERO
  ),
  'hd95_voxel': ('hd95 with a voxel side of 1', 'voxel', _DIAGONAL),
  'hd95_union_voxel': (
    '95th percentile of the union of both directed sets of surface distances,'
    ' with a voxel side of 1', 'voxel', _DIAGONAL
  ),
  'volume_prediction': ("volume of the prediction's mask", 'mL', _COUNTS),
  'volume_reference': ("volume of the reference's mask", 'mL', _COUNTS),
}  # fmt: skip
DEFINITIONS: dict[str, dict[str, str]] = {
  name: dict(zip(('definition', 'unit', 'empty'), said, strict=True))
  for name, said in _DEFINED.items()
}


class Surfaces(NamedTuple):
  """The surfaces of one class in a prediction and its reference.

  Attributes:
    prediction: bool, inside of the class's box only; None if it is empty.
    reference: bool, inside of the same box; None if it is empty.
    shape: of the whole volume.
  """

  prediction: np.ndarray | None
  reference: np.ndarray | None
  shape: tuple[int, ...]


class Distances(NamedTuple):
  """Distances from each surface voxel to the other surface.

  Attributes:
    forward: from the prediction's surface to the reference's.
    backward: from the reference's surface to the prediction's.
    one_empty: whether one mask is empty; both arrays then hold nothing but the
      volume's diagonal.
  """

  forward: np.ndarray
  backward: np.ndarray
  one_empty: bool = False


def where_drawn(
  prediction: np.ndarray, reference: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Both, as background where the reference is `UNKNOWN`: nobody drew there.

  Args:
    prediction: class indices.
    reference: class indices of the same shape.
  """
  open_ = reference == UNKNOWN
  if not open_.any():
    return prediction, reference
  return np.where(open_, 0, prediction), np.where(open_, 0, reference)


def joint_histogram(
  prediction: np.ndarray, reference: np.ndarray, num_classes: int
) -> np.ndarray:
  """How many voxels have which pair of classes.

  Args:
    prediction: class indices.
    reference: class indices of the same shape.
    num_classes: C, background included.

  Returns:
    `[C, C]` counts, rows by the reference's class.
  """
  joint = np.zeros(num_classes**2, np.int64)
  # Slice by slice: the pair's indices need 8 bytes a voxel.
  for p, r in zip(prediction, reference, strict=True):
    pair = r.ravel().astype(np.int64) * num_classes + p.ravel()
    joint += np.bincount(pair, minlength=num_classes**2)
  return joint.reshape(num_classes, num_classes)


def dice_of(joint: np.ndarray) -> np.ndarray:
  """Dice of every class, `[C]` in [0, 1], from a joint histogram.

  NaN where both masks are empty.
  """
  sizes = joint.sum(0) + joint.sum(1)
  with np.errstate(invalid='ignore'):
    return np.where(sizes > 0, 2 * np.diag(joint) / sizes, np.nan)


def surface(mask: np.ndarray) -> np.ndarray:
  """Mask minus its 6-connected erosion; the array's edge is surface."""
  inner = mask.copy()
  for axis in range(mask.ndim):
    here, eroded = mask.swapaxes(0, axis), inner.swapaxes(0, axis)
    eroded[1:] &= here[:-1]
    eroded[:-1] &= here[1:]
    eroded[0] = eroded[-1] = False
  return mask & ~inner


def surfaces(
  prediction: np.ndarray, reference: np.ndarray, num_classes: int
) -> list[Surfaces]:
  """Surfaces of every foreground class, found in the class's box alone.

  A mask is as empty outside of its box as outside of the volume, so that the
  box changes nothing.

  Args:
    prediction: class indices.
    reference: class indices of the same shape.
    num_classes: C, background included.

  Returns:
    C - 1 pairs, of class 1 first.
  """
  found = []
  pairs = zip(
    ndimage.find_objects(prediction, num_classes - 1),
    ndimage.find_objects(reference, num_classes - 1),
    strict=True,
  )
  for index, boxes in enumerate(pairs, 1):
    if None in boxes:
      # No distance is needed, only whether there is a voxel.
      p, r = (None if b is None else np.ones((), bool) for b in boxes)
    else:
      box = tuple(
        slice(min(one.start, other.start), max(one.stop, other.stop))
        for one, other in zip(*boxes, strict=True)
      )
      p, r = (surface(v[box] == index) for v in (prediction, reference))
    found.append(Surfaces(p, r, reference.shape))
  return found


def _nearest(a: np.ndarray, b: np.ndarray, sides: np.ndarray) -> np.ndarray:
  """Distance from each voxel of `a` to the nearest one of `b`."""
  out = np.zeros(np.count_nonzero(a))
  # What both have in common is at no distance.
  apart = a & ~b
  tree = cKDTree(np.argwhere(b) * sides, balanced_tree=False)
  out[apart[a]] = tree.query(np.argwhere(apart) * sides)[0]
  return out


def distances(
  pair: Surfaces, spacing: Sequence[float], tree_limit: int = TREE_LIMIT
) -> Distances | None:
  """Directed distances between the surfaces of one class.

  Args:
    pair: of `surfaces`.
    spacing: voxel sides, mm.
    tree_limit: surface voxels above which distance transforms are used.

  Returns:
    None if both masks are empty.
  """
  a, b = pair.prediction, pair.reference
  if a is None and b is None:
    return None
  sides = np.asarray(spacing, np.float64)
  if a is None or b is None:
    far = np.array([np.linalg.norm(sides * np.array(pair.shape))])
    return Distances(far, far, one_empty=True)
  if np.count_nonzero(a) + np.count_nonzero(b) > tree_limit:
    to_b = ndimage.distance_transform_edt(~b, sampling=sides)
    to_a = ndimage.distance_transform_edt(~a, sampling=sides)
    return Distances(to_b[a], to_a[b])
  return Distances(_nearest(a, b, sides), _nearest(b, a, sides))


def from_distances(
  found: Distances | None, tolerance: float
) -> dict[str, float]:
  """hd95, assd, nsd and hd95_union of one pair of masks.

  Args:
    found: of `distances`.
    tolerance: of the NSD, in the distances' unit.

  Returns:
    NaN for all if both masks are empty; NSD in [0, 1].
  """
  if found is None:
    return dict.fromkeys(('hd95', 'assd', 'nsd', 'hd95_union'), np.nan)
  forward, backward, one_empty = found
  both = np.concatenate([forward, backward])
  nsd = 0.0 if one_empty else float((both <= tolerance).mean())
  return {
    'hd95': float(max(np.percentile(forward, 95), np.percentile(backward, 95))),
    'assd': float(both.mean()),
    'nsd': nsd,
    'hd95_union': float(np.percentile(both, 95)),
  }
