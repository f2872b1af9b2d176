"""NumPy's arrays for functions that take jax's."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def jaxed(function: Callable[..., Any]) -> Callable[..., Any]:
  """The function, called with NumPy's arrays too."""
  move = lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x

  def call(*args, **kwargs):
    return function(*jax.tree.map(move, args), **kwargs)

  return call
