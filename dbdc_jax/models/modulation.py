"""MLMB, the modality-level modulation bank (equations 1 to 3).

Batch normalisation whose statistics and affine parameters belong to a
modality. With one modality it *is* batch normalisation, and the baselines use
it as such.
"""

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp


def running_momentum(count: jax.Array, momentum: float) -> jax.Array:
  """Alpha = min(momentum, (1 + t) / (10 + t)) after t updates of a row.

  A flat 0.99 would leave evaluation some 300 steps behind the network.
  """
  return jnp.minimum(momentum, (1.0 + count) / (10.0 + count))


class ModulationBank(nn.Module):
  """Normalises each sample by its modality's statistics (eq 1).

  In training the statistics are those of the modality's samples in the batch,
  over all devices; running values (collection `modulation`) are updated if
  that collection is mutable:

    running <- alpha * running + (1 - alpha) * batch

  Equations 2 and 3 as printed lack the factor (1 - alpha). A modality that is
  absent from a batch keeps its values; a NaN in one modality never reaches
  another.

  Attributes:
    num_modalities: K.
    momentum: upper limit of alpha.
    epsilon: added to the variance.
    axis_name: the device axis that statistics are taken over, or None.
    grouped: the batch is sorted by modality with equal counts, so that
      everything per modality is a reshape instead of a selection.
  """

  num_modalities: int
  momentum: float = 0.99
  epsilon: float = 1e-5
  axis_name: str | None = None
  grouped: bool = False

  @nn.compact
  def __call__(
    self, x: jax.Array, modality: jax.Array, train: bool
  ) -> jax.Array:
    """Normalises.

    Args:
      x: `[N, H, W, channels]`, any float dtype; statistics are float32.
      modality: `[N]` int32 in [0, K).
      train: use the batch's statistics.

    Returns:
      The same shape and dtype as `x`.
    """
    shape = (self.num_modalities, x.shape[-1])
    scale = self.param('scale', nn.initializers.ones, shape)
    bias = self.param('bias', nn.initializers.zeros, shape)
    mean = self.variable('modulation', 'mean', jnp.zeros, shape)
    var = self.variable('modulation', 'var', jnp.ones, shape)
    count = self.variable('modulation', 'count', jnp.zeros, shape[:1])
    if not train:
      factor = scale * lax.rsqrt(var.value + self.epsilon)
      shift = bias - mean.value * factor
      return self._modulate(x, factor, shift, modality)
    batch_mean, batch_var, present = self._statistics(x, modality)
    if self.is_mutable_collection('modulation') and not self.is_initializing():
      alpha = running_momentum(count.value, self.momentum)[:, None]
      seen = present[:, None]
      for running, batch in ((mean, batch_mean), (var, batch_var)):
        moved = alpha * running.value + (1 - alpha) * batch
        running.value = lax.stop_gradient(jnp.where(seen, moved, running.value))
      count.value = count.value + present
    factor = scale * lax.rsqrt(batch_var + self.epsilon)
    shift = bias - batch_mean * factor
    return self._modulate(x, factor, shift, modality)

  def _modulate(self, x, factor, shift, modality):
    """`x * factor + shift` with `[K, channels]` rows picked per sample."""
    if self.num_modalities == 1:
      factor, shift = factor[0], shift[0]
    elif self.grouped:
      repeats = x.shape[0] // self.num_modalities
      factor = jnp.repeat(factor, repeats, 0)[:, None, None]
      shift = jnp.repeat(shift, repeats, 0)[:, None, None]
    else:
      factor = factor[modality][:, None, None]
      shift = shift[modality][:, None, None]
    return (x * factor + shift).astype(x.dtype)

  def _statistics(self, x, modality):
    """Mean and variance `[K, channels]`, and which modalities are present.

    Two-pass: the mean of per-sample variances plus the variance of per-sample
    means, never E[x^2] - E[x]^2.
    """
    wide = x.astype(jnp.float32)
    means = jnp.mean(wide, (1, 2))  # [N, channels]
    variances = jnp.mean(jnp.square(wide - means[:, None, None]), (1, 2))
    count = self._total(self._sum(jnp.ones_like(means[:, :1]), modality))
    divisor = jnp.maximum(count, 1.0)
    mean = self._total(self._sum(means, modality)) / divisor
    if self.num_modalities == 1:
      deviation = means - mean
    elif self.grouped:
      repeats = x.shape[0] // self.num_modalities
      deviation = means - jnp.repeat(mean, repeats, 0)
    else:
      deviation = means - mean[modality]
    spread = variances + jnp.square(deviation)
    var = self._total(self._sum(spread, modality)) / divisor
    return mean, var, count[:, 0] > 0

  def _sum(self, values, modality):
    """Sums `[N, c]` over the samples of each modality: `[K, c]`."""
    count = self.num_modalities
    if count == 1:
      return jnp.sum(values, 0, keepdims=True)
    if self.grouped:
      return jnp.sum(values.reshape(count, -1, values.shape[-1]), 1)
    # Selected before the sum: 0 * NaN of a one-hot product would spread.
    mine = modality[None] == jnp.arange(count)[:, None]  # [K, N]
    return jnp.sum(jnp.where(mine[..., None], values[None], 0.0), 1)

  def _total(self, x):
    return x if self.axis_name is None else lax.psum(x, self.axis_name)
