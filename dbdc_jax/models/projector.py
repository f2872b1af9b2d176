"""The projector: decoder features to unit embeddings (MLPB's input).

The paper concatenates the decoder's three scales at full resolution and
applies 1x1 convolutions. The first of them is linear, and so is bilinear
interpolation, so here it acts on each scale *before* that is upsampled: equal
to rounding, and a quarter of the multiply-accumulates in that layer.
"""

import functools

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float
import numpy as np

from dbdc_jax.models.convolution import KERNEL_INIT
from dbdc_jax.models.unet import LEAKY_SLOPE

LAYER_NORM_EPSILON = 1e-5
NORM_EPSILON = 1e-6


def aligned_matrix(
  size: int, target: int, stride: int = 1
) -> Float[np.ndarray, 'places pixels']:
  """Bilinear interpolation with aligned corners as a matrix.

  Args:
    size: input pixels.
    target: pixels of the full output.
    stride: keep every n-th output pixel.

  Returns:
    `[ceil(target / stride), size]` float32, rows sum to 1.
  """
  at = np.arange(0, target, stride) * ((size - 1) / max(target - 1, 1))
  low = np.minimum(np.floor(at).astype(int), max(size - 2, 0))
  high = np.minimum(low + 1, size - 1)
  matrix = np.zeros((len(at), size))
  rows = np.arange(len(at))
  matrix[rows, high] += at - low
  matrix[rows, low] += 1 - (at - low)
  return matrix.astype(np.float32)


def _combine(x: jax.Array, matrix: np.ndarray, axis: int) -> jax.Array:
  """`matrix` times `x` along an axis, for a matrix that is nearly empty.

  Each row has a few values that are not 0: so many times a whole slice is
  taken, weighted and added. No product with a dense matrix, no transpose.
  """
  # Of each row, where its values are: those that are not 0 come first.
  places = np.argsort(matrix == 0, 1, kind='stable')
  shape = [1] * x.ndim
  shape[axis] = len(matrix)
  out = jnp.zeros((), x.dtype)
  for i in range(np.count_nonzero(matrix, 1).max()):
    weight = matrix[np.arange(len(matrix)), places[:, i]]
    # A row with fewer values repeats its first one with weight 0.
    place = np.where(weight == 0, places[:, 0], places[:, i])
    taken = jnp.take(x, place, axis, mode='clip')
    out += taken * weight.astype(x.dtype).reshape(shape)
  return out


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def upsample_to(
  x: Float[Array, 'N h w c'], size: tuple[int, int], stride: int
) -> Float[Array, 'N _ _ c']:
  """Bilinear with aligned corners to every `stride`-th pixel of `size`.

  Args:
    x: the smaller images.
    size: (H, W) of the full output.
    stride: keep every n-th output pixel.
  """
  for axis, target in enumerate(size, 1):
    x = _combine(x, aligned_matrix(x.shape[axis], target, stride), axis)
  return x


def _upsample_forward(x, size, stride):
  return upsample_to(x, size, stride), x.shape[1:3]


def _upsample_backward(size, stride, source, gradient):
  """The transposed matrices, which are as empty."""
  for axis, (target, length) in enumerate(zip(size, source, strict=True), 1):
    matrix = aligned_matrix(length, target, stride)
    gradient = _combine(gradient, matrix.T, axis)
  return (gradient,)


upsample_to.defvjp(_upsample_forward, _upsample_backward)


def _per_pixel(
  x: Float[Array, 'N H W c'], kernel: Float[Array, 'c d']
) -> Float[Array, 'N H W d']:
  """As one product of two matrices."""
  out = x.reshape(-1, x.shape[-1]) @ kernel
  return out.reshape(*x.shape[:-1], kernel.shape[-1])


@jax.custom_vjp
def _leaky_relu(x: jax.Array) -> jax.Array:
  """Leaky ReLU whose gradient needs the output, which has the input's sign."""
  return jnp.maximum(x, LEAKY_SLOPE * x)


def _leaky_relu_forward(x):
  y = _leaky_relu(x)
  return y, y


_leaky_relu.defvjp(
  _leaky_relu_forward,
  lambda y, gradient: (jnp.where(y >= 0, gradient, LEAKY_SLOPE * gradient),),
)


class Projector(nn.Module):
  """Three 1x1 convolutions, LayerNorm per pixel, L2 normalisation.

  Attributes:
    dim: D, length of an embedding.
    dtype: of activations; the embedding is float32.
  """

  dim: int = 64
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    taps: tuple[
      Float[Array, 'N _ _ _'], Float[Array, 'N _ _ _'], Float[Array, 'N H W _']
    ],
    stride: int = 1,
  ) -> Float[Array, 'N _ _ {self.dim}']:
    """Embeds every `stride`-th pixel.

    Args:
      taps: (x4, x5, x6) of the decoder, at 1/4, 1/2 and 1 of the resolution.
      stride: 1 embeds every pixel, as the paper does.

    Returns:
      Float32 unit vectors.
    """
    x4, x5, x6 = taps
    size = x6.shape[1:3]
    width = sum(x.shape[-1] for x in taps)
    kernel = self.param('kernel0', KERNEL_INIT, (width, width))
    bias = self.param('bias0', nn.initializers.zeros, (width,))
    kernel, bias = kernel.astype(self.dtype), bias.astype(self.dtype)
    # Rows of the kernel in the order of the paper's concatenation.
    ends = np.cumsum([x6.shape[-1], x5.shape[-1]])
    k6, k5, k4 = jnp.split(kernel, ends)
    x6 = x6[:, ::stride, ::stride]
    x, low, lower = (
      _per_pixel(tap.astype(self.dtype), rows)
      for tap, rows in ((x6, k6), (x5, k5), (x4, k4))
    )
    x += upsample_to(low, size, stride) + upsample_to(lower, size, stride)
    # Before the reshape: behind it, XLA writes the sum down and reads it again.
    x = _leaky_relu(x + bias)
    # One row per pixel: the kernels' gradients are then plain products.
    shape, x = x.shape, x.reshape(-1, width)
    dense = lambda features, name: nn.Dense(
      features, kernel_init=KERNEL_INIT, dtype=self.dtype, name=name
    )
    x = _leaky_relu(dense(width, 'dense1')(x))
    x = dense(self.dim, 'dense2')(x).astype(jnp.float32)
    x = nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, name='norm')(x)
    x *= lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + NORM_EPSILON)
    return x.reshape(*shape[:-1], self.dim)
