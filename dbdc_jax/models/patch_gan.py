"""PatchGAN: is each part of an image real or made?

Isola, Zhu, Zhou, Efros, "Image-to-image translation with conditional
adversarial networks" (2017), the form that CycleGAN has: 4 x 4 convolutions
whose outputs each look at 70 x 70 pixels.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dbdc_jax.models.instance_norm import InstanceNorm

# Sides below this leave no output.
MIN_SIZE = 24
_SLOPE = 0.2


class PatchGan(nn.Module):
  """The discriminator.

  Channels are w, 2w, 4w, 8w and 1; the first three convolutions halve the
  image, the inner three are normalised (instance norm, without parameters), and
  each but the last is followed by a leaky ReLU. Weights start as N(0, 0.02).
  With w = 64 and one input channel there are 2,762,689 parameters.

  Attributes:
    width: w.
    dtype: of activations; parameters and outputs are float32.
  """

  width: int = 64
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'N H W c']) -> Float[Array, 'N h w 1']:
    """Images to float32 scores.

    Raises:
      ValueError: images too small to be looked at.
    """
    if min(x.shape[1:3]) < MIN_SIZE:
      raise ValueError(
        f'augment.patch_size: a discriminator cannot look at {x.shape[1]} x'
        f' {x.shape[2]} pixels; choose {MIN_SIZE} or more'
      )

    start = nn.initializers.normal(0.02)
    convolve = lambda x, features, stride: nn.Conv(
      features, (4, 4), stride, padding=1, dtype=self.dtype, kernel_init=start
    )(x)
    x = nn.leaky_relu(convolve(x, self.width, 2), _SLOPE)
    for factor, stride in ((2, 2), (4, 2), (8, 1)):
      x = InstanceNorm()(convolve(x, factor * self.width, stride))
      x = nn.leaky_relu(x, _SLOPE)
    return convolve(x, 1, 1).astype(jnp.float32)
