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
    is_array = [isinstance(x, (np.ndarray, jax.Array)) for x in leaves]

    @jax.jit
    def compiled(arrays):
      left = iter(arrays)
      whole = [
        next(left) if array else x
        for x, array in zip(leaves, is_array, strict=True)
      ]
      return function(*jax.tree.unflatten(tree, whole), **kwargs)

    pairs = zip(leaves, is_array, strict=True)
    return compiled([jnp.asarray(x) for x, array in pairs if array])

  return call
