"""Whole scans on one grid, for methods that take volumes.

In the plane a scan stays as it was prepared; its slices are resampled to a
fixed number of equally thick ones. No jax here.
"""

from collections.abc import Sequence

import numpy as np

from data.cache.prepared import Prepared, PreparedCase


def _centres(count: int, depth: int) -> np.ndarray:
  """Where `depth` equal slices lie among `count`, as positions of these."""
  return (np.arange(depth) + 0.5) * count / depth - 0.5


def resample(slices: np.ndarray, depth: int) -> np.ndarray:
  """Linear interpolation between slices, `[S, ...]` to `[depth, ...]`.

  Args:
    slices: float, or unsigned integers, which are rounded.
    depth: slices of the result.

  Returns:
    The same dtype.
  """
  where = np.clip(_centres(len(slices), depth), 0, len(slices) - 1)
  low = where.astype(int)
  high = np.minimum(low + 1, len(slices) - 1)
  rest = (where - low).reshape(-1, *(1,) * (slices.ndim - 1))
  found = slices[low] * (1 - rest) + slices[high] * rest
  exact = np.rint(found) if np.issubdtype(slices.dtype, np.integer) else found
  return exact.astype(slices.dtype)


def resample_labels(labels: np.ndarray, depth: int) -> np.ndarray:
  """The nearest slice's classes: `[S, ...]` to `[depth, ...]`."""
  where = np.floor(_centres(len(labels), depth) + 0.5).astype(int)
  return labels[np.clip(where, 0, len(labels) - 1)]


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
