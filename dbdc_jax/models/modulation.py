"""MLMB, the modality-level modulation bank (equations 1 to 3).

Batch normalisation whose statistics and affine parameters belong to a
modality. With one modality it *is* batch normalisation, and the baselines use
it as such.

Between convolutions the network waits for memory: every pass over the
activations that can be saved is. The bias of the convolution before is never
added (`offset`), and the leaky ReLU behind happens in the same pass (`slope`).
"""

from typing import NamedTuple

import flax.linen as nn
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dbdc_jax.models import gradients
from dbdc_jax.ops.shapes import Ids

# Upper limit of alpha (eq 2, 3).
MOMENTUM = 0.99


class Moments(NamedTuple):
  """What a training pass finds of each group of samples.

  Attributes:
    mean: of the samples and pixels.
    var: of the same.
    seen: samples over all devices.
  """

  mean: Float[Array, 'G c']
  var: Float[Array, 'G c']
  seen: Float[Array, ' G']


def running_momentum(
  count: Float[Array, ' R'], momentum: float
) -> Float[Array, ' R']:
  """Alpha = min(momentum, (1 + t) / (10 + t)) after t updates of a row.

  A flat 0.99 would leave evaluation some 300 steps behind the network.
  """
  return jnp.minimum(momentum, (1.0 + count) / (10.0 + count))


def follow(
  running: dict[str, Array], found: Moments, momentum: float = MOMENTUM
) -> dict[str, Array]:
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
    mean, var = (
      jnp.where(there, alpha * old + (1 - alpha) * new[now], old)
      for old, new in ((mean, found.mean), (var, found.var))
    )
    updates += there[:, 0]
  # All that reads the old count comes before what may write over it.
  mean, var, count = lax.optimization_barrier((mean, var, count))
  return {'mean': mean, 'var': var, 'count': count + updates}


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
  grouped: bool = False
  passes: int = 1
  slope: float | None = None
  shared: bool = False

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'N H W channels'],
    modality: Ids,
    train: bool,
    offset: Float[Array, ' channels'] | None = None,
  ) -> Float[Array, 'N H W channels']:
    """Normalises.

    Args:
      x: any float dtype; statistics are float32.
      modality: in [0, K).
      train: use the batch's statistics.
      offset: belongs to `x` and is not added yet. The batch's
        statistics take it out again, so it only moves the running mean, and
        the gradient that it has no part in is exactly 0.

    Returns:
      The same dtype as `x`.
    """
    rows = 1 if self.shared else self.num_modalities
    shape = (rows, x.shape[-1])
    scale = self.param('scale', nn.initializers.ones, shape)
    bias = self.param('bias', nn.initializers.zeros, shape)
    mean = self.variable('modulation', 'mean', jnp.zeros, shape)
    var = self.variable('modulation', 'var', jnp.ones, shape)
    count = self.variable('modulation', 'count', jnp.zeros, shape[:1])
    added = 0.0 if offset is None else offset
    groups = gradients.Groups(
      self.num_modalities * self.passes, self.epsilon, self.grouped, self.slope
    )
    if not train:
      factor = scale * lax.rsqrt(var.value + self.epsilon)
      shift = bias + (added - mean.value) * factor
      one_row = groups._replace(num_modalities=rows)
      return one_row.modulate(x, factor, shift, modality)
    repeats = (groups.num_modalities // rows, 1)
    affine = (jnp.tile(row, repeats) for row in (scale, bias))
    out, *found = gradients.normalize(groups, x, *affine, modality)
    batch_mean, batch_var, seen = lax.stop_gradient(found)
    moments = Moments(
      batch_mean + lax.stop_gradient(added), batch_var, seen[:, 0]
    )
    if self.is_mutable_collection('moments'):
      self.put_variable('moments', 'found', moments)
    if self.is_mutable_collection('modulation') and not self.is_initializing():
      running = {'mean': mean.value, 'var': var.value, 'count': count.value}
      running = follow(running, moments, self.momentum)
      mean.value, var.value = running['mean'], running['var']
      count.value = running['count']
    return out
