"""Instance normalisation without parameters."""

import flax.linen as nn
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float


class InstanceNorm(nn.Module):
  """Normalises each channel of each sample by its own mean and variance.

  Attributes:
    epsilon: added to the variance.
  """

  epsilon: float = 1e-5

  def __call__(
    self, x: Float[Array, 'N *axes channels']
  ) -> Float[Array, 'N *axes channels']:
    """Normalises, in the same dtype.

    Statistics are float32 and two-pass. A channel of one value becomes 0.
    """
    wide = x.astype(jnp.float32)
    axes = tuple(range(1, x.ndim - 1))
    centred = wide - jnp.mean(wide, axes, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axes, keepdims=True)
    return (centred * lax.rsqrt(variance + self.epsilon)).astype(x.dtype)
