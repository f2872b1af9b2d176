"""Devices: the only file that knows how many there are.

The train step is one `jax.pmap`ped function. Its state lives once per device
without a leading replica axis (placed on a mesh over the local devices); the
batch carries the device axis.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

# The axis that losses and statistics are summed over.
AXIS = 'batch'


def device_count() -> int:
  """Number of devices that share a batch."""
  return jax.device_count()


def is_lead() -> bool:
  """Whether this process writes files."""
  return jax.process_index() == 0


def describe() -> str:
  """The devices in words, e.g. '1 x cpu'."""
  kinds = [device.device_kind for device in jax.devices()]
  hosts = jax.process_count()
  where = f' on {hosts} hosts' if hosts > 1 else ''
  return f'{len(kinds)} x {kinds[0]}{where}'


def check_batch(batch_size: int) -> None:
  """Checks that the per-modality batch divides over the devices.

  Raises:
    ValueError: naming the nearest batch size that does.
  """
  devices = device_count()
  if batch_size % devices:
    nearest = max(1, round(batch_size / devices)) * devices
    raise ValueError(
      f'batch_size={batch_size} slices per modality do not divide over'
      f' {devices} devices: the nearest batch size that does is {nearest}'
      f' (--config.batch_size={nearest})'
    )


def place(state: Any) -> Any:
  """Puts a state on every local device, without a leading replica axis."""
  mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
  # Copied: leaves may share a buffer, and a buffer is donated only once.
  state = jax.tree.map(lambda x: jax.numpy.array(x, copy=True), state)
  return jax.device_put(state, NamedSharding(mesh, PartitionSpec()))


def shard(batch: Any) -> Any:
  """Splits axis 1 of `[K, B, ...]` arrays over the local devices.

  Returns:
    `[devices, K, B / devices, ...]` arrays.
  """
  count = jax.local_device_count()

  def split(x):
    x = x.reshape(x.shape[0], count, x.shape[1] // count, *x.shape[2:])
    return np.ascontiguousarray(np.moveaxis(x, 1, 0))

  return jax.tree.map(split, batch)


def pmap_step(step: Callable[..., Any]) -> Callable[..., Any]:
  """Maps `step(state, batch, signals)` over the devices.

  State and signals are the same on all devices, the batch is split; the old
  state's memory is given to the new one (donated).
  """
  return jax.pmap(
    step,
    axis_name=AXIS,
    in_axes=(None, 0, None),
    out_axes=None,
    donate_argnums=0,
  )


def mean_gradients(gradients: Any) -> Any:
  """Averages gradients of a loss that already holds sums over devices.

  The transpose of a psum is a psum: every device's gradient is the whole one
  times the number of devices once they are added up, so they are averaged.
  """
  return jax.lax.pmean(gradients, AXIS)
