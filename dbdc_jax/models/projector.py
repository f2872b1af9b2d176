"""The projector: decoder features to unit embeddings (MLPB's input).

The paper concatenates the decoder's three scales at full resolution and
applies 1x1 convolutions. The first of them is linear, and so is bilinear
interpolation, so here it acts on each scale *before* that is upsampled: equal
to rounding, and a quarter of the multiply-accumulates in that layer.
"""

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from dbdc_jax.models.convolution import KERNEL_INIT
from dbdc_jax.models.unet import LEAKY_SLOPE

LAYER_NORM_EPSILON = 1e-5
NORM_EPSILON = 1e-6


def aligned_matrix(size: int, target: int, stride: int = 1) -> np.ndarray:
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


def upsample_to(x: jax.Array, size: tuple[int, int], stride: int) -> jax.Array:
  """Bilinear with aligned corners to every `stride`-th pixel of `size`."""
  rows = aligned_matrix(x.shape[1], size[0], stride).astype(x.dtype)
  columns = aligned_matrix(x.shape[2], size[1], stride).astype(x.dtype)
  x = jnp.einsum('ah,nhwc->nawc', rows, x)
  return jnp.einsum('bw,nawc->nabc', columns, x)


class Projector(nn.Module):
  """Three 1x1 convolutions, LayerNorm per pixel, L2 normalisation.

  Attributes:
    dim: D, length of an embedding.
    dtype: of activations; the embedding is float32.
  """

  dim: int = 64
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, taps: tuple[jax.Array, jax.Array, jax.Array], stride: int = 1
  ) -> jax.Array:
    """Embeds every `stride`-th pixel.

    Args:
      taps: (x4, x5, x6) of the decoder, at 1/4, 1/2 and 1 of the resolution.
      stride: 1 embeds every pixel, as the paper does.

    Returns:
      `[N, H / stride, W / stride, dim]` float32 unit vectors.
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
    x = x6[:, ::stride, ::stride].astype(self.dtype) @ k6
    x += upsample_to(x5.astype(self.dtype) @ k5, size, stride)
    x += upsample_to(x4.astype(self.dtype) @ k4, size, stride)
    x = nn.leaky_relu(x + bias, LEAKY_SLOPE)
    dense = lambda features, name: nn.Dense(
      features, kernel_init=KERNEL_INIT, dtype=self.dtype, name=name
    )
    x = nn.leaky_relu(dense(width, 'dense1')(x), LEAKY_SLOPE)
    x = dense(self.dim, 'dense2')(x).astype(jnp.float32)
    x = nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, name='norm')(x)
    return x * lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + NORM_EPSILON)
