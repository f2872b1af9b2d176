"""How long the scores of one test volume take: Dice and HD95, without jax."""

import time
from typing import Any

import numpy as np
from scipy import ndimage

from data.phantoms import anatomy, scanner, shapes
from dbdc_jax.evaluation import scoring

SHAPE = (192, 192, 150)
_SPACING = (1.0, 1.0, 1.0)
# Background and seven structures.
_CLASSES = tuple('01234567')


def heart(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
  """The phantom's heart, seven structures, on a grid of 1 mm."""
  affine = np.diag([*_SPACING, 1.0])
  affine[:3, 3] = -(np.array(shape) - 1) / 2 + np.array([0, -2, 8])
  points = shapes.grid(affine, shape)
  parts = anatomy.heart(points, np.random.default_rng(0), anatomy.DIFFICULTY)
  codes = scanner.paint_label(parts)
  return np.unique(codes, return_inverse=True)[1].astype(np.uint8)


def deformed(label: np.ndarray, sigma: float = 3.0) -> np.ndarray:
  """The same anatomy moved by smooth displacements, as a prediction errs.

  Args:
    label: class indices.
    sigma: standard deviation of the displacements, voxels.
  """
  rng = np.random.default_rng(1)
  coarse = rng.normal(0, sigma, (3, *(max(n // 16, 2) for n in label.shape)))
  zoom = np.array(label.shape) / coarse.shape[1:]
  moved = np.indices(label.shape).astype(np.float32)
  for axis in range(3):
    moved[axis] += ndimage.zoom(coarse[axis], zoom, order=1)
  return ndimage.map_coordinates(label, moved, order=0, mode='nearest')


def measure(
  shape: tuple[int, int, int] = SHAPE, repeats: int = 5
) -> dict[str, Any]:
  """Dice and HD95 of all seven structures.

  Returns:
    'seconds' (median), 'dice' and 'hd95_mm' (means, to see that the volumes
    are alike as a prediction and its reference are), 'voxels'.
  """
  reference = heart(shape)
  prediction = deformed(reference)
  seconds, names = [], ('dice', 'hd95')
  for _ in range(repeats):
    start = time.perf_counter()
    found = scoring.score(prediction, reference, _SPACING, _CLASSES, names)
    seconds.append(time.perf_counter() - start)
  rows = [[of[name] for name in names] for of in found.values()]
  dice, hd95 = np.nanmean(np.array(rows, float), 0)
  return {
    'shape': list(shape),
    'seconds': float(np.median(seconds)),
    'dice': float(dice) / 100,
    'hd95_mm': float(hd95),
    'voxels': int((reference > 0).sum()),
  }
