"""The mean teacher: an exponential moving average of a student's parameters.

Tarvainen and Valpola, "Mean teachers are better role models" (2017). The
average is of parameters only. The teacher is used in train mode, normalised by
the statistics of what it is shown, so it needs no running statistics.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Integer, Key

from dbdc_jax.ops.shapes import Images

# The noise on a teacher's images is cut off at so many standard deviations.
_NOISE_LIMIT = 2.0


def init(params: Any) -> dict[str, Any]:
  """Memory of a teacher that starts as its student."""
  return {'teacher': params, 'updates': jnp.zeros((), jnp.int32)}


def follow(params: Any, memory: dict[str, Any], limit: float) -> dict[str, Any]:
  """Moves the teacher after a step of its student.

  The n-th update keeps min(1 - 1/n, limit) of the teacher: it is the mean of
  all students so far until that would forget more slowly than `limit`.

  Args:
    params: the student's, after the optimizer's step.
    memory: with `teacher` and `updates`.
    limit: upper limit of the share that is kept.

  Returns:
    The memory with both replaced.
  """
  updates = memory['updates'] + 1
  kept = jnp.minimum(1 - 1 / updates.astype(jnp.float32), limit)
  teacher = jax.tree.map(
    lambda old, new: kept * old + (1 - kept) * new, memory['teacher'], params
  )
  return {**memory, 'teacher': teacher, 'updates': updates}


def noisy(
  images: Images,
  keys: Key[Array, 'K b'],
  sigma: float,
  number: Integer[Array, ''] | int = 0,
) -> Images:
  """Images with Gaussian noise, cut off at two standard deviations.

  Args:
    images: of each modality.
    keys: one for each sample.
    sigma: standard deviation; images lie in [0, 1].
    number: of this draw, for draws that differ.
  """

  def draw(key):
    key = jax.random.fold_in(key, number)
    return jax.random.normal(key, images.shape[2:])

  limit = _NOISE_LIMIT * sigma
  noise = sigma * jax.vmap(jax.vmap(draw))(keys)
  return images + jnp.clip(noise, -limit, limit)
