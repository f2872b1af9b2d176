"""What a method costs: its networks' parameters and multiply-accumulates."""

from typing import Any

import jax
import jax.numpy as jnp

from dbdc_jax.methods.common.base import Method
from dbdc_jax.models import counting


def prediction_macs(
  method: Method, params: Any, memory: Any, patch: int
) -> int:
  """Multiply-accumulates of a method's prediction of one square patch.

  Args:
    method: any method; its networks are built from the layers of `models/`.
    params: its parameters; shapes are enough.
    memory: its memory; shapes are enough.
    patch: side in pixels; of a method that takes volumes, of its slices.
      Counted is one atlas's vote then: two registrations.
  """
  if method.traits.vote:
    shape = (method.traits.volumes, patch, patch)
    image, labels = (jnp.zeros(shape, t) for t in (jnp.uint16, jnp.uint8))
    modality = jnp.zeros((), jnp.int32)
    arguments = (params, memory, image, labels, image, modality)
    return counting.macs(method.predict, *arguments)
  image, modality = jnp.zeros((1, patch, patch, 1)), jnp.zeros(1, jnp.int32)
  return counting.macs(method.predict, params, memory, image, modality)


def training_size(
  method: Method, params: Any, memory: Any, patch: int
) -> tuple[int, int]:
  """Parameters and multiply-accumulates of all networks that training has.

  Args:
    method: any method.
    params: its parameters; shapes are enough.
    memory: its memory; shapes are enough.
    patch: side in pixels; of a method that takes volumes, of its slices.

  Returns:
    Both, of one image (or volume) that passes each network once.
  """
  depth = (method.traits.volumes,) if method.traits.volumes else ()
  image = jnp.zeros((1, *depth, patch, patch, 1))
  found = jax.eval_shape(method.counted, params, memory, image)
  macs = counting.macs(method.counted, params, memory, image)
  return sum(x.size for x in jax.tree.leaves(found)), macs
