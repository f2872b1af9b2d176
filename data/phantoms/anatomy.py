"""The phantom's anatomy: heart and abdomen as parts in painting order.

Every subject has a pose, a size and a smooth deformation of its own, and each
part a place and a size of its own within that.
"""

from typing import NamedTuple

import numpy as np

from data.phantoms import shapes as shapes
from data.phantoms.shapes import Part


class Difficulty(NamedTuple):
  """How much subjects differ, and how bad their images are.

  Calibrated with `supervised` alone, on seeds that no reported run uses, and
  then frozen: see docs/phantom.md.

  Attributes:
    rotation: standard deviation of the pose's angle, degrees.
    size: of the logarithm of the subject's and of each part's size.
    move: of each part's own displacement, mm.
    deform: of the smooth deformation, mm.
    contrast: of tissue intensities, in the scanner's units of contrast.
    gamma: of the logarithm of the MR intensity curve's exponent.
    bias: of the logarithm of the MR bias field.
    noise: in the scanner's units of noise.
    texture: likewise, of the blotches within tissues.
  """

  rotation: float = 14.0
  size: float = 0.085
  move: float = 3.0
  deform: float = 3.0
  contrast: float = 1.5
  gamma: float = 0.3
  bias: float = 0.24
  noise: float = 0.5
  texture: float = 0.5


DIFFICULTY = Difficulty()


def spread(rng: np.random.Generator) -> float:
  """A draw of variance 1 without tails: few subjects do not cover its range.

  Tails would make single subjects impossible instead of all of them different.
  """
  return float(rng.uniform(-np.sqrt(3), np.sqrt(3)))


class _Body:
  """Draws parts with their own place and size, in the subject's pose."""

  def __init__(self, points, rng: np.random.Generator, d: Difficulty):
    turn = shapes.rotation(rng.normal(size=3), d.rotation * spread(rng))
    posed = shapes.apply(turn / np.exp(d.size * rng.normal()), points)
    self.points = shapes.warp(posed, rng, d.deform)
    self._rng, self._d = rng, d

  def fixed(self, centre, radii):
    """An ellipsoid that is the same in every subject."""
    return shapes.ellipsoid(self.points, centre, radii)

  def place(self, centre, radii):
    """A centre and radii of this subject's own."""
    rng, d = self._rng, self._d
    own = np.asarray(centre) + d.move * rng.normal(size=3)
    return own, np.asarray(radii) * np.exp(d.size * rng.normal(size=3))

  def ellipsoid(self, centre, radii):
    """An ellipsoid of this subject's own place and size."""
    return shapes.ellipsoid(self.points, *self.place(centre, radii))

  def tube(self, line, radius):
    """A bent vessel of this subject's own course and width."""
    rng, d = self._rng, self._d
    bend = d.move * rng.normal(size=(3, 3)) * [[0.5], [1.0], [0.5]]
    own = radius * np.exp(d.size * rng.normal())
    return shapes.tube(self.points, shapes.curve(np.asarray(line) + bend), own)


def _chest(b: _Body) -> list[Part]:
  """What lies around the heart."""
  body = b.fixed((0, -5, 0), (150, 112, 500))
  return [
    Part('skin', body),
    Part('fat', body + 3),
    Part('muscle', b.fixed((0, -5, 0), (136, 98, 500))),
    Part('bone', shapes.ribs(b.points, body)),
    Part('lung', b.ellipsoid((84, -10, 22), (50, 76, 108))),
    Part('lung', b.ellipsoid((-92, -12, 22), (46, 72, 108))),
    Part('bone', b.ellipsoid((0, -86, 0), (21, 18, 500))),
    Part('marrow', b.ellipsoid((0, -86, 0), (16, 13, 500))),
    Part('bone', b.ellipsoid((0, 88, 10), (18, 7, 70))),
    Part('liver', b.ellipsoid((48, 10, -92), (92, 72, 44))),
    Part('fluid', b.ellipsoid((-62, 20, -92), (40, 36, 30))),
    Part('fat', b.ellipsoid((0, -2, 6), (64, 52, 66))),
    Part('aorta', b.tube([(-22, -62, -95), (-26, -64, 0), (-20, -58, 90)], 11)),
    Part('venous', b.tube([(36, -2, 24), (34, -6, 52), (28, -8, 92)], 8)),
    Part(
      'venous', b.tube([(30, -16, -50), (32, -16, -72), (30, -22, -95)], 10)
    ),
  ]


