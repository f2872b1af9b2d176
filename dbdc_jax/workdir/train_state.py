"""The train state: everything that a checkpoint holds."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax

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


def _first(method, tx, config, num_classes, num_modalities, key) -> TrainState:
  """The state before the first step; see `init_state`."""
  clip = None
  if config.weighting.clip:
    low, high = map(float, config.weighting.clip.split(','))
    clip = (low, high)
  params, memory = method.init(key)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    memory=memory,
    opt_state=tx.init(params),
    dice_counts=jnp.zeros((2, num_modalities, num_classes)),
    weighting=weighting.init(num_modalities, clip=clip),
  )


def init_state(
  method: methods.Method,
  tx: optax.GradientTransformation,
  config: ml_collections.ConfigDict,
  num_classes: int,
  num_modalities: int,
) -> TrainState:
  """The state before the first step, placed on the devices."""
  first = functools.partial(
    _first, method, tx, config, num_classes, num_modalities
  )
  return parallel.place(parallel.run_once(first, jax.random.key(config.seed)))


def state_shapes(*args: Any) -> TrainState:
  """The shapes of what `init_state` of the same arguments returns."""
  return jax.eval_shape(functools.partial(_first, *args), jax.random.key(0))
