"""Crops and views, drawn on the device.

Each sample has its own key, folded from the step's key, the set and the
sample's index in the *global* batch: any number of devices draws the same.
"""

from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer, Key, Num, UInt8, UInt16

# Views of the samples.
Images = Float[Array, 'n {settings.patch_size} {settings.patch_size} 1']
Labels = Integer[Array, 'n {settings.patch_size} {settings.patch_size}']
# Of one sample.
Places = Float[Array, '2 h w']
Matrix = Float[Array, '2 2']

# Points on the Bezier curve that intensities are interpolated from.
_CURVE_POINTS = 64


class Augmentation(NamedTuple):
  """What is drawn; see `configs/common.py` for the meaning of each field."""

  patch_size: int
  rotation: float
  flips: bool
  scale: float
  intensity_labeled: float
  noise_probability: float
  noise_sigma: float


def sample_keys(
  key: Key[Array, ''], indices: Integer[Array, ' n']
) -> Key[Array, ' n']:
  """One key per sample from its index in the global batch."""
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(indices)


def geometric_matrix(
  key: Key[Array, ''], settings: Augmentation
) -> tuple[Matrix, Float[Array, '2']]:
  """Draws the linear part of a sample's geometric augmentation.

  Scale per axis U[1 - s, 1 + s]; then, where the task allows flips, an even
  chance of quarter turns with flips instead of a rotation of up to +-degrees.

  Args:
    key: the sample's key.
    settings: what to draw.

  Returns:
    Matrix from output offsets to input offsets (pixels from the centre; rows,
    columns), and the crop's position in [0, 1].
  """
  k_scale, k_angle, k_turn, k_flip, k_which, k_crop = jax.random.split(key, 6)
  low, high = 1 - settings.scale, 1 + settings.scale
  scale = jax.random.uniform(k_scale, (2,), minval=low, maxval=high)
  limit = settings.rotation * jnp.pi / 180
  angle = jax.random.uniform(k_angle, minval=-limit, maxval=limit)
  flip = jnp.ones(2)
  if settings.flips:
    which = jax.random.bernoulli(k_which)
    turn = jax.random.randint(k_turn, (), 0, 4) * (jnp.pi / 2)
    angle = jnp.where(which, turn, angle)
    signs = jax.random.rademacher(k_flip, (2,), jnp.float32)
    flip = jnp.where(which, signs, flip)
  c, s = jnp.cos(angle), jnp.sin(angle)
  matrix = jnp.array([[c, -s], [s, c]]) * (flip / scale)
  return matrix, jax.random.uniform(k_crop, (2,))


def _coordinates(
  matrix: Matrix, position: Float[Array, '2'], size: tuple[int, int], patch: int
) -> Float[Array, '2 {patch} {patch}']:
  """Input rows and columns of each output pixel centre."""
  offsets = jnp.arange(patch) - (patch - 1) / 2
  rows, columns = offsets[:, None], offsets[None]
  room = jnp.array([s - patch for s in size])
  corner = jnp.floor(position * (room + 1))
  centre = jnp.clip(corner, 0, room) + (patch - 1) / 2
  # No matrix product: a GPU or TPU would take it in fewer bits.
  turned = [
    a * rows + b * columns + c for (a, b), c in zip(matrix, centre, strict=True)
  ]
  return jnp.stack(turned)


def _take(
  image: Num[Array, 'H W'],
  rows: Integer[Array, 'h w'],
  columns: Integer[Array, 'h w'],
) -> Num[Array, 'h w']:
  """Pixels at integer positions; 0 outside of the image."""
  height, width = image.shape
  inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
  rows = jnp.clip(rows, 0, height - 1)
  columns = jnp.clip(columns, 0, width - 1)
  return jnp.where(inside, image[rows, columns], 0)


def warp_image(
  image: Float[Array, 'H W'], coordinates: Places
) -> Float[Array, 'h w']:
  """Bilinear interpolation at rows and columns, 0 outside."""
  low = jnp.floor(coordinates)
  f = coordinates - low
  r, c = low.astype(jnp.int32)
  top = _take(image, r, c) * (1 - f[1]) + _take(image, r, c + 1) * f[1]
  bottom = _take(image, r + 1, c) * (1 - f[1])
  bottom += _take(image, r + 1, c + 1) * f[1]
  return top * (1 - f[0]) + bottom * f[0]


def warp_label(
  label: Integer[Array, 'H W'], coordinates: Places
) -> Integer[Array, 'h w']:
  """Nearest neighbour at rows and columns, background outside."""
  r, c = jnp.round(coordinates).astype(jnp.int32)
  return _take(label, r, c)


