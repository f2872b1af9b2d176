"""NumPy's arrays for functions that take jax's."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def jaxed(function: Callable[..., Any]) -> Callable[..., Any]:
  """The function, called with NumPy's arrays too.

  It is compiled whole, which takes a fraction of compiling each operation; what
  is no array is told to the compiler.
  """

  def call(*args, **kwargs):
    leaves, tree = jax.tree.flatten(args)
    arrays = {
      place: jnp.asarray(x)
      for place, x in enumerate(leaves)
      if isinstance(x, (np.ndarray, jax.Array))
    }

    @jax.jit
    def compiled(arrays):
      whole = [arrays.get(place, x) for place, x in enumerate(leaves)]
      return function(*jax.tree.unflatten(tree, whole), **kwargs)

    return compiled(arrays)

  return call
