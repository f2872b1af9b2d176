"""Layers that several networks beside the U-Net are made of."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dbdc_jax.models.convolution import KERNEL_INIT, JoinedConv
from dbdc_jax.models.gradients import upsample
from dbdc_jax.models.modulation import ModulationBank


def check_sides(images: Float[Array, 'N H W 1'], poolings: int) -> None:
  """Checks that images can be halved so many times.

  Raises:
    ValueError: they cannot.
  """
  (height, width), unit = images.shape[1:3], 2**poolings
  if height % unit or width % unit:
    raise ValueError(
      f'images of {height} x {width} pixels: both sides must divide by {unit}'
      f' ({poolings} poolings); choose another --config.augment.patch_size'
    )


class Upsample(nn.Module):
  """Bilinear x2; a module so that it can be counted."""

  def __call__(self, x: Float[Array, 'N H W c']) -> Float[Array, 'N 2*H 2*W c']:
    """See `gradients.upsample`."""
    return upsample(x)


class Doubling(nn.Module):
  """2 x 2 transposed convolution of stride 2: one product for each pixel.

  Attributes:
    features: output channels.
    dtype: of the computation; parameters are float32.
  """

  features: int
  dtype: DTypeLike

  @nn.compact
  def __call__(
    self, x: Float[Array, 'N H W c']
  ) -> Float[Array, 'N 2*H 2*W {self.features}']:
    """Doubles both sides."""
    n, h, w, c = x.shape
    kernel = self.param('kernel', KERNEL_INIT, (2, 2, c, self.features))
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    kernel, bias = kernel.astype(self.dtype), bias.astype(self.dtype)
    x = jnp.einsum('nhwc,abcf->nhawbf', x.astype(self.dtype), kernel)
    return x.reshape(n, 2 * h, 2 * w, self.features) + bias


class Layer(nn.Module):
  """Convolution (3 x 3 or 1 x 1), batch norm, ReLU.

  Attributes:
    features: output channels.
    dtype: of activations.
    point: 1 x 1 instead of 3 x 3.
    relu: whether a ReLU follows.
  """

  features: int
  dtype: DTypeLike
  point: bool = False
  relu: bool = True

  @nn.compact
  def __call__(
    self, *inputs: Float[Array, 'N H W _'], train: bool
  ) -> Float[Array, 'N H W {self.features}']:
    """Convolves the inputs as if they were concatenated."""
    bias = None
    if self.point:
      x = nn.Dense(
        self.features, dtype=self.dtype, kernel_init=KERNEL_INIT, name='conv'
      )(*inputs)
    else:
      x, bias = JoinedConv(self.features, self.dtype, name='conv')(*inputs)
    return ModulationBank(
      1, slope=0.0 if self.relu else None, name='modulation'
    )(x, jnp.zeros(x.shape[0], jnp.int32), train, bias)
