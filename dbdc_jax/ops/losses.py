"""Losses and the reductions they share, one value per modality.

Everything here takes arrays whose leading axis is the modality (then the
samples of each on this device) and returns a value of each. Sums and counts are
added up over the devices *before* dividing (`over_devices.total`): a mean of
local means would be wrong wherever classes are spread unevenly.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer
import numpy as np

from dbdc_jax.ops.shapes import Ids, PerModality, Present
from dbdc_jax.runtime import over_devices

# Of each pixel, by modality.
Logits = Float[Array, 'K *pixels C']
Labels = Integer[Array, ' K *pixels']
Sure = Bool[Array, ' K *pixels']
# The same, for all classes or for each.
Counted = Bool[Array, ' K *pixels #C']

DICE_EPSILON = 1e-5
# A logit that no softmax gives any weight, and that stays finite in float32.
NEGATIVE = -1e9


def masked_mean(
  values: Float[Array, 'K ...'], mask: Bool[Array, '...']
) -> PerModality:
  """Mean where `mask`, per modality and over devices.

  Args:
    values: of any shape.
    mask: broadcastable to `values`.

  Returns:
    0 where the mask keeps nothing.
  """
  mask = jnp.broadcast_to(mask, values.shape)
  axes = tuple(range(1, values.ndim))
  numerator = over_devices.total(jnp.sum(jnp.where(mask, values, 0.0), axes))
  count = over_devices.total(jnp.sum(mask.astype(jnp.float32), axes))
  return numerator / jnp.maximum(count, 1.0)


def mean(values: Float[Array, 'K ...']) -> PerModality:
  """Mean per modality and over devices."""
  return masked_mean(values, jnp.ones((), bool))


def cross_entropy(
  logits: Logits, labels: Labels, sure: Sure | None = None
) -> PerModality:
  """Mean cross entropy per modality, in nats per pixel.

  Args:
    logits: of each pixel.
    labels: class indices.
    sure: pixels that count; the mean is over all, so that few weigh little.
  """
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
  chosen = one_hot(labels, logits.shape[-1])
  # A sum over the one-hot, not a gather: no scatter in the gradient.
  if sure is not None:
    chosen &= sure[..., None]
  return mean(-jnp.sum(jnp.where(chosen, log_p, 0.0), -1))


def only_labelable(
  logits: Float[Array, 'N *pixels C'],
  labelable: Bool[np.ndarray, 'K C'],
  modality: Ids,
) -> Float[Array, 'N *pixels C']:
  """Takes classes that a modality's labels cannot contain out of the softmax.

  Partial labels: such a class is background in the labels wherever it is in the
  image. Without its logit it is neither learnt as background nor predicted.

  Args:
    logits: of each sample's pixels.
    labelable: see `Task.labelable`; all True leaves the logits alone.
    modality: of each sample.
  """
  if labelable.all():
    return logits
  rows = jnp.asarray(labelable)[modality]  # [N, C]
  shape = (rows.shape[0], *(1,) * (logits.ndim - 2), rows.shape[1])
  return jnp.where(rows.reshape(shape), logits, NEGATIVE)


def one_hot(
  labels: Integer[Array, '*pixels'], num_classes: int
) -> Bool[Array, '*pixels C']:
  """Which class each label is."""
  return labels[..., None] == jnp.arange(num_classes, dtype=labels.dtype)


def dice(
  logits: Logits,
  labels: Labels,
  present: Present,
  *,
  linear: bool = False,
  counted: Counted | None = None,
) -> PerModality:
  """Soft Dice loss per modality, squared denominator, background included.

  Per class over the whole batch, as the paper's loss_dice is read:
  `1 - (2 sum pg + e) / (sum p^2 + sum g^2 + e)` with e = 1e-5, then the mean
  over the classes that the modality's labels contain.

  Args:
    logits: of each pixel.
    labels: class indices.
    present: classes that the modality's labels contain.
    linear: p and g not squared in the denominator.
    counted: pixels that count, of all classes or of each.

  Returns:
    In [0, 1].
  """
  p = jax.nn.softmax(logits.astype(jnp.float32))
  g = one_hot(labels, logits.shape[-1])
  if counted is not None:
    p, g = jnp.where(counted, p, 0.0), g & counted
  axes = tuple(range(1, logits.ndim - 1))
  sums = jnp.stack(
    [
      jnp.sum(jnp.where(g, p, 0.0), axes),
      jnp.sum(p if linear else p * p, axes),
      jnp.sum(g.astype(jnp.float32), axes),
    ]
  )
  both, square, count = over_devices.total(sums)  # [K, C] each
  loss = 1 - (2 * both + DICE_EPSILON) / (square + count + DICE_EPSILON)
  kept = present.astype(jnp.float32)
  return jnp.sum(jnp.where(present, loss, 0.0), -1) / jnp.maximum(
    kept.sum(-1), 1.0
  )


def symmetric_divergence(
  logits: Float[Array, '*pixels C'], others: Float[Array, '*pixels C']
) -> Float[Array, '*pixels C']:
  """What each class adds to KL(p || q) + KL(q || p) of two softmaxes.

  Args:
    logits: of p.
    others: of q.

  Returns:
    Nats, not negative.
  """
  log_p, log_q = jax.nn.log_softmax(logits), jax.nn.log_softmax(others)
  return (jnp.exp(log_p) - jnp.exp(log_q)) * (log_p - log_q)


def dice_counts(
  logits: Logits,
  labels: Labels,
  counted: Counted | None = None,
) -> Float[Array, '2 K C']:
  """Voxel counts of the hard (argmax) Dice, to be pooled over an epoch.

  Args:
    logits: of each pixel.
    labels: class indices.
    counted: pixels that count, of each class.

  Returns:
    Intersections, and sums of both sizes.
  """
  num_classes = logits.shape[-1]
  p = one_hot(jnp.argmax(logits, -1).astype(labels.dtype), num_classes)
  g = one_hot(labels, num_classes)
  if counted is not None:
    p, g = p & counted, g & counted
  axes = tuple(range(1, logits.ndim - 1))
  both = jnp.sum(p & g, axes)
  sizes = jnp.sum(p, axes) + jnp.sum(g, axes)
  return over_devices.total(jnp.stack([both, sizes]).astype(jnp.float32))


def pooled_dice(counts: Float[Array, '2 K C'], present: Present) -> PerModality:
  """Mean foreground Dice per modality from pooled `dice_counts`.

  Args:
    counts: of an epoch.
    present: classes that the modality's labels contain.

  Returns:
    In [0, 1]: the training DSC that MAW watches (lambda of eq 15-16).
  """
  both, sizes = counts
  keep = present & (jnp.arange(both.shape[-1]) > 0)
  score = jnp.where(keep, 2 * both / jnp.maximum(sizes, 1.0), 0.0)
  return score.sum(-1) / jnp.maximum(keep.sum(-1), 1)
