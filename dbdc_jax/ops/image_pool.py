"""A pool of earlier translations, for discriminators.

Shrivastava et al., "Learning from simulated and unsupervised images through
adversarial training" (2017), as CycleGAN has it: a discriminator is shown what
translators made some steps ago as well, so that it does not forget it. A
translation is stored and shown itself until the pool is full; from then on,
every other time, it takes the place of a random stored one, which is shown
instead.

The pool is part of a method's memory and the same on all devices.
"""

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Integer, Key

from dbdc_jax.ops.shapes import Images
from dbdc_jax.runtime import over_devices


def init(modalities: int, size: int, patch: int) -> dict[str, Array]:
  """An empty pool.

  Args:
    modalities: K.
    size: images of each modality; at least those of a step.
    patch: their side in pixels.
  """
  return {
    'images': jnp.zeros((modalities, size, patch, patch, 1)),
    'count': jnp.zeros((), jnp.int32),
  }


def exchange(
  pool: dict[str, Array],
  made: Images,
  position: Integer[Array, 'K b'],
  count: int,
  key: Key[Array, ''],
) -> tuple[Images, dict[str, Array]]:
  """What is shown instead of `made`, and the pool afterwards.

  Args:
    pool: of `init`.
    made: this device's translations.
    position: their numbers among those of all devices, from 0 on.
    count: of all devices' translations of a modality.
    key: of the step, equal on all devices.

  Returns:
    Images without a gradient, and the pool.
  """
  made, old = lax.stop_gradient(made), lax.stop_gradient(pool['images'])
  size, known = old.shape[1], pool['count']
  full = known >= size

  def one(key, old, made, position):
    k_slot, k_swap = jax.random.split(key)
    # Each is offered another place: no two ever meet in one.
    free = jax.random.permutation(k_slot, size)[position]
    swap = full & jax.random.bernoulli(k_swap, 0.5, (count,))[position]
    slot = jnp.where(full, free, known + position)
    stored = swap | (slot < jnp.where(full, 0, size))
    slot = jnp.minimum(slot, size - 1)
    keep = stored[:, None, None, None]
    shown = jnp.where(swap[:, None, None, None], old[slot], made)
    new = jnp.zeros_like(old).at[slot].add(jnp.where(keep, made, 0.0))
    return shown, new, jnp.zeros(size).at[slot].add(stored)

  keys = jax.random.split(key, len(old))
  shown, new, written = jax.vmap(one)(keys, old, made, position)
  # Every place was written by at most one device.
  new, written = over_devices.total((new, written))
  images = jnp.where(written[..., None, None, None] > 0, new, old)
  return shown, {'images': images, 'count': jnp.minimum(known + count, size)}
