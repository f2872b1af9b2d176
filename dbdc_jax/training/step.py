"""The one pmapped train step."""

from collections.abc import Callable
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from dbdc_jax import methods
from dbdc_jax.models import bank_rows
from dbdc_jax.runtime import parallel
from dbdc_jax.workdir.train_state import TrainState


class Plan(NamedTuple):
  """What a run gives each step as numbers, so that runs share a program.

  Attributes:
    seed: int32, of all random draws.
    learning_rate: float32, of this step.
    left: float32, the share of the run's steps that is still to be done.
  """

  seed: jax.Array | np.int32
  learning_rate: jax.Array | np.float32
  left: jax.Array | np.float32 | float = 1.0


def step_function(
  method: methods.Method, trained: np.ndarray | None = None
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
  """The step `(state, batch, signals, plan) -> (state, metrics)` of a device.

  A step's random draws depend on the seed and the step's number alone.

  Args:
    method: that is trained.
    trained: `[K]` bool, modalities whose bank rows alone are trained; None:
      everything is.
  """
  tx = optax.with_extra_args_support(method.recipe.tx)

  def only_trained(new, old):
    return new if trained is None else bank_rows.select(new, old, trained)

  def step(state, batch, signals, plan):
    key = jax.random.fold_in(jax.random.key(plan.seed), state.step)
    (loss, (memory, metrics)), gradients = jax.value_and_grad(
      method.loss, has_aux=True
    )(state.params, state.memory, batch, key, signals)
    # What computes the others is left out of the program.
    nothing = jax.tree.map(jnp.zeros_like, gradients)
    gradients = only_trained(gradients, nothing)
    gradients = parallel.mean_gradients(gradients)
    # All that reads the old parameters comes before what writes over them.
    memory, params = jax.lax.optimization_barrier((memory, state.params))
    updates, opt_state = tx.update(
      gradients, state.opt_state, params, left=plan.left
    )
    # An optimizer may decay weights that have no gradient.
    updates = only_trained(updates, nothing)
    updates = optax.tree.scale(-plan.learning_rate, updates)
    params = optax.apply_updates(params, updates)
    memory = only_trained(method.update(params, memory), state.memory)
    counts = metrics.pop('dice_counts')
    metrics |= {'loss': loss, 'gradient_norm': optax.tree.norm(gradients)}
    new = TrainState(
      step=state.step + 1,
      params=params,
      memory=memory,
      opt_state=opt_state,
      dice_counts=state.dice_counts + counts,
      weighting=state.weighting,
    )
    return new, metrics

  return step


def make_step(
  method: methods.Method, trained: np.ndarray | None = None
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
  """`step_function` on all devices.

  Returns:
    One pmapped function; `batch` is `parallel.shard`ed, the state donated. The
    same method again gives the same function, which is compiled already.
  """
  return _shared_step(method, None if trained is None else tuple(trained))


@functools.lru_cache(maxsize=4)
def _shared_step(method, trained):
  trained = None if trained is None else np.array(trained)
  return parallel.pmap_step(step_function(method, trained))


def ramp(config: ml_collections.ConfigDict, epoch: int) -> float:
  """lambda(t), the weight of the unlabelled losses in epoch t >= 1.

  exp(-5 (1 - t / t_max)^2), or 1 with `dc.ramp='constant'`.
  """
  if config.dc.ramp == 'constant':
    return 1.0
  if config.dc.ramp != 'gaussian':
    raise ValueError(f'dc.ramp={config.dc.ramp!r}: choose gaussian or constant')
  return math.exp(-5.0 * (1.0 - epoch / config.epochs) ** 2)