def _interpolate(x, xs, ys):
  """`jnp.interp`, whose search for the interval is a loop, without one."""
  # How many points are at or before each x, of which the last one is not asked.
  after = jnp.sum(x[..., None] >= xs[1:-1], -1)
  x0, x1, y0, y1 = xs[after], xs[after + 1], ys[after], ys[after + 1]
  share = (x - x0) / jnp.maximum(x1 - x0, 1e-12)
  return y0 + jnp.clip(share, 0.0, 1.0) * (y1 - y0)


def bezier(
  image: Float[Array, '*pixels'], points: Matrix
) -> Float[Array, '*pixels']:
  """Monotone cubic Bezier map of [0, 1] through (0, 0) and (1, 1).

  Args:
    image: values in [0, 1].
    points: the two inner control points' x and their y; each is
      sorted here, which is what makes the curve monotone.
  """
  x, y = jnp.sort(points, -1)
  t = jnp.linspace(0.0, 1.0, _CURVE_POINTS)
  b1, b2, b3 = 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3
  return _interpolate(
    image, b1 * x[0] + b2 * x[1] + b3, b1 * y[0] + b2 * y[1] + b3
  )


def half_box(key: Key[Array, ''], side: int) -> Bool[Array, '{side} {side}']:
  """A box of half an image's pixels, of random shape and place: CutMix.

  French et al., "Semi-supervised semantic segmentation needs strong, varied
  perturbations" (2020): the sides' shares of the image's are s and 1 / (2 s).

  Args:
    key: of the draw.
    side: of the image, in pixels.
  """
  k_shape, k_place = jax.random.split(key)
  s = 2.0 ** jax.random.uniform(k_shape, minval=-1.0, maxval=0.0)
  sides = side * jnp.stack([s, 0.5 / s])
  low = jax.random.uniform(k_place, (2,)) * (side - sides)
  at = jnp.arange(side) + 0.5
  inside = (at >= low[:, None]) & (at < (low + sides)[:, None])
  return inside[0][:, None] & inside[1]


def _to_float(image):
  """Stored uint16 slices to [0, 1]."""
  return image.astype(jnp.float32) / 65535.0


def labeled_view(
  images: UInt16[Array, 'n H W'],
  labels: UInt8[Array, 'n H W'],
  keys: Key[Array, ' n'],
  settings: Augmentation,
) -> tuple[Images, Labels]:
  """The training view of labelled slices: images and labels.

  Args:
    images: as they are stored.
    labels: class indices.
    keys: the samples' keys.
    settings: what to draw.
  """

  def one(image, label, key):
    k_geometry, k_curve, k_apply = jax.random.split(key, 3)
    matrix, position = geometric_matrix(k_geometry, settings)
    where = _coordinates(matrix, position, image.shape, settings.patch_size)
    image = warp_image(_to_float(image), where)
    curved = bezier(image, jax.random.uniform(k_curve, (2, 2)))
    apply = jax.random.bernoulli(k_apply, settings.intensity_labeled)
    return jnp.where(apply, curved, image), warp_label(label, where)

  images, labels = jax.vmap(one)(images, labels, keys)
  return images[..., None], labels.astype(jnp.int32)


def unlabeled_views(
  images: UInt16[Array, 'n H W'],
  keys: Key[Array, ' n'],
  settings: Augmentation,
  labels: UInt8[Array, 'n H W'] | None = None,
) -> tuple[Images, Images, Labels | None]:
  """The weak and the strong view of unlabelled slices (same geometry).

  Args:
    images: as they are stored.
    keys: the samples' keys.
    settings: what to draw.
    labels: of slices whose labels leave something open; they are moved, too.
  """

  def one(image, key, label):
    k_geometry, k_curve, k_apply, k_noise = jax.random.split(key, 4)
    matrix, position = geometric_matrix(k_geometry, settings)
    where = _coordinates(matrix, position, image.shape, settings.patch_size)
    weak = warp_image(_to_float(image), where)
    strong = bezier(weak, jax.random.uniform(k_curve, (2, 2)))
    noise = settings.noise_sigma * jax.random.normal(k_noise, weak.shape)
    noisy = jax.random.bernoulli(k_apply, settings.noise_probability)
    strong = jnp.clip(jnp.where(noisy, strong + noise, strong), 0.0, 1.0)
    moved = None if label is None else warp_label(label, where)
    return weak, strong, moved

  weak, strong, moved = jax.vmap(one)(images, keys, labels)
  return weak[..., None], lax.stop_gradient(strong)[..., None], moved
