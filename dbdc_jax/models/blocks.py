"""Layers that several networks beside the U-Net are made of."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dbdc_jax.models.convolution import KERNEL_INIT, JoinedConv
from dbdc_jax.models.gradients import upsample
from dbdc_jax.models.modulation import ModulationBank


class Upsample(nn.Module):
  """Bilinear x2; a module so that it can be counted."""

  def __call__(self, x: jax.Array) -> jax.Array:
    """`[N, H, W, c]` to `[N, 2H, 2W, c]`."""
    return upsample(x)


class Doubling(nn.Module):
  """2 x 2 transposed convolution of stride 2: one product for each pixel.

  Attributes:
    features: output channels.
    dtype: of the computation; parameters are float32.
  """

  features: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[N, H, W, c]` to `[N, 2H, 2W, features]`."""
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
    axis_name: the device axis of batch statistics, or None.
    dtype: of activations.
    point: 1 x 1 instead of 3 x 3.
    relu: whether a ReLU follows.
  """

  features: int
  axis_name: str | None
  dtype: jnp.dtype
  point: bool = False
  relu: bool = True

  @nn.compact
  def __call__(self, *inputs: jax.Array, train: bool) -> jax.Array:
    """`[N, H, W, c_i]`, as if concatenated, to `[N, H, W, features]`."""
    bias = None
    if self.point:
      dense = nn.Dense(
        self.features, dtype=self.dtype, kernel_init=KERNEL_INIT, name='conv'
      )
      (x,) = inputs
      x = dense(x)
    else:
      x, bias = JoinedConv(self.features, self.dtype, name='conv')(*inputs)
    return ModulationBank(
      1,
      axis_name=self.axis_name,
      slope=0.0 if self.relu else None,
      name='modulation',
    )(x, jnp.zeros(x.shape[0], jnp.int32), train, bias)