def heart(
  points: np.ndarray, rng: np.random.Generator, difficulty: Difficulty
) -> list[Part]:
  """Chambers, myocardium as a shell, bent great vessels, and the chest.

  Args:
    points: `[3, X, Y, Z]` RAS mm; the heart's centre is the origin.
    rng: the subject's.
    difficulty: how much subjects differ.

  Returns:
    Parts in painting order with MM-WHS codes.
  """
  b = _Body(points, rng, difficulty)
  parts = _chest(b)
  centre, radii = b.place((-26, 4, -18), (19, 19, 31))
  cavity = shapes.ellipsoid(b.points, centre, radii)
  wall = 10 * np.exp(difficulty.size * rng.normal())
  outer = shapes.ellipsoid(b.points, centre, radii + wall)
  # The shell is open at the base, where valves and left atrium sit.
  base = shapes.ellipsoid(
    b.points, centre + np.array([6, -14, 38]), (28, 22, 20)
  )
  right = b.ellipsoid((16, 26, -16), (28, 20, 30))
  pulmonary = b.tube([(4, 26, 4), (-14, 22, 46), (-26, -10, 46)], 11)
  branch = b.tube([(-24, -10, 46), (6, -18, 46), (46, -20, 40)], 8)
  return [
    *parts,
    Part('myocardium', right - 2.5),
    Part('right', right, 600),
    Part('venous', b.ellipsoid((36, -8, 6), (22, 22, 26)), 550),
    Part('left', b.ellipsoid((-6, -36, 16), (30, 18, 20)), 420),
    Part('myocardium', np.maximum(outer, -base), 205),
    Part('left', cavity, 500),
    Part('artery', np.minimum(pulmonary, branch), 850),
    Part('aorta', b.tube([(-4, -4, 8), (14, 12, 34), (6, -4, 74)], 13), 820),
  ]


def _trunk(b: _Body, rng: np.random.Generator) -> list[Part]:
  """What lies around the abdominal organs."""
  body = b.fixed((0, -4, 0), (160, 118, 600))
  parts = [
    Part('skin', body),
    Part('fat', body + 3),
    Part('muscle', b.fixed((0, -4, 0), (144, 102, 600))),
    Part('fat', b.fixed((0, 4, 0), (134, 88, 600))),
    Part('bone', shapes.ribs(b.points, body)),
    Part('bone', b.ellipsoid((0, -66, 0), (25, 22, 600))),
    Part('marrow', b.ellipsoid((0, -64, 0), (20, 16, 600))),
    Part('fluid', b.fixed((0, -86, 0), (9, 9, 600))),
    Part('muscle', b.ellipsoid((42, -70, -40), (22, 20, 100))),
    Part('muscle', b.ellipsoid((-42, -70, -40), (22, 20, 100))),
    Part('lung', b.ellipsoid((76, -16, 122), (58, 74, 46))),
    Part('lung', b.ellipsoid((-76, -16, 122), (58, 74, 46))),
  ]
  for index in range(10):
    # Bowel: loops anywhere in the lower front, some with air or fluid.
    where = rng.uniform([-92, 0, -95], [92, 66, -22])
    radii = rng.uniform(13, 26, 3)
    parts.append(Part('bowel', shapes.ellipsoid(b.points, where, radii)))
    content = ('fluid', 'air', 'bowel')[index % 3]
    inner = shapes.ellipsoid(b.points, where, radii * 0.55)
    parts.append(Part(content, inner))
  return parts


def abdomen(
  points: np.ndarray, rng: np.random.Generator, difficulty: Difficulty
) -> list[Part]:
  """Liver, kidneys and spleen among vessels, bowel, bones and fat.

  Args:
    points: `[3, X, Y, Z]` RAS mm.
    rng: the subject's.
    difficulty: how much subjects differ.

  Returns:
    Parts in painting order with BTCV codes.
  """
  b = _Body(points, rng, difficulty)
  liver = np.minimum(
    b.ellipsoid((66, 4, 26), (66, 66, 60)),
    b.ellipsoid((8, 44, 34), (60, 32, 32)),
  )
  parts = [
    *_trunk(b, rng),
    Part('stomach', b.ellipsoid((-50, 34, 30), (46, 34, 38)), 7),
    Part('pancreas', b.tube([(24, 2, -6), (-6, 14, 4), (-64, -14, 22)], 9), 11),
    Part('spleen', b.ellipsoid((-98, -28, 28), (29, 42, 46)), 1),
    Part('liver', liver, 6),
    Part('portal', b.tube([(10, 0, 10), (34, 10, 22), (64, 4, 30)], 6), 6),
    Part('fluid', b.ellipsoid((40, 42, -14), (14, 17, 22)), 4),
  ]
  for x, z, code in ((58, -34, 2), (-60, -20, 3)):  # The right, the left.
    centre, radii = b.place((x, -48, z), (27, 25, 50))
    cortex = shapes.ellipsoid(b.points, centre, radii)
    medulla = shapes.ellipsoid(b.points, centre, radii * 0.5)
    parts += [Part('kidney', cortex, code), Part('medulla', medulla, code)]
  cava = [(24, -30, -100), (22, -34, 0), (26, -26, 100)]
  aorta = [(-8, -34, -100), (-12, -36, 0), (-8, -34, 100)]
  return [
    *parts,
    Part('venous', b.tube(cava, 11), 9),
    Part('aorta', b.tube(aorta, 10), 8),
  ]
