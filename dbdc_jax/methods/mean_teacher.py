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

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from dbdc_jax.methods.common import passes, plain, supervision
from dbdc_jax.methods.common.networks import Step
from dbdc_jax.ops import losses, teacher

_OWN_START = 1 / 30


def answer(
  step: Step,
  memory: Any,
  views: passes.Views,
  number: Integer[Array, ''] | int = 0,
) -> Float[Array, 'K b H W C']:
  """The teacher's softmax of the unlabelled slices, with noise of a number."""
  noisy = teacher.noisy(views.weak, views.keys, step.config.ssl.noise, number)
  return passes.probabilities(
    step, memory['teacher'], memory['modulation'], noisy, views.possible
  )


def student(
  step: Step,
  params: Any,
  memory: Any,
  views: passes.Views,
  target: Float[Array, 'K n H W C'],
  mask: Bool[Array, '...'] | bool = True,
) -> plain.Outcome:
  """What the student learns from the labels and from its teacher.

  Args:
    step: what the method was given.
    params: the student's.
    memory: with its statistics.
    views: its slices; the weak view is what it answers the teacher with.
    target: the teacher's probabilities.
    mask: where the teacher teaches.
  """
  logits, answers, statistics = passes.both_forward(
    step, params, memory['modulation'], views.images, views.weak
  )
  labeled = supervision.labeled_terms(
    step, logits, views.labels, share=plain.HALF
  )
  difference = jnp.mean(jnp.square(jax.nn.softmax(answers) - target), -1)
  consistency = losses.masked_mean(difference, jnp.asarray(mask))
  terms = {'consistency': consistency}
  return plain.Outcome(labeled, terms, logits, views.labels, statistics)


def _loss(step, params, memory):
  views = passes.views(step)
  target = answer(step, memory, views)
  return student(step, params, memory, views, target)


build = functools.partial(
  plain.build, loss=_loss, taught=True, own_start=_OWN_START
)
