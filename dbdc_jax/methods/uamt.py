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

import functools

from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dbdc_jax.methods.common import passes, plain
from dbdc_jax.methods.mean_teacher import answer, student

_EPSILON = 1e-6


def entropy(p: Float[Array, '*pixels C']) -> Float[Array, '*pixels']:
  """Entropy in nats of probabilities."""
  return -jnp.sum(p * jnp.log(p + _EPSILON), -1)


def certain(
  p: Float[Array, '*pixels C'], progress: Float[Array, ''] | float
) -> Bool[Array, '*pixels']:
  """Where the mean teacher is certain enough to teach.

  Args:
    p: its mean probabilities.
    progress: share of the run that is done.
  """
  share = 0.75 + 0.25 * plain.gaussian_ramp(progress)
  return entropy(p) < share * jnp.log(p.shape[-1])


def _mean_probabilities(step, memory, views):
  """The teacher's softmax, averaged over passes of different noise."""
  count = step.config.ssl.passes

  def add(total, number):
    return total + answer(step, memory, views, number) / count, None

  shape = (*views.weak.shape[:-1], step.net.unet.num_classes)
  # The target's own noise has number 0.
  return lax.scan(add, jnp.zeros(shape), jnp.arange(1, count + 1))[0]


def _loss(step, params, memory):
  views = passes.views(step)
  target = answer(step, memory, views)
  mean = _mean_probabilities(step, memory, views)
  mask = certain(mean, step.signals.progress)
  return student(step, params, memory, views, target, mask)


build = functools.partial(plain.build, loss=_loss, taught=True)
