"""Implicit 3-D shapes for the phantom.

A shape is a field of approximate signed distances in mm, negative inside, over
points `[3, ...]` (RAS mm: +x right, +y front, +z head). Shapes combine by
minimum (union) and maximum (intersection).
"""

from collections.abc import Sequence
import itertools
from typing import NamedTuple

import numpy as np
from scipy import ndimage

# Control points per axis of the smooth random deformation.
_NODES = 4


# Three numbers of mm along the axes, or points of three.
Vector = Sequence[float] | np.ndarray
Line = Sequence[Vector] | np.ndarray


class Part(NamedTuple):
  """One shape of the body, in painting order: later parts cover earlier ones.

  Attributes:
    tissue: row of the intensity table.
    distance: `[...]` float32, mm, negative inside.
    label: code painted into the label; None leaves what is there.
  """

  tissue: str
  distance: np.ndarray
  label: int | None = 0


def grid(affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
  """Positions `[3, *shape]` float32 (RAS mm) of a volume's voxels."""
  axes = [np.arange(n, dtype=np.float32) for n in shape]
  i, j, k = np.meshgrid(*axes, indexing='ij', sparse=True)
  a = affine.astype(np.float32)
  return np.stack([r[0] * i + r[1] * j + r[2] * k + r[3] for r in a[:3]])


def rotation(axis: Vector, degrees: float) -> np.ndarray:
  """Rotation matrix `[3, 3]` about an axis (Rodrigues)."""
  x, y, z = np.asarray(axis, np.float64) / np.linalg.norm(axis)
  cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
  angle = np.deg2rad(degrees)
  return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
  """`matrix [3, 3]` times every point of `[3, ...]`, float32."""
  return np.einsum('ab,b...->a...', matrix.astype(np.float32), points)


def warp(
  points: np.ndarray, rng: np.random.Generator, amount: float
) -> np.ndarray:
  """Displaces points by a smooth random field of about `amount` mm."""
  out = np.empty_like(points)
  for axis in range(3):
    nodes = rng.normal(size=(_NODES,) * 3)
    zoom = [n / _NODES for n in points.shape[1:]]
    field = ndimage.zoom(nodes, zoom, order=3, mode='nearest', grid_mode=True)
    scale = amount / max(float(field.std()), 1e-6)
    out[axis] = points[axis] + (scale * field).astype(np.float32)
  return out


def ellipsoid(points: np.ndarray, centre: Vector, radii: Vector) -> np.ndarray:
  """An ellipsoid along the axes."""
  total = np.zeros(points.shape[1:], np.float32)
  for p, c, r in zip(points, centre, radii, strict=True):
    total += ((p - np.float32(c)) / np.float32(r)) ** 2
  return (np.sqrt(total) - 1) * np.float32(min(radii))


def curve(points: Line, samples: int = 8) -> np.ndarray:
  """A quadratic Bezier curve from the first to the last of three points."""
  a, b, c = np.asarray(points, np.float64)
  t = np.linspace(0, 1, samples)[:, None]
  return (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c


def tube(points: np.ndarray, line: Line, radius: float) -> np.ndarray:
  """A bent vessel: all within `radius` of the polyline through `line`."""
  best = np.full(points.shape[1:], np.inf, np.float32)
  for a, b in itertools.pairwise(np.asarray(line, np.float32)):
    along = b - a
    from_a = points - a[:, None, None, None]
    t = np.einsum('a,a...->...', along, from_a) / np.float32(along @ along)
    gap = from_a - along[:, None, None, None] * np.clip(t, 0, 1)
    best = np.minimum(best, np.einsum('a...,a...->...', gap, gap))
  return np.sqrt(best) - np.float32(radius)


def ribs(points: np.ndarray, body: np.ndarray) -> np.ndarray:
  """Bands of bone under the body's surface; `body` is its distance."""
  depth = np.abs(body + 15) - 4
  level = points[2] - np.float32(0.35) * points[1]
  band = 8 * (0.45 - np.cos(np.float32(2 * np.pi / 27) * level))
  return np.maximum(depth, band)
