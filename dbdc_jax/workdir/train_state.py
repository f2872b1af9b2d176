"""The train state: everything that a checkpoint holds."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dbdc_jax import methods
from dbdc_jax.ops import weighting
from dbdc_jax.runtime import parallel


class TrainState(NamedTuple):
  """Everything that a checkpoint holds."""

  step: jax.Array  # finished steps
  params: Any
  memory: Any
  opt_state: Any
  dice_counts: jax.Array  # [2, K, C], pooled over the running epoch
  weighting: Any  # MAW's state


def _first(
  method: methods.Method, problem: methods.Problem, key: jax.Array
) -> TrainState:
  """The state before the first step; see `init_state`."""
  count, classes = problem.labelable.shape
  clip = None
  if problem.config.weighting.clip:
    low, high = map(float, problem.config.weighting.clip.split(','))
    clip = (low, high)
  params, memory = method.init(key)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    memory=memory,
    opt_state=method.recipe.tx.init(params),
    dice_counts=jnp.zeros((2, count, classes)),
    weighting=weighting.init(count, clip=clip),
  )


def init_state(method: methods.Method, problem: methods.Problem) -> TrainState:
  """The state before the first step, placed on the devices.

  Args:
    method: that is trained.
    problem: that it solves.
  """
  first = functools.partial(_first, method, problem)
  key = jax.random.key(problem.config.seed)
  return parallel.place(parallel.run_once(first, key))


def state_shapes(
  method: methods.Method, problem: methods.Problem
) -> TrainState:
  """The shapes of what `init_state` of the same arguments returns."""
  first = functools.partial(_first, method, problem)
  return jax.eval_shape(first, jax.random.key(0))
