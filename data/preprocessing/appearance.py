"""What a scan looks like, in a few numbers that no network has learnt.

Scans of a modality resemble each other in how grey values are spread over the
body, where bright and dark lie below the skin, and how a grey value differs
from those around it: fat is bright or dark, fluid stands out, organs have dark
rims. These numbers say so. None depends on gain or offset, on the field of
view around the body or on the voxels' size (down to `_MM`), and since nothing
is fitted to the scans that they are taken of, those of a run's own scans are as
good a sample as those of unseen ones.
"""

from collections.abc import Sequence
import itertools
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from data.preprocessing import preprocess
from data.task import Intensity

# Slices are looked at with pixels of this side, of small ones at least so many
# along each; and so many slices, without the share at either end.
_MM, _PIXELS = 4.0, 8
_SLICES = 24
_ENDS = 0.05
# Fewer pixels are no body; those beyond this percentile may be bright organs.
_LEAST, _REST = 200, 85
# Pixels that a slice is thought to go on for.
_BEHIND = 4
# Where no window says what is bright, these percentiles do: of the slices, and
# then of the body, so that the air around it makes no difference.
_BRIGHTEST, _BRIGHT = 99.95, 98
# This near to 0 and to 1 values are at the end.
_NOTHING = 0.02
# Coil sensitivity and the like: what is this smooth, pixels.
_SMOOTH = 12
# Bounds of the shells below the skin, mm, and of the levels of grey.
_SHELLS = (0, 6, 10, 14, 20, 28, 40)
_LEVELS = np.linspace(0, 1.0001, 7)
_GREYS = (10, 30, 50, 70, 90)
_EVEN_GREYS = (5, 25, 50, 75, 95)


class Feature(NamedTuple):
  """One of the numbers.

  Attributes:
    name: what it is.
    spread: standard deviation between scans of one modality, roughly; what is
      supposed where only few scans are known.
  """

  name: str
  spread: float


FEATURES = (
  # Grey values inside of the body, in [0, 1]; the same without what is smooth.
  *(Feature(f'grey {q} %', 0.055) for q in _GREYS[:-1]),
  Feature(f'grey {_GREYS[-1]} %', 0.065),
  *(Feature(f'even grey {q} %', 0.09) for q in _EVEN_GREYS[:-1]),
  Feature(f'even grey {_EVEN_GREYS[-1]} %', 0.105),
  # Logarithm of the share of the contrast that is finer than a pixel, or two.
  Feature('fine', 0.11),
  Feature('middle', 0.08),
  # Mean rank of the grey values in shells below the skin.
  *(Feature(f'shell from {mm} mm', 0.08) for mm in _SHELLS[:-1]),
  # Of the darkest (0) to the brightest (5) sixth: how much brighter what
  # surrounds it is, how different, and how deep it lies.
  *(Feature(f'rise {level}', 0.011) for level in (0, 1, 4, 5)),
  *(Feature(f'edge {level}', 0.013) for level in (0, 2, 5)),
  *(Feature(f'depth {level}', 0.18) for level in (0, 5)),
  Feature('skew', 0.28),
  # Shares of the body that are as dark as nothing is, and as bright as can be.
  Feature('floor', 0.03),
  Feature('ceiling', 0.022),
)


def _threshold(values: np.ndarray) -> float:
  """Otsu's: the value in [0, 1] that parts dark and bright best."""
  counts, edges = np.histogram(values, 128, (0, 1))
  centres = (edges[:-1] + edges[1:]) / 2
  below = np.cumsum(counts) / counts.sum()
  mean = np.cumsum(counts * centres) / counts.sum()
  between = below * (1 - below)
  apart = np.where(
    between > 1e-9,
    (mean[-1] * below - mean) ** 2 / np.maximum(between, 1e-9),
    0,
  )
  return float(centres[np.argmax(apart)])


def _body(units: np.ndarray, inside: np.ndarray) -> np.ndarray:
  """The largest part of each slice that is not air: `[S, h, w]`.

  Roots of grey values are parted, and the brightest taken as less bright: few
  bright organs do not outweigh the rest. Halfway from there to the dark part's
  median, fat is not air either.
  """
  roots = np.sqrt(ndimage.gaussian_filter(units, (0, 0.7, 0.7)))
  bright = np.percentile(roots[inside], _REST)
  found = np.minimum(roots[inside], bright)
  parting = max(_threshold(found), float(found.min()))
  least = (parting + float(np.median(found[found <= parting]))) / 2
  body = np.zeros(units.shape, bool)
  for out, image in zip(body, roots, strict=True):
    # What reaches the image's end goes on behind it.
    bright = np.pad(image > least, _BEHIND, 'edge')
    solid = ndimage.binary_fill_holes(ndimage.binary_closing(bright))
    parts, count = ndimage.label(ndimage.binary_opening(solid, iterations=2))
    if count:
      sizes = np.bincount(parts.ravel())
      sizes[0] = 0
      largest = parts == sizes.argmax()
      out[:] = largest[_BEHIND:-_BEHIND, _BEHIND:-_BEHIND]
  body &= inside
  return body if body.sum() >= _LEAST else inside


