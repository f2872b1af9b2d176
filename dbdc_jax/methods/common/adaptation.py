"""What the methods that transfer share: one direction, one network for both.

Their networks are made of images of the source and, some, of the target; the
target's labels are never seen.
"""

from collections.abc import Callable
import functools
from typing import Any

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer
import ml_collections
import optax

from dbdc_jax.methods.common import (
  base,
  networks,
  problem,
  supervision,
  transfer,
)
from dbdc_jax.methods.common.networks import Networks, Step
from dbdc_jax.ops import losses
from dbdc_jax.runtime.precision import compute_dtype


def build(
  config: ml_collections.ConfigDict,
  *,
  network: type[nn.Module],
  selected_on: int,
  own: tuple[optax.GradientTransformation, float],
  segment: Callable[..., jax.Array],
  **functions: Callable[..., Any],
) -> base.Method:
  """Makes a method that transfers, with one network for both modalities.

  Args:
    config: the run's config.
    network: of `(classes, width, dtype)`.
    selected_on: see `transfer.of`.
    own: optimizer and learning rate of `recipe=own`.
    segment: `(net, variables, images) -> logits` in evaluation mode.
    **functions: `loss` and `counted`, see `networks.method`.
  """
  direction = transfer.of(config, selected_on=selected_on)
  config = direction.settle(config)
  labelable = problem.resolve(config).labelable
  dtype = compute_dtype(config.dtype)
  unet = network(labelable.shape[1], config.model.width, dtype)
  return networks.method(
    networks.of_config(config, labelable, unet, unet, 0.0),
    init=_init,
    predict=functools.partial(_predict, segment=segment),
    traits=base.Traits(transfer=direction),
    recipe=base.recipe(config, *own),
    **functions,
  )


def _init(net: Networks, key: jax.Array):
  """Parameters and memory before the first step."""
  variables = net.predictor.init(key, net.blank, False)
  return variables['params'], {'modulation': variables['modulation']}


def _predict(net: Networks, params, memory, images, modality, *, segment):
  """Logits of either modality, by the one network."""
  logits = segment(net, {'params': params, **memory}, images)
  return losses.only_labelable(logits, net.labelable, modality)


def outcome(
  step: Step,
  terms: dict[str, Float[Array, '2']],
  value: Float[Array, ''],
  answer: tuple[Float[Array, '1 b H W C'], Integer[Array, '1 b H W']],
  memory: Any,
) -> tuple[Float[Array, ''], tuple[Any, dict[str, Array]]]:
  """What the loss of a method that transfers returns.

  Args:
    step: what the method was given.
    terms: see `transfer.rows`.
    value: the loss.
    answer: logits of the source's labelled slices, and their labels.
    memory: after the step.
  """
  told = supervision.judged(transfer.step_of_source(step), answer[1])
  counts = losses.dice_counts(*answer, told)
  # The target has no labels to be counted.
  counts = jnp.pad(counts, ((0, 0), (0, 1), (0, 0)))
  return value, (lax.stop_gradient(memory), {**terms, 'dice_counts': counts})
