"""Sinkhorn-Knopp assignment of pixels to prototypes (equations 4 to 6)."""

import functools

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dbdc_jax.runtime import over_devices

# Stands for log 0; finite, so that no difference of two becomes NaN.
_LOG_ZERO = -1e30


@functools.partial(jax.jit, static_argnames='iterations')
def sinkhorn(
  scores: Float[Array, 'N C'],
  epsilon: float | Float[Array, ''] = 0.05,
  iterations: int = 3,
  mask: Bool[Array, ' N'] | None = None,
  class_mask: Bool[Array, ' C'] | None = None,
) -> Float[Array, 'N C']:
  """Soft assignment with nearly equal masses of the classes.

  The kernel exp(scores / epsilon) is scaled, `iterations` times, first so that
  every class column has mass N / C and then so that every pixel row has mass
  1. All in float32 and in the log domain: nothing overflows.

  Args:
    scores: similarities of pixels and prototypes.
    epsilon: entropy weight, the paper's phi.
    iterations: number of scalings.
    mask: pixels that take part; None means all.
    class_mask: classes that take part; None means all.

  Returns:
    Float32; rows sum to 1 (0 for a pixel that takes no part). No
    gradient flows through it.
  """
  n, c = scores.shape
  mask = jnp.ones(n, bool) if mask is None else mask
  class_mask = jnp.ones(c, bool) if class_mask is None else class_mask
  take = mask[:, None] & class_mask[None]
  log_kernel = lax.stop_gradient(scores).astype(jnp.float32) / epsilon
  log_kernel = jnp.where(take, log_kernel, _LOG_ZERO)
  pixels = jnp.maximum(
    over_devices.total(jnp.sum(mask.astype(jnp.float32))), 1.0
  )
  classes = jnp.maximum(jnp.sum(class_mask.astype(jnp.float32)), 1.0)
  log_column = jnp.log(pixels / classes)

  def scale(_, log_p):
    # Columns: a log-sum-exp over the pixels of all devices.
    top = over_devices.largest(jnp.max(log_p, 0))
    mass = jnp.sum(jnp.where(take, jnp.exp(log_p - top), 0.0), 0)
    mass = jnp.maximum(over_devices.total(mass), 1e-30)
    log_p += log_column - top - jnp.log(mass)
    # Rows live on one device.
    log_p = jnp.where(take, log_p, _LOG_ZERO)
    log_p -= jax.nn.logsumexp(log_p, 1, keepdims=True)
    return jnp.where(take, log_p, _LOG_ZERO)

  log_p = lax.fori_loop(0, iterations, scale, log_kernel)
  return jnp.where(take, jnp.exp(log_p), 0.0)
