"""Functions of the networks whose gradient is written out.

What they compute is plain: a convolution, an interpolation, a normalisation.
How is for speed: on CPU the compiler's own gradients take several times longer,
on a GPU it is memory that counts. A reader of the networks need not pass here.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
import jax.numpy as jnp
from jaxtyping import Array, Float

from dbdc_jax.ops.shapes import Features, Ids
from dbdc_jax.runtime import over_devices

# A row of each modality (or group of samples), and a number.
Rows = Float[Array, 'K c']
Counts = Float[Array, 'K 1']

# The kernel's gradient on CPU is taken for so many pixels at a time, at least
# one image's: what is summed over then stays in the cache.
_CPU_PIXELS = 20_000
# With fewer features than this it is taken at once.
_CPU_FEATURES = 32
# Every so many rows and columns tell about where the mean is.
_SOME = 4


def _convolve(x, kernel):
  return lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


@jax.custom_vjp
def convolve(
  x: Features, kernel: Float[Array, 'k k c features']
) -> Float[Array, 'N H W features']:
  """Convolution with zero padding, stride 1; k is odd."""
  return _convolve(x, kernel)


def _kernel_gradient(x, gradient, kernel):
  (found,) = jax.linear_transpose(lambda k: _convolve(x, k), kernel)(gradient)
  return found


def _as_stored(gradient):
  """Transposed at once where cuDNN gave the gradient another layout.

  Otherwise the optimizer's pass does, and so cannot write a parameter and its
  moments in their places: each is copied.
  """
  return with_layout_constraint(gradient, Layout(tuple(range(gradient.ndim))))


def _kernel_gradient_exchanged(x, gradient, kernel):
  """Image and gradient change places: the image slides over the gradient."""
  reach = kernel.shape[0] // 2
  found = lax.conv_general_dilated(
    gradient,
    x,
    (1, 1),
    ((reach, reach), (reach, reach)),
    # Channels are the batch, samples are summed over: [k, k, features, c].
    dimension_numbers=lax.ConvDimensionNumbers(
      (3, 0, 1, 2), (3, 0, 1, 2), (2, 3, 0, 1)
    ),
  )
  return found[::-1, ::-1].swapaxes(2, 3)


def _kernel_gradient_in_parts(x, gradient, kernel):
  """The sum over parts of the batch.

  For a whole batch XLA moves the samples innermost and takes up to 2.5 times
  longer. A loop would be compiled without the fast convolution: unrolled.
  """
  images = len(x)
  most = max(1, _CPU_PIXELS // (x.shape[1] * x.shape[2]))
  each = max(n for n in range(1, min(most, images) + 1) if images % n == 0)
  parts = [
    _kernel_gradient(x[i : i + each], gradient[i : i + each], kernel)
    for i in range(0, images, each)
  ]
  return sum(parts[1:], parts[0])


def _cpu_form(kernel):
  """The fastest of the three on CPU, as measured: see docs/speed.md."""
  channels, features = kernel.shape[2:]
  if features >= _CPU_FEATURES:
    return _kernel_gradient_in_parts
  return (
    _kernel_gradient_exchanged if channels >= features else _kernel_gradient
  )


def _convolve_backward(kept, gradient):
  x, kernel = kept
  (dx,) = jax.linear_transpose(lambda y: _convolve(y, kernel), x)(gradient)
  shape = jax.ShapeDtypeStruct(kernel.shape, kernel.dtype)
  dkernel = lax.platform_dependent(
    x,
    gradient,
    cpu=lambda x, g: _cpu_form(shape)(x, g, shape),
    cuda=lambda x, g: _as_stored(_kernel_gradient(x, g, shape)),
    default=lambda x, g: _kernel_gradient(x, g, shape),
  )
  return dx, dkernel


convolve.defvjp(
  lambda x, kernel: (_convolve(x, kernel), (x, kernel)), _convolve_backward
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _double(x: jax.Array, axis: int) -> jax.Array:
  """Bilinear x2 along an axis, half-pixel centres: a 2-tap stencil."""
  # An export leaves the size open: the places are computed where it is known.
  size = x.shape[axis]
  pixel = jnp.arange(2 * size)
  near = pixel // 2
  # An even pixel lies before its source's centre, an odd one behind it.
  other = jnp.clip(near + 2 * (pixel % 2) - 1, 0, size - 1)
  take = lambda places: jnp.take(x, places, axis, mode='clip')
  return 0.75 * take(near) + 0.25 * take(other)


def _double_transposed(axis: int, _, gradient: jax.Array) -> tuple[jax.Array]:
  """The stencil's transpose, as a stencil: two pixels and their neighbours."""
  shape = list(gradient.shape)
  shape[axis : axis + 1] = [shape[axis] // 2, 2]
  pairs = gradient.reshape(shape)
  even, odd = (jax.lax.index_in_dim(pairs, i, axis + 1, False) for i in (0, 1))
  size = even.shape[axis]
  cut = lambda x, a, b: jax.lax.slice_in_dim(x, a, b, axis=axis)
  # A pixel is before the next one, after the last one, and beyond its edge.
  after = jnp.concatenate([cut(even, 1, size), cut(odd, size - 1, size)], axis)
  before = jnp.concatenate([cut(even, 0, 1), cut(odd, 0, size - 1)], axis)
  return (0.75 * (even + odd) + 0.25 * (before + after),)


_double.defvjp(lambda x, axis: (_double(x, axis), None), _double_transposed)


def upsample(x: Features) -> Float[Array, 'N 2*H 2*W c']:
  """Bilinear, half-pixel centres."""
  return _double(_double(x, 1), 2)


def _mean_of_pixels(
  values: Float[Array, 'N H W c'],
) -> Float[Array, 'N c']:
  """The mean of each image's pixels.

  A CPU adds them up one by one, on some processors at every level of
  optimization: rows first, two short sums round less than a long one. A GPU's
  sum is a tree, and takes rows first with more kernels.
  """
  return lax.platform_dependent(
    values,
    cpu=lambda x: jnp.mean(jnp.mean(x, 1), 1),
    default=lambda x: jnp.mean(x, (1, 2)),
  )


class Groups(NamedTuple):
  """How samples belong to modalities; see `ModulationBank`.

  Several passes in one batch are so many times the modalities.
  """

  num_modalities: int
  epsilon: float
  grouped: bool
  slope: float | None

  def sum(self, values: Float[Array, 'N *pixels c'], modality: Ids) -> Rows:
    """Sums over the samples of each modality."""
    count = self.num_modalities
    if count == 1 or self.grouped:
      return jnp.sum(values.reshape(count, -1, values.shape[-1]), 1)
    values = jnp.sum(values, range(1, values.ndim - 1))
    # Selected before the sum: 0 * NaN of a one-hot product would spread.
    mine = modality[None] == jnp.arange(count)[:, None]  # [K, N]
    return jnp.sum(jnp.where(mine[..., None], values[None], 0.0), 1)

  def pick(self, rows: Rows, modality: Ids) -> Float[Array, '#N c']:
    """Each sample's row; the only one if K is 1."""
    if self.num_modalities == 1:
      return rows
    if self.grouped:
      return jnp.repeat(rows, modality.shape[0] // self.num_modalities, 0)
    return rows[modality]

  def samples(self, modality: Ids) -> Counts:
    """Samples of each modality over the devices."""
    shape = (self.num_modalities, 1)
    if self.num_modalities == 1 or self.grouped:
      # Known beforehand: a number, not an array, has nothing to send.
      each = over_devices.total(modality.shape[0] // self.num_modalities)
      return jnp.full(shape, each, jnp.float32)
    ones = jnp.ones((modality.shape[0], 1))
    return over_devices.total(self.sum(ones, modality))

  def modulate(
    self, x: Features, factor: Rows, shift: Rows, modality: Ids
  ) -> Features:
    """`x * factor + shift` by rows, then the leaky ReLU."""
    factor = self.pick(factor, modality)[:, None, None]
    shift = self.pick(shift, modality)[:, None, None]
    y = x * factor + shift
    if self.slope is not None:
      y = nn.leaky_relu(y, self.slope)
    return y.astype(x.dtype)

  def statistics(self, x: Features, modality: Ids) -> tuple[Rows, Rows, Counts]:
    """Mean, variance, and samples of each modality.

    One pass over x: it is shifted by about its mean, that of a 16th of its
    pixels. This is at most 4 standard deviations off, whatever they are, so
    that E[d^2] - E[d]^2 loses no more than a factor of 17 in precision. Then
    the mean of per-sample variances plus the variance of per-sample means.
    """
    some = x[:, ::_SOME, ::_SOME].astype(jnp.float32)
    shift = jnp.mean(some, (1, 2))  # [N, c]
    off = x.astype(jnp.float32) - shift[:, None, None]
    away = _mean_of_pixels(off)
    means = shift + away
    variances = _mean_of_pixels(jnp.square(off)) - jnp.square(away)
    variances = jnp.maximum(variances, 0.0)
    count = self.samples(modality)
    divisor = jnp.maximum(count, 1.0)
    mean = over_devices.total(self.sum(means, modality)) / divisor
    deviation = means - self.pick(mean, modality)
    spread = self.sum(variances + jnp.square(deviation), modality)
    return mean, over_devices.total(spread) / divisor, count


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def normalize(
  groups: Groups, x: Features, scale: Rows, bias: Rows, modality: Ids
) -> tuple[Features, Rows, Rows, Counts]:
  """Modulates by the batch's statistics; returns them too."""
  return _normalize_forward(groups, x, scale, bias, modality)[0]


def _normalize_forward(groups, x, scale, bias, modality):
  mean, var, count = groups.statistics(x, modality)
  factor = scale * lax.rsqrt(var + groups.epsilon)
  shift = bias - mean * factor
  out = groups.modulate(x, factor, shift, modality)
  kept = (x, scale, bias, modality, mean, var, count)
  return (out, mean, var, count), kept


def _normalize_backward(groups, kept, gradients):
  """Gradients of input, scale and bias.

  With y = scale * z + bias, z = (x - mean) / s and n values per channel:
  dx = scale / s * (dy - sum(dy) / n - z * sum(dy * z) / n). The statistics
  themselves are only looked at: no gradient comes from them.
  """
  x, scale, bias, modality, mean, var, count = kept
  rows = lambda values: groups.pick(values, modality)[:, None, None]
  inverse = lax.rsqrt(var + groups.epsilon)
  factor = scale * inverse
  centred = x.astype(jnp.float32) - rows(mean)
  dy = gradients[0].astype(jnp.float32)
  if groups.slope is not None:
    y = x * rows(factor) + rows(bias - mean * factor)
    dy = jnp.where(y >= 0, dy, groups.slope * dy)
  # Rows first: a short sum, so that a GPU takes both in one pass over x.
  dbias = groups.sum(jnp.sum(dy, 1), modality)
  along = groups.sum(jnp.sum(dy * centred, 1), modality)
  dscale = along * inverse
  pixels = jnp.maximum(count, 1.0) * (x.shape[1] * x.shape[2])
  both = over_devices.total((dbias, along))
  constant, slope = both[0] / pixels, both[1] * jnp.square(inverse) / pixels
  dx = rows(factor) * (dy - rows(constant) - centred * rows(slope))
  return dx.astype(x.dtype), dscale, dbias, None


normalize.defvjp(_normalize_forward, _normalize_backward)
