"""Mean teacher (row "MT" of the paper's Table II).

Tarvainen and Valpola, "Mean teachers are better role models: Weight-averaged
consistency targets improve semi-supervised deep learning results" (2017):

  loss = (CE + Dice) / 2 + w(t) J
  J    = mean over pixels and classes of (softmax_student - softmax_teacher)^2

The student sees labelled and unlabelled slices; the teacher, an exponential
moving average of it (`teacher.py`), sees the unlabelled ones with noise. The
student is validated and tested.

The common 2-D code starts the teacher from weights of its own, which its first
update (of decay 0) throws away: here it starts as the student. There, w is kept
at 0 for the first 1,000 of 30,000 steps; here, with `recipe=own`, for the same
share of the run.
"""

import jax
import jax.numpy as jnp
import ml_collections

from dbdc_jax.methods.common import base, passes, plain, supervision
from dbdc_jax.ops import losses, teacher

_OWN_START = 1 / 30


def build(
  config: ml_collections.ConfigDict, axis_name: str | None = None
) -> base.Method:
  """Builds the method; see `base.Method`."""
  return plain.build(
    config, axis_name, _loss, taught=True, own_start=_OWN_START
  )


def squared_difference(logits: jax.Array, target: jax.Array) -> jax.Array:
  """Mean over the classes of squared differences of probabilities.

  Args:
    logits: `[..., C]` of the student.
    target: `[..., C]` probabilities.

  Returns:
    `[...]`.
  """
  return jnp.mean(jnp.square(jax.nn.softmax(logits) - target), -1)


def _loss(step, params, memory):
  views = passes.views(step)
  statistics = memory['modulation']
  noisy = teacher.noisy(views.weak, views.keys, step.config.ssl.noise)
  target = passes.probabilities(step, memory['teacher'], statistics, noisy)
  logits, student, statistics = passes.both_forward(
    step, params, statistics, views.images, views.weak
  )
  labeled = supervision.labeled_terms(
    step, logits, views.labels, share=plain.HALF
  )
  difference = squared_difference(student, target)
  terms = {'consistency': losses.mean(difference, step.axis_name)}
  return plain.Outcome(labeled, terms, logits, views.labels, statistics)
