"""The compute dtype: bfloat16 where it is fast and works, else float32.

Parameters, statistics, softmax, losses, prototypes and Sinkhorn are float32
whatever is chosen here.
"""

import functools
import warnings

import jax
from jax import lax
import jax.numpy as jnp

# For products of float32 arrays: all bits also where TF32 or bfloat16 is the
# default. Every such product in a step that computes in bfloat16 has it.
EXACT = lax.Precision.HIGHEST


@functools.cache
def compute_dtype(name: str) -> jnp.dtype:
  """Returns the dtype of the network's activations.

  Args:
    name: 'float32', 'bfloat16', or 'auto': bfloat16 on GPU and TPU, float32 on
      CPU.

  Raises:
    ValueError: for another name.
  """
  if name == 'float32':
    return jnp.dtype(jnp.float32)
  if name not in ('auto', 'bfloat16'):
    raise ValueError(f'dtype={name!r}: choose auto, float32 or bfloat16')
  if name == 'auto' and jax.default_backend() == 'cpu':
    return jnp.dtype(jnp.float32)
  # Some devices refuse bfloat16 convolutions of some shapes: try one.
  try:
    with jax.ensure_compile_time_eval():
      image = jnp.ones((1, 16, 16, 8), jnp.bfloat16)
      kernel = jnp.ones((3, 3, 8, 8), jnp.bfloat16)
      numbers = ('NHWC', 'HWIO', 'NHWC')
      convolve = jax.jit(
        lambda x, w: lax.conv_general_dilated(
          x, w, (1, 1), 'SAME', dimension_numbers=numbers
        )
      )
      jax.block_until_ready(
        jax.grad(lambda w: convolve(image, w).astype(jnp.float32).sum())(kernel)
      )
  except jax.errors.JaxRuntimeError as error:
    warnings.warn(
      f'bfloat16 convolutions fail on this device ({error}): using float32',
      stacklevel=2,
    )
    return jnp.dtype(jnp.float32)
  return jnp.dtype(jnp.bfloat16)
