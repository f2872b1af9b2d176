"""Anatomy of the phantom as implicit 3-D shapes, painted tissue by tissue.

Coordinates are millimetres: x to the patient's right, y to the front, z to the
head. A shape is a function of points `[..., 3]` that is negative inside and
grows by about 1 per mm outside, so that a soft step over a voxel's width gives
partial volume.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

Shape = Callable[[np.ndarray], np.ndarray]


class Part(NamedTuple):
  """A shape of one tissue; later parts cover earlier ones."""

  tissue: str
  shape: Shape


class Difficulty(NamedTuple):
  """How much subjects differ, and how bad their images are.

  Calibrated with the plain U-Net alone (see the README) and then frozen.

  Attributes:
    rotation: standard deviation of the pose's angles, degrees.
    shift: of its translation, mm.
    size: of the logarithm of the overall size and of each part's.
    move: of each part's own displacement, mm.
    deform: of the smooth displacement field, mm.
    contrast: of the logarithm of each tissue's intensity.
    gamma: of the logarithm of the intensity curve's exponent (MR).
    bias: of the logarithm of the smooth bias field (MR).
    noise: relative to the intensity range.
    texture: of the organs' own smooth texture, relative to the range.
  """

  rotation: float = 9.0
  shift: float = 6.0
  size: float = 0.07
  move: float = 3.0
  deform: float = 4.0
  contrast: float = 0.10
  gamma: float = 0.15
  bias: float = 0.20
  noise: float = 0.05
  texture: float = 0.04


def ellipsoid(centre: Sequence[float], radii: Sequence[float]) -> Shape:
  """An ellipsoid along the axes."""
  c, r = np.asarray(centre, float), np.asarray(radii, float)

  def distance(points):
    return (np.linalg.norm((points - c) / r, axis=-1) - 1) * r.min()

  return distance


def tube(points: Sequence[Sequence[float]], radius: float) -> Shape:
  """A bent vessel: all within `radius` of a polyline through `points`."""
  nodes = np.asarray(points, float)

  def distance(p):
    best = np.full(p.shape[:-1], np.inf)
    for a, b in zip(nodes[:-1], nodes[1:], strict=True):
      along = b - a
      t = np.clip((p - a) @ along / (along @ along), 0, 1)
      gap = p - a - t[..., None] * along
      best = np.minimum(best, np.linalg.norm(gap, axis=-1))
    return best - radius

  return distance


def curve(
  points: Sequence[Sequence[float]], samples: int = 9
) -> list[np.ndarray]:
  """A quadratic Bezier curve from the first to the last of three points."""
  a, b, c = (np.asarray(p, float) for p in points)
  t = np.linspace(0, 1, samples)[:, None]
  return list((1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c)


def union(*shapes: Shape) -> Shape:
  """What is inside any of the shapes."""
  return lambda p: np.minimum.reduce([s(p) for s in shapes])


def cut(shape: Shape, other: Shape) -> Shape:
  """What is inside `shape` and outside `other`."""
  return lambda p: np.maximum(shape(p), -other(p))


def ribs(body: Shape) -> Shape:
  """Bands of bone under the body's surface."""

  def distance(p):
    depth = np.abs(body(p) + 14) - 4
    level = p[..., 2] - 0.35 * p[..., 1]
    band = 8 * (0.45 - np.cos(2 * np.pi * level / 26))
    return np.maximum(depth, band)

  return distance


class _Jitter:
  """Draws each part's own displacement and size."""

  def __init__(self, rng: np.random.Generator, difficulty: Difficulty):
    self._rng, self._d = rng, difficulty

  def ellipsoid(self, centre, radii):
    centre = np.asarray(centre, float) + self._rng.normal(0, self._d.move, 3)
    grow = np.exp(self._rng.normal(0, self._d.size, 3))
    return ellipsoid(centre, np.asarray(radii) * grow)

  def tube(self, points, radius):
    bend = self._rng.normal(0, self._d.move, 3)
    points = [np.asarray(p, float) for p in points]
    points = [points[0] + bend / 2, points[1] + bend, points[2] + bend / 2]
    grow = np.exp(self._rng.normal(0, self._d.size))
    return tube(curve(points), radius * grow)


def heart(rng: np.random.Generator, difficulty: Difficulty) -> list[Part]:
  """Chambers, myocardium as a shell, bent vessels; the chest around them."""
  j = _Jitter(rng, difficulty)
  body = ellipsoid((0, -5, 0), (150, 105, 400))
  lv_centre = np.array([-26, 2, -16]) + rng.normal(0, difficulty.move, 3)
  lv_radii = np.array([19, 19, 29]) * np.exp(rng.normal(0, difficulty.size, 3))
  wall = 9 * np.exp(rng.normal(0, difficulty.size))
  cavity = ellipsoid(lv_centre, lv_radii)
  outer = ellipsoid(lv_centre, lv_radii + wall)
  # Open at the base, where the left atrium sits.
  base = ellipsoid(lv_centre + [4, -12, 34], (26, 22, 18))
  descending = [(-22, -60, -90), (-24, -62, 0), (-22, -58, 90)]
  pulmonary = [(2, 24, 6), (-14, 20, 44), (-30, -12, 46)]
  ascending = [(-4, -4, 6), (12, 10, 30), (6, -2, 62)]
  return [
    Part('fat', body),
    Part('muscle', ellipsoid((0, -5, 0), (138, 93, 400))),
    Part('lung', j.ellipsoid((85, -10, 10), (48, 72, 120))),
    Part('lung', j.ellipsoid((-88, -12, 10), (44, 70, 120))),
    Part('bone', ribs(body)),
    Part('bone', j.ellipsoid((0, -82, 0), (20, 16, 400))),
    Part('organ', j.ellipsoid((45, 5, -88), (85, 70, 38))),
    Part('fat', ellipsoid((2, -2, 4), (68, 54, 62))),
    Part('vessel', j.tube(descending, 11)),
    Part('vessel', j.tube([(36, 0, 25), (34, -4, 50), (30, -6, 90)], 9)),
    Part('right ventricle', j.ellipsoid((16, 24, -14), (27, 19, 28))),
    Part('right atrium', j.ellipsoid((35, -8, 8), (20, 20, 24))),
    Part('myocardium', cut(outer, base)),
    Part('left atrium', j.ellipsoid((-8, -34, 16), (27, 17, 18))),
    Part('left ventricle', cavity),
    Part('pulmonary artery', j.tube(pulmonary, 10)),
    Part('ascending aorta', j.tube(ascending, 12)),
  ]


