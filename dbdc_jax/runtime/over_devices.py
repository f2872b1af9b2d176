"""Sums and the like over the devices that share a batch.

Outside of what is mapped over them there is one, and values stay as they are:
so functions that are mapped and those that are not read alike.
"""

from typing import Any

import jax
from jax import lax

# The axis that a step is mapped over, see `parallel.pmap_step`.
AXIS = 'batch'


def _on_axis() -> bool:
  """Whether this runs as one of the devices that share a batch."""
  try:
    lax.axis_size(AXIS)
  except NameError:
    return False
  return True


def total(x: Any) -> Any:
  """Adds the arrays of `x` up."""
  return lax.psum(x, AXIS) if _on_axis() else x


def largest(x: jax.Array) -> jax.Array:
  """The largest of each device's values."""
  return lax.pmax(x, AXIS) if _on_axis() else x


def gathered(x: jax.Array) -> jax.Array:
  """The samples `x` of all devices, one behind the other."""
  return lax.all_gather(x, AXIS, tiled=True) if _on_axis() else x
