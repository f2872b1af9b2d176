"""Two networks teach each other what they are sure of.

With pseudo-labels that are balanced between classes, as in class-balanced
self-training (Zou, Yu, Kumar, Wang 2018): of each class the most confident
share teaches, so that a rare class teaches too.
"""

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dbdc_jax.methods.common import supervision
from dbdc_jax.methods.common.networks import Step
from dbdc_jax.ops import losses
from dbdc_jax.ops.shapes import Labels, Logits, PerModality
from dbdc_jax.runtime import over_devices

# Share of the pixels of a class that teach, at the start and at the end.
_SHARES = (0.2, 0.8)
# Confidence as log odds, told apart in so many steps between these limits.
_STEPS, _LOW, _HIGH = 512, -4.0, 17.0


def symmetric_divergence(
  z: Float[Array, '*pixels C'], w: Float[Array, '*pixels C']
) -> Float[Array, '*pixels']:
  """(KL(z || w) + KL(w || z)) / 2 of two logits, per pixel."""
  return jnp.sum(losses.symmetric_divergence(z, w), -1) / 2


def confident(
  logits: Logits, labels: Labels, share: Float[Array, ''] | float
) -> Bool[Array, 'K b H W']:
  """The most confident share of the pixels of each pseudo-labelled class.

  Confidence is the log odds of the pseudo-label, told apart in 512 steps, so
  that the pixels of all devices are ranked by counting them: at least `share`
  of a class is kept, and of its least confident step either all or none.

  Args:
    logits: of each pixel.
    labels: pseudo-labels made of them.
    share: in (0, 1].
  """
  classes = logits.shape[-1]
  chosen = losses.one_hot(labels, classes)
  log_p = jax.nn.log_softmax(lax.stop_gradient(logits))
  log_p = jnp.sum(jnp.where(chosen, log_p, 0.0), -1)
  odds = log_p - jnp.log(jnp.maximum(-jnp.expm1(log_p), 1e-30))
  place = (jnp.clip(odds, _LOW, _HIGH) - _LOW) / (_HIGH - _LOW)
  step = (place * (_STEPS - 1)).astype(jnp.int32)

  def count(labels, step):
    where = labels.ravel() * _STEPS + step.ravel()
    return jnp.zeros(classes * _STEPS).at[where].add(1.0)

  counts = over_devices.total(jax.vmap(count)(labels, step))
  counts = counts.reshape(-1, classes, _STEPS)
  # Pixels of this step and above; the highest step at which they are enough.
  above = jnp.cumsum(counts[..., ::-1], -1)[..., ::-1]
  enough = above >= share * above[..., :1]
  lowest = _STEPS - 1 - jnp.argmax(enough[..., ::-1], -1)  # [K, C]
  limits = jnp.where(chosen, lowest[:, None, None, None], 0).sum(-1)
  return step >= limits


def terms(
  step: Step, own: Logits, other: Logits, possible: supervision.Possible
) -> dict[str, PerModality]:
  """Each segmenter learns from what the other is sure of.

  Args:
    step: what the method was given.
    own: logits of unlabelled slices.
    other: of their translations.
    possible: see `passes.Views`.

  Returns:
    Terms by the slices' modality.
  """
  signals = step.signals
  first, last = _SHARES
  share = first + (last - first) * signals.progress
  found = {}
  for name, teacher, student in (
    ('teach_other', own, other),
    ('teach_own', other, own),
  ):
    labels = supervision.pseudo_labels(teacher, signals.present, possible)
    kept = confident(teacher, labels, share)
    chosen = losses.one_hot(labels, teacher.shape[-1])
    log_p = jnp.where(chosen, jax.nn.log_softmax(student), 0.0).sum(-1)
    found[name] = losses.masked_mean(-log_p, kept)
  return found
