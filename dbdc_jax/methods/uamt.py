"""Uncertainty-aware mean teacher (row "UAMT" of the paper's Table II).

Yu, Wang, Li, Fu, Heng, "Uncertainty-aware self-ensembling model for
semi-supervised 3D left atrium segmentation" (2019). A mean teacher
(`mean_teacher.py`) that teaches only where it is certain: its mean softmax p
over T noisy passes has the entropy U = -sum_c p_c ln(p_c + 1e-6), and

  J = sum_pixels m |softmax_student - softmax_teacher|^2 / (C sum_pixels m)
  m = [U < (3/4 + r(t) / 4) ln C],   r(t) = exp(-5 (1 - t / t_max)^2)

Both C are 2 in the common code, left over from two classes: 2 is their number
and ln 2 the largest entropy, as its authors say; so they are here, with C
classes. The teacher's dropout of the original is not in this network (nor in
the paper's): its uncertainty is that of the noise alone. T passes are made one
by one; the common code makes them in pairs, which share their statistics. The
threshold rises with the epoch, not with each step, and whatever `dc.ramp` is.
"""

import jax
from jax import lax
import jax.numpy as jnp
import ml_collections

from dbdc_jax.methods.common import base, passes, plain, supervision
from dbdc_jax.methods.mean_teacher import squared_difference
from dbdc_jax.ops import losses, teacher

_EPSILON = 1e-6


def build(
  config: ml_collections.ConfigDict, axis_name: str | None = None
) -> base.Method:
  """Builds the method; see `base.Method`."""
  return plain.build(config, axis_name, _loss, taught=True)


def entropy(p: jax.Array) -> jax.Array:
  """Entropy `[...]` in nats of probabilities `[..., C]`."""
  return -jnp.sum(p * jnp.log(p + _EPSILON), -1)


def certain(p: jax.Array, progress: jax.Array) -> jax.Array:
  """Where the mean teacher is certain enough to teach.

  Args:
    p: `[..., C]` its mean probabilities.
    progress: share of the run that is done.

  Returns:
    `[...]` bool.
  """
  share = 0.75 + 0.25 * plain.gaussian_ramp(progress)
  return entropy(p) < share * jnp.log(p.shape[-1])


def _mean_probabilities(step, params, statistics, views):
  """The teacher's softmax, averaged over passes of different noise."""
  ssl = step.config.ssl

  def add(total, number):
    # The target's own noise has number 0.
    noisy = teacher.noisy(views.weak, views.keys, ssl.noise, number)
    p = passes.probabilities(step, params, statistics, noisy)
    return total + p / ssl.passes, None

  shape = (*views.weak.shape[:-1], step.net.unet.num_classes)
  numbers = jnp.arange(1, ssl.passes + 1)
  return lax.scan(add, jnp.zeros(shape), numbers)[0]


def _loss(step, params, memory):
  views = passes.views(step)
  statistics, mean_teacher = memory['modulation'], memory['teacher']
  noisy = teacher.noisy(views.weak, views.keys, step.config.ssl.noise)
  target = passes.probabilities(step, mean_teacher, statistics, noisy)
  mean = _mean_probabilities(step, mean_teacher, statistics, views)
  logits, student, statistics = passes.both_forward(
    step, params, statistics, views.images, views.weak
  )
  labeled = supervision.labeled_terms(
    step, logits, views.labels, share=plain.HALF
  )
  mask = certain(mean, step.signals.progress)
  consistency = losses.masked_mean(
    squared_difference(student, target), mask, step.axis_name
  )
  terms = {'consistency': consistency}
  return plain.Outcome(labeled, terms, logits, views.labels, statistics)
