"""How the phantom's tissues look in each modality, and the scanner's faults.

Intensities (mean of a subject's mean; each subject deviates, see `Difficulty`):

* CT in Hounsfield units, with contrast agent.
* Heart MR (balanced steady-state free precession) and T2-SPIR (fat is
  suppressed) in arbitrary units, about 1000 being the brightest tissue.
* T1 by its two components: a voxel with in-phase signal s and fat fraction f
  has water (1-f)s and fat fs. In phase they add up, out of phase they cancel:
  |water - fat|. The dark rim between organs and fat follows from this where a
  voxel holds both.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from data.phantoms import shapes as shapes
from data.phantoms.anatomy import Difficulty, spread
from data.phantoms.shapes import Part


class Tissue(NamedTuple):
  """A row of the intensity table.

  Attributes:
    heart_ct: HU in cardiac CT angiography.
    heart_mr: bSSFP signal.
    ct: HU in the portal venous phase.
    t2: T2-SPIR signal.
    t1: in-phase T1 signal.
    fat: fat fraction of the T1 signal.
  """

  heart_ct: float
  heart_mr: float
  ct: float
  t2: float
  t1: float
  fat: float = 0.0


_AIR = Tissue(-1000, 15, -1000, 10, 15)
TISSUES: dict[str, Tissue] = {
  #                 heart_ct heart_mr   ct    t2    t1   fat
  'skin': Tissue(20, 400, 20, 250, 350),
  'fat': Tissue(-95, 430, -100, 170, 900, 0.93),
  'muscle': Tissue(55, 270, 60, 170, 380, 0.03),
  'bone': Tissue(520, 110, 430, 60, 110),
  'marrow': Tissue(210, 330, 190, 190, 480, 0.42),
  'fluid': Tissue(15, 760, 15, 850, 210),
  'lung': Tissue(-820, 45, -830, 40, 40),
  'air': _AIR,
  'liver': Tissue(85, 310, 112, 270, 560, 0.06),
  # Heart.
  'left': Tissue(340, 800, 150, 90, 150),
  'right': Tissue(250, 740, 150, 90, 150),
  'artery': Tissue(285, 720, 150, 90, 150),
  'aorta': Tissue(335, 770, 165, 90, 170),
  'venous': Tissue(190, 700, 140, 110, 180),
  'myocardium': Tissue(115, 360, 110, 200, 400),
  # Abdomen.
  'portal': Tissue(150, 600, 150, 130, 230),
  'spleen': Tissue(115, 450, 122, 520, 400),
  'kidney': Tissue(160, 500, 172, 640, 430),
  'medulla': Tissue(150, 480, 150, 740, 330),
  'pancreas': Tissue(95, 350, 95, 320, 540, 0.08),
  'bowel': Tissue(60, 350, 105, 420, 400),
  'stomach': Tissue(20, 400, 35, 600, 300),
}
# One unit of noise and one unit of contrast variation, scanner units.
_NOISE = {'heart_ct': 32, 'heart_mr': 45, 'ct': 20, 't2': 38, 't1': 38}
_CONTRAST = {'heart_ct': 52, 'heart_mr': 75, 'ct': 16, 't2': 75, 't1': 65}
# Their values differ little between people.
_STEADY = frozenset({'air', 'lung', 'fat', 'bone', 'skin'})


def paint(
  parts: Sequence[Part], values: dict[str, float], pixel: float
) -> np.ndarray:
  """Paints one value per tissue, mixing tissues where a voxel holds both.

  Args:
    parts: in painting order.
    values: of every tissue.
    pixel: width of the transition between two tissues, mm.
  """
  out = np.full(parts[0].distance.shape, values['air'], np.float32)
  for part in parts:
    share = np.clip(np.float32(0.5) - part.distance / np.float32(pixel), 0, 1)
    out += share * (np.float32(values[part.tissue]) - out)
  return out


def paint_label(parts: Sequence[Part]) -> np.ndarray:
  """Label codes, int16: a voxel belongs to what its centre lies in."""
  out = np.zeros(parts[0].distance.shape, np.int16)
  for part in parts:
    if part.label is not None:
      out[part.distance < 0] = part.label
  return out


def _subject_values(
  column: str, rng: np.random.Generator, difficulty: Difficulty
) -> dict[str, float]:
  """One subject's intensity of every tissue."""
  out = {}
  for name, tissue in TISSUES.items():
    own = _CONTRAST[column] * difficulty.contrast * spread(rng)
    if name in _STEADY:
      own *= 0.3
    mean = getattr(tissue, column)
    out[name] = mean + own if column.endswith('ct') else max(mean + own, 8.0)
  return out