def abdomen(rng: np.random.Generator, difficulty: Difficulty) -> list[Part]:
  """Four organs among vessels, bowel, bones and fat."""
  j = _Jitter(rng, difficulty)
  body = ellipsoid((0, 0, 0), (165, 118, 500))
  liver = union(
    j.ellipsoid((68, 6, 22), (66, 66, 62)),
    j.ellipsoid((6, 44, 30), (58, 32, 32)),
  )
  parts = [
    Part('fat', body),
    Part('muscle', ellipsoid((0, 0, 0), (150, 103, 500))),
    Part('fat', ellipsoid((0, 8, 0), (136, 88, 500))),
    Part('bone', ribs(body)),
    Part('bone', j.ellipsoid((0, -62, 0), (24, 22, 500))),
    Part('muscle', j.ellipsoid((42, -66, -40), (24, 22, 90))),
    Part('muscle', j.ellipsoid((-42, -66, -40), (24, 22, 90))),
    Part('lung', j.ellipsoid((78, -14, 118), (54, 70, 46))),
    Part('lung', j.ellipsoid((-78, -14, 118), (54, 70, 46))),
  ]
  for _ in range(9):
    # Bowel: loops anywhere in the lower front.
    where = rng.uniform([-95, 0, -85], [95, 70, -20])
    parts.append(Part('bowel', ellipsoid(where, rng.uniform(14, 26, 3))))
  cava = [(22, -30, -90), (24, -28, 90)]
  return [
    *parts,
    Part('stomach', j.ellipsoid((-52, 36, 26), (44, 32, 38))),
    Part('spleen', j.ellipsoid((-98, -26, 24), (27, 40, 46))),
    Part('liver', liver),
    Part('right kidney', j.ellipsoid((58, -46, -32), (25, 23, 46))),
    Part('left kidney', j.ellipsoid((-58, -46, -18), (25, 23, 46))),
    Part('inferior vena cava', tube(cava, 11)),
    Part('aorta', tube([(-10, -32, -90), (-8, -32, 90)], 10)),
  ]


def pose(
  rng: np.random.Generator, difficulty: Difficulty
) -> tuple[np.ndarray, np.ndarray]:
  """A subject's rotation-and-size matrix `[3, 3]` and shift `[3]`, mm."""
  angles = np.radians(rng.normal(0, difficulty.rotation, 3))
  matrix = np.eye(3)
  for axis, angle in enumerate(angles):
    turn = np.eye(3)
    i, k = (axis + 1) % 3, (axis + 2) % 3
    turn[i, i] = turn[k, k] = np.cos(angle)
    turn[i, k], turn[k, i] = -np.sin(angle), np.sin(angle)
    matrix = turn @ matrix
  size = np.exp(rng.normal(0, difficulty.size))
  return matrix / size, rng.normal(0, difficulty.shift, 3)


def smooth_field(
  rng: np.random.Generator, shape: Sequence[int], nodes: int = 4
) -> np.ndarray:
  """A smooth random field of about unit standard deviation."""
  coarse = rng.normal(size=(nodes,) * 3)
  factor = [s / nodes for s in shape]
  return ndimage.zoom(coarse, factor, order=3, mode='nearest', grid_mode=True)


class Rendering(NamedTuple):
  """What is where.

  Attributes:
    shares: tissue -> share of each voxel, `[X, Y, Z]`; they sum to 1.
    dominant: the last part that fills over half of the voxel, as an index
      into `tissues`.
    tissues: names, 'air' first.
  """

  shares: dict[str, np.ndarray]
  dominant: np.ndarray
  tissues: list[str]


def render(
  points: np.ndarray, parts: Sequence[Part], voxel: float
) -> Rendering:
  """Paints parts over each other with partial volume.

  Args:
    points: `[X, Y, Z, 3]` voxel centres in anatomical coordinates, mm.
    parts: back to front.
    voxel: width of the soft edge, mm.
  """
  tissues = ['air', *dict.fromkeys(part.tissue for part in parts)]
  shape = points.shape[:-1]
  shares = {name: np.zeros(shape, np.float32) for name in tissues}
  shares['air'] += 1
  dominant = np.zeros(shape, np.int16)
  for part in parts:
    cover = np.clip(0.5 - part.shape(points) / voxel, 0, 1).astype(np.float32)
    for name in tissues:
      shares[name] *= 1 - cover
    shares[part.tissue] += cover
    dominant[cover > 0.5] = tissues.index(part.tissue)
  return Rendering(shares, dominant, tissues)
