"""MLMB, the modality-level modulation bank (equations 1 to 3).

Batch normalisation whose statistics and affine parameters belong to a
modality. With one modality it *is* batch normalisation, and the baselines use
it as such.

Between convolutions the network waits for memory: every pass over the
activations that can be saved is. The bias of the convolution before is never
added (`offset`), the leaky ReLU behind happens in the same pass (`slope`), and
the gradient is written out: it needs the input and the statistics, no other
array of the activations' size.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

# Upper limit of alpha (eq 2, 3).
MOMENTUM = 0.99
# Every so many rows and columns tell about where the mean is.
_SOME = 4


class Moments(NamedTuple):
  """What a training pass finds of each group of samples.

  Attributes:
    mean: `[G, c]` float32.
    var: `[G, c]` float32.
    seen: `[G]` samples over all devices.
  """

  mean: jax.Array
  var: jax.Array
  seen: jax.Array


def running_momentum(count: jax.Array, momentum: float) -> jax.Array:
  """Alpha = min(momentum, (1 + t) / (10 + t)) after t updates of a row.

  A flat 0.99 would leave evaluation some 300 steps behind the network.
  """
  return jnp.minimum(momentum, (1.0 + count) / (10.0 + count))


def follow(
  running: dict[str, jax.Array], found: Moments, momentum: float = MOMENTUM
) -> dict[str, jax.Array]:
  """Moves running values towards what was found (eq 2, 3).

    running <- alpha * running + (1 - alpha) * batch

  Equations 2 and 3 as printed lack the factor (1 - alpha).

  Args:
    running: `mean` and `var` `[R, c]`, `count` `[R]`.
    found: of G groups, a multiple of R: rows in order, all R at once; so one
      row for all modalities is moved by each of them in its turn.
    momentum: upper limit of alpha.

  Returns:
    The new values; what was not seen keeps its own.
  """
  mean, var, count = running['mean'], running['var'], running['count']
  rows, updates = count.shape[0], jnp.zeros_like(count)
  for start in range(0, found.seen.shape[0], rows):
    now = slice(start, start + rows)
    there = found.seen[now, None] > 0
    alpha = running_momentum(count + updates, momentum)[:, None]
    moved = alpha * mean + (1 - alpha) * found.mean[now]
    mean = jnp.where(there, moved, mean)
    moved = alpha * var + (1 - alpha) * found.var[now]
    var = jnp.where(there, moved, var)
    updates += there[:, 0]
  # All that reads the old count comes before what may write over it.
  mean, var, count = lax.optimization_barrier((mean, var, count))
  return {'mean': mean, 'var': var, 'count': count + updates}


class _Groups(NamedTuple):
  """How samples belong to modalities; see `ModulationBank`.

  Several passes in one batch are so many times the modalities.
  """

  num_modalities: int
  epsilon: float
  axis_name: str | None
  grouped: bool
  slope: float | None

  def sum(self, values: jax.Array, modality: jax.Array) -> jax.Array:
    """Sums `[N, ..., c]` over the samples of each modality: `[K, c]`."""
    count = self.num_modalities
    if count == 1 or self.grouped:
      return jnp.sum(values.reshape(count, -1, values.shape[-1]), 1)
    values = jnp.sum(values, range(1, values.ndim - 1))
    # Selected before the sum: 0 * NaN of a one-hot product would spread.
    mine = modality[None] == jnp.arange(count)[:, None]  # [K, N]
    return jnp.sum(jnp.where(mine[..., None], values[None], 0.0), 1)

  def pick(self, rows: jax.Array, modality: jax.Array) -> jax.Array:
    """`[K, c]` to each sample's row, `[N, c]` (or `[1, c]` if K is 1)."""
    if self.num_modalities == 1:
      return rows
    if self.grouped:
      return jnp.repeat(rows, modality.shape[0] // self.num_modalities, 0)
    return rows[modality]

  def total(self, x: Any) -> Any:
    """Adds up over the devices."""
    return x if self.axis_name is None else lax.psum(x, self.axis_name)

  def count(self, modality: jax.Array) -> jax.Array:
    """Samples of each modality over the devices: `[K, 1]` float32."""
    shape = (self.num_modalities, 1)
    if self.num_modalities == 1 or self.grouped:
      # Known beforehand: a number, not an array, has nothing to send.
      each = self.total(modality.shape[0] // self.num_modalities)
      return jnp.full(shape, each, jnp.float32)
    ones = jnp.ones((modality.shape[0], 1))
    return self.total(self.sum(ones, modality))

  def modulate(self, x, factor, shift, modality):
    """`x * factor + shift` with rows `[K, c]`, then the leaky ReLU."""
    factor = self.pick(factor, modality)[:, None, None]
    shift = self.pick(shift, modality)[:, None, None]
    y = x * factor + shift
    if self.slope is not None:
      y = nn.leaky_relu(y, self.slope)
    return y.astype(x.dtype)

  def statistics(self, x, modality):
    """Mean and variance `[K, c]`, and samples of each modality `[K, 1]`.

    One pass over x: it is shifted by about its mean, that of a 16th of its
    pixels. This is at most 4 standard deviations off, whatever they are, so
    that E[d^2] - E[d]^2 loses no more than a factor of 17 in precision. Then
    the mean of per-sample variances plus the variance of per-sample means.
    """
    some = x[:, ::_SOME, ::_SOME].astype(jnp.float32)
    shift = jnp.mean(some, (1, 2))  # [N, c]
    off = x.astype(jnp.float32) - shift[:, None, None]
    away = jnp.mean(off, (1, 2))
    means = shift + away
    variances = jnp.mean(jnp.square(off), (1, 2)) - jnp.square(away)
    variances = jnp.maximum(variances, 0.0)
    count = self.count(modality)
    divisor = jnp.maximum(count, 1.0)
    mean = self.total(self.sum(means, modality)) / divisor
    deviation = means - self.pick(mean, modality)
    spread = self.sum(variances + jnp.square(deviation), modality)
    return mean, self.total(spread) / divisor, count


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _normalize(groups: _Groups, x, scale, bias, modality):
  """Modulates by the batch's statistics; returns them too."""
  return _forward(groups, x, scale, bias, modality)[0]


def _forward(groups, x, scale, bias, modality):
  mean, var, count = groups.statistics(x, modality)
  factor = scale * lax.rsqrt(var + groups.epsilon)
  shift = bias - mean * factor
  out = groups.modulate(x, factor, shift, modality)
  kept = (x, scale, bias, modality, mean, var, count)
  return (out, mean, var, count), kept


def _backward(groups, kept, gradients):
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
  both = groups.total((dbias, along))
  constant, slope = both[0] / pixels, both[1] * jnp.square(inverse) / pixels
  dx = rows(factor) * (dy - rows(constant) - centred * rows(slope))
  return dx.astype(x.dtype), dscale, dbias, None


_normalize.defvjp(_forward, _backward)


class ModulationBank(nn.Module):
  """Normalises each sample by its modality's statistics (eq 1).

  In training the statistics are those of the modality's samples in the batch,
  over all devices. They move the running values (collection `modulation`, see
  `follow`) if that collection is mutable; they are handed out (collection
  `moments`, a `Moments`) if that one is. A modality that is absent from a
  batch keeps its values; a NaN in one modality never reaches another.

  Attributes:
    num_modalities: K.
    momentum: upper limit of alpha.
    epsilon: added to the variance.
    axis_name: the device axis that statistics are taken over, or None.
    grouped: the batch is sorted by modality with equal counts, so that
      everything per modality is a reshape instead of a selection.
    passes: the batch is so many grouped ones, one behind the other, each
      normalised by its own statistics.
    slope: of the leaky ReLU that follows, for negative values; None: none
      follows.
    shared: all modalities have one affine pair and one row of running values,
      as when the modalities go through plain batch norm one after another:
      each is still normalised by its own samples in training, and moves the
      running values in its turn. Without a bank, this is what is left.
  """

  num_modalities: int
  momentum: float = MOMENTUM
  epsilon: float = 1e-5
  axis_name: str | None = None
  grouped: bool = False
  passes: int = 1
  slope: float | None = None
  shared: bool = False

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    modality: jax.Array,
    train: bool,
    offset: jax.Array | None = None,
  ) -> jax.Array:
    """Normalises.

    Args:
      x: `[N, H, W, channels]`, any float dtype; statistics are float32.
      modality: `[N]` int32 in [0, K).
      train: use the batch's statistics.
      offset: `[channels]` that belongs to `x` and is not added yet. The batch's
        statistics take it out again, so it only moves the running mean, and
        the gradient that it has no part in is exactly 0.

    Returns:
      The same shape and dtype as `x`.
    """
    rows = 1 if self.shared else self.num_modalities
    shape = (rows, x.shape[-1])
    scale = self.param('scale', nn.initializers.ones, shape)
    bias = self.param('bias', nn.initializers.zeros, shape)
    mean = self.variable('modulation', 'mean', jnp.zeros, shape)
    var = self.variable('modulation', 'var', jnp.ones, shape)
    count = self.variable('modulation', 'count', jnp.zeros, shape[:1])
    offset = 0.0 if offset is None else offset
    groups = _Groups(
      self.num_modalities * self.passes,
      self.epsilon,
      self.axis_name,
      self.grouped,
      self.slope,
    )
    if not train:
      factor = scale * lax.rsqrt(var.value + self.epsilon)
      shift = bias + (offset - mean.value) * factor
      one_row = groups._replace(num_modalities=rows)
      return one_row.modulate(x, factor, shift, modality)
    repeats = (groups.num_modalities // rows, 1)
    affine = (jnp.tile(row, repeats) for row in (scale, bias))
    out, *found = _normalize(groups, x, *affine, modality)
    batch_mean, batch_var, seen = lax.stop_gradient(found)
    moments = Moments(
      batch_mean + lax.stop_gradient(offset), batch_var, seen[:, 0]
    )
    if self.is_mutable_collection('moments'):
      self.put_variable('moments', 'found', moments)
    if self.is_mutable_collection('modulation') and not self.is_initializing():
      running = {'mean': mean.value, 'var': var.value, 'count': count.value}
      running = follow(running, moments, self.momentum)
      mean.value, var.value = running['mean'], running['var']
      count.value = running['count']
    return out