def _smooth_noise(rng, shape, sigma) -> np.ndarray:
  """Gaussian noise of unit variance, correlated over `sigma` voxels."""
  noise = rng.standard_normal(shape, np.float32)
  noise = ndimage.gaussian_filter(noise, sigma, mode='wrap')
  return noise / noise.std()


def _bias(points, rng, strength) -> np.ndarray:
  """A smooth positive field of mean about 1 (logarithm's std `strength`)."""
  flat = shapes.warp(points, rng, 1.0)[:1] - points[:1]
  tilt = rng.normal(size=3) / 120
  slope = sum(np.float32(t) * p for t, p in zip(tilt, points, strict=True))
  field = flat[0] + np.float32(0.7) * slope
  field = (field - field.mean()) / max(float(field.std()), 1e-6)
  return np.exp(np.float32(strength) * field)


def ct(
  parts, column, spacing, rng: np.random.Generator, difficulty: Difficulty
) -> np.ndarray:
  """A CT volume, int16 HU.

  Args:
    parts: in painting order.
    column: 'ct' or 'heart_ct'.
    spacing: mm per array axis.
    rng: the subject's scanner.
    difficulty: its faults.
  """
  values = _subject_values(column, rng, difficulty)
  image = paint(parts, values, 1.2 * min(spacing))
  unit = _NOISE[column] * float(rng.uniform(0.7, 1.3))
  soft = image > -400
  blotches = _smooth_noise(rng, image.shape, [6 / s for s in spacing])
  image += soft * np.float32(unit * difficulty.texture * 0.7) * blotches
  # The reconstruction kernel correlates noise in plane.
  kernel = [0.8 if s < 1.5 * min(spacing) else 0.0 for s in spacing]
  noise = _smooth_noise(rng, image.shape, kernel)
  image += np.float32(unit * difficulty.noise) * noise
  return np.round(np.clip(image, -1024, 2500)).astype(np.int16)


def _receive(signal, field, gain, gamma, sigma, rng) -> np.ndarray:
  """Bias, gamma, gain and Rician noise; 12 bit."""
  top = np.float32(1000)
  image = top * (np.maximum(signal, 0) / top) ** np.float32(gamma) * field
  real = image + np.float32(sigma) * rng.standard_normal(
    image.shape, np.float32
  )
  imaginary = np.float32(sigma) * rng.standard_normal(image.shape, np.float32)
  image = np.float32(gain) * np.sqrt(real * real + imaginary * imaginary)
  return np.round(np.clip(image, 0, 4095)).astype(np.uint16)


def mr(
  parts,
  column,
  points,
  spacing,
  rng: np.random.Generator,
  difficulty: Difficulty,
) -> tuple[np.ndarray, ...]:
  """MR volumes, uint16 of 12 bit: one, or in- and out-phase for 't1'.

  Args:
    parts: in painting order.
    column: 'heart_mr', 't2' or 't1'.
    points: `[3, X, Y, Z]` where the voxels lie.
    spacing: mm per array axis.
    rng: the subject's scanner.
    difficulty: its faults.
  """
  values = _subject_values(column, rng, difficulty)
  pixel = 1.3 * min(spacing)
  if column == 't1':
    fat = {name: tissue.fat for name, tissue in TISSUES.items()}
    # Fatty livers occur.
    fat['liver'] = float(rng.uniform(0.0, 0.16))
    lipid = {name: fat[name] * value for name, value in values.items()}
    water = {name: values[name] - lipid[name] for name in values}
    maps = [paint(parts, water, pixel), paint(parts, lipid, pixel)]
  else:
    maps = [paint(parts, values, pixel)]
  blur = [0.55 if s < 1.5 * min(spacing) else 0.0 for s in spacing]
  sigma = _NOISE[column] * float(rng.uniform(0.7, 1.3))
  blotches = _smooth_noise(rng, maps[0].shape, [7 / s for s in spacing])
  share = np.float32(0.0012 * sigma * difficulty.texture)
  texture = np.maximum(1 + share * blotches, 0.1)
  maps = [ndimage.gaussian_filter(m, blur) * texture for m in maps]
  signals = maps
  if column == 't1':
    signals = [maps[0] + maps[1], np.abs(maps[0] - maps[1])]
  field = _bias(points, rng, difficulty.bias)
  gain = float(np.exp(rng.normal() * 0.25)) * 0.9
  gamma = float(np.exp(spread(rng) * difficulty.gamma))
  sigma *= difficulty.noise
  return tuple(_receive(s, field, gain, gamma, sigma, rng) for s in signals)
