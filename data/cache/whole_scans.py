"""Whole scans on one grid, for methods that take volumes.

In the plane a scan stays as it was prepared; its slices are resampled to a
fixed number of equally thick ones. No jax here.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from data.cache.prepared import Prepared, PreparedCase


def resample(slices: np.ndarray, depth: int, order: int = 1) -> np.ndarray:
  """`[S, ...]` resampled to `depth` equally thick slices, `[depth, ...]`.

  Args:
    slices: any numbers; integers are rounded.
    depth: slices of the result.
    order: 1: linear interpolation between slices; 0: the nearest one's values.

  Returns:
    The same dtype.
  """
  zoom = [depth / len(slices), *[1] * (slices.ndim - 1)]
  return ndimage.zoom(slices, zoom, order=order, mode='nearest', grid_mode=True)


def resample_labels(labels: np.ndarray, depth: int) -> np.ndarray:
  """The nearest slice's classes: `[S, ...]` to `[depth, ...]`."""
  return resample(labels, depth, order=0)


class VolumeSource:
  """Random access to whole labelled scans of one modality, decoded once."""

  def __init__(
    self, prepared: Prepared, cases: Sequence[PreparedCase], *, depth: int
  ):
    self._prepared, self._cases, self._depth = prepared, cases, depth
    self._decoded: dict[int, dict[str, np.ndarray]] = {}

  def __len__(self) -> int:
    return len(self._cases)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    """`image` `[D, H, W]` uint16 and `label` uint8."""
    index = int(index) % len(self._cases)
    if index not in self._decoded:
      case = self._cases[index]
      images, labels = self._prepared.images(case), self._prepared.labels(case)
      self._decoded[index] = {
        'image': resample(images, self._depth),
        'label': resample_labels(labels, self._depth),
      }
    return self._decoded[index]