def _depth(body: np.ndarray, inside: np.ndarray, mm: float) -> np.ndarray:
  """Distance below the skin in the slice, mm; an image's end is no skin."""
  out = np.full(body.shape, float(_SHELLS[-1]))
  for depth, part, image in zip(out, body, inside, strict=True):
    solid = part | ~image
    if not solid.all():
      depth[:] = ndimage.distance_transform_edt(solid) * mm
  return out


def _means(values, at, bounds, otherwise: float) -> list[float]:
  """Mean value where `at` lies between each two bounds."""
  out = []
  for low, high in itertools.pairwise(bounds):
    mine = values[(at >= low) & (at < high)]
    out.append(float(mine.mean()) if len(mine) >= 30 else otherwise)
  return out


def _blur(values: np.ndarray, weight: np.ndarray, sigma: float) -> np.ndarray:
  """In-plane mean of what lies inside of the weight."""
  widths = (0, sigma, sigma)
  return ndimage.gaussian_filter(values * weight, widths) / np.maximum(
    ndimage.gaussian_filter(weight, widths), 1e-3
  )


def _texture(units: np.ndarray, core: np.ndarray, spread: float) -> list[float]:
  """What is finer than one pixel and than some, and the skew of the latter."""
  once = ndimage.gaussian_filter(units, (0, 1, 1))
  fine = (units - once)[core]
  middle = (once - ndimage.gaussian_filter(units, (0, 2.5, 2.5)))[core]
  shares = [np.log(part.std() / spread + 1e-3) for part in (fine, middle)]
  skew = np.mean((middle - middle.mean()) ** 3) / (middle.std() + 1e-6) ** 3
  return [*map(float, shares), float(np.clip(skew, -5, 5))]


def _of_slices(
  units: np.ndarray, inside: np.ndarray, mm: float, windowed: bool
) -> list[float]:
  body = _body(units, inside)
  if not windowed:
    bright = float(np.percentile(units[body], _BRIGHT))
    units = np.minimum(units / max(bright, 1e-6), 1)
  weight = body.astype(np.float32)
  depth = _depth(body, inside, mm)
  core = ndimage.binary_erosion(body, np.ones((1, 5, 5)))
  core = core if core.sum() >= _LEAST else body
  found = units[body]
  even = units / np.maximum(_blur(units, weight, _SMOOTH), 0.02) * weight
  values = np.sort(even[body])
  rank = (np.searchsorted(values, even) / len(values)).astype(np.float32)
  rise = _blur(rank, weight, 1) - rank
  far = np.log1p(depth)
  middle = float(far[body].mean())
  rises = _means(rise[core], rank[core], _LEVELS, 0.0)
  edges = _means(np.abs(rise)[core], rank[core], _LEVELS, 0.0)
  depths = _means(far[body], rank[body], _LEVELS, middle)
  fine, coarse, skew = _texture(units, core, float(found.std()) + 1e-3)
  return [
    *map(float, np.percentile(found, _GREYS)),
    *map(float, np.percentile(values, _EVEN_GREYS)),
    fine,
    coarse,
    *_means(rank[body], depth[body], _SHELLS, 0.5),
    *(rises[level] for level in (0, 1, 4, 5)),
    *(edges[level] for level in (0, 2, 5)),
    *(depths[level] - middle for level in (0, 5)),
    skew,
    float(np.mean(found <= _NOTHING)),
    float(np.mean(found >= 1 - _NOTHING)),
  ]


def _span(shown: np.ndarray) -> slice:
  """From the first to the last that is true; all if none is."""
  found = np.flatnonzero(shown)
  return slice(found[0], found[-1] + 1) if len(found) else slice(None)


def _shown(image: np.ndarray, low: float) -> tuple[np.ndarray, list[slice]]:
  """Slices to look at, and rows and columns beyond which nothing is shown.

  Padding is no air, and where it begins there is no skin.
  """
  there = image[_span(np.any(image > low, (1, 2)))]
  last = len(there) - 1
  picked = np.linspace(_ENDS * last, (1 - _ENDS) * last, _SLICES)
  slices = there[np.unique(picked.round().astype(int))]
  bright = np.any(slices > low, 0)
  return slices, [_span(bright.any(1)), _span(bright.any(0))]


def describe(
  image: np.ndarray, spacing: Sequence[float], intensity: Intensity
) -> list[float]:
  """The numbers of a whole scan, as many as there are `FEATURES`.

  Args:
    image: `[S, h, w]` scanner values, reoriented.
    spacing: (slice, row, column), mm.
    intensity: how scanner values of the modality become [0, 1].
  """
  low, high = preprocess.limits(image, intensity)
  slices, box = _shown(image, low)
  if not intensity.window:
    high = max(high, float(np.percentile(slices, _BRIGHTEST)))
  part = preprocess.between(slices[:, *box], low, high)
  sides = zip(part.shape[1:], spacing[1:], strict=True)
  mm = min(_MM, *(n * long / _PIXELS for n, long in sides))
  geometry, canvas = preprocess.region_geometry(
    part.shape, spacing, mm, _PIXELS
  )
  units = preprocess.resample(part, geometry, canvas, order=1)
  inside = preprocess.resample(
    np.ones(part.shape, np.uint8), geometry, canvas, order=0
  )
  return _of_slices(
    units.astype(np.float32), inside > 0, mm, intensity.window is not None
  )
