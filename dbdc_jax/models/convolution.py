"""3 x 3 convolutions of several inputs."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float
import numpy as np

from dbdc_jax.models.gradients import convolve

# Kaiming normal: fan-in, gain sqrt(2).
KERNEL_INIT = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')


class JoinedConv(nn.Module):
  """3 x 3 convolution of several inputs, as if they were concatenated.

  A convolution is linear: each input meets its share of the kernel and the
  results are added, so that no concatenation is written and none is split
  again in the gradient.

  Attributes:
    features: output channels.
    dtype: of the computation; parameters are float32.
  """

  features: int
  dtype: DTypeLike

  @nn.compact
  def __call__(
    self, *inputs: Float[Array, 'N H W _']
  ) -> tuple[Float[Array, 'N H W features'], Float[Array, ' features']]:
    """Convolves; the bias is not added but returned."""
    channels = [x.shape[-1] for x in inputs]
    shape = (3, 3, sum(channels), self.features)
    kernel = self.param('kernel', KERNEL_INIT, shape).astype(self.dtype)
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    shares = jnp.split(kernel, np.cumsum(channels[:-1]), 2)
    parts = [
      convolve(x.astype(self.dtype), share)
      for x, share in zip(inputs, shares, strict=True)
    ]
    # An export's weights are NumPy's.
    return sum(parts[1:], parts[0]), jnp.asarray(bias)
