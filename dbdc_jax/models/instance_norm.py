"""Instance normalisation: each sample by its own statistics."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class InstanceNorm(nn.Module):
  """Mean 0 and variance 1 of each sample's channel, without parameters.

  No sample meets another one, so the number of devices does not matter.

  Attributes:
    epsilon: added to the variance.
  """

  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[N, ..., c]` to the same shape and dtype; statistics are float32."""
    axes = tuple(range(1, x.ndim - 1))
    wide = x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, axes, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axes, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + self.epsilon)).astype(x.dtype)
