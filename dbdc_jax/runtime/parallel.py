"""Devices and processes: the only file that knows how many there are.

The train step is one `jax.pmap`ped function over all devices of all processes.
Its state lives once per device without a leading replica axis (placed on a mesh
over the local devices); the batch carries the device axis. Every process loads
the samples of its own devices only. The lead process writes files and decides
what all must agree on; `gather` and `from_lead` carry it over, as JSON.
"""

from collections.abc import Callable
import faulthandler
import json
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
from orbax.checkpoint import multihost

from dbdc_jax.runtime.over_devices import AXIS

# A process that is silent for so long is taken for dead, and ends the others.
_HEARTBEAT_SECONDS = 30
_PATIENCE_SECONDS = 24 * 60 * 60
# Barriers that were passed: each needs a name of its own, the same everywhere.
_meetings = 0


class OtherProcessError(ValueError):
  """Another process of this run stopped with an error."""


def start(
  coordinator: str,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> None:
  """Joins the processes of one run; before anything else uses jax.

  Args:
    coordinator: 'HOST:PORT' of process 0, or 'auto': the cluster's launcher
      (Slurm, Open MPI, Kubernetes) or the TPU pod says who is who.
    num_processes: how many there are; not with 'auto'.
    process_id: which this one is, 0 is the lead; not with 'auto'.

  Raises:
    ValueError: an incomplete description, or nobody to be found.
  """
  given = num_processes is not None and process_id is not None
  if (coordinator == 'auto') == given:
    raise ValueError(
      f'--coordinator={coordinator}: give --num_processes and --process_id with'
      ' HOST:PORT, and neither with auto'
    )
  # A process that dies makes jax abort the others with a message; the stack of
  # every thread behind it would bury that.
  faulthandler.disable()
  address = None if coordinator == 'auto' else coordinator
  try:
    jax.distributed.initialize(
      address,
      num_processes,
      process_id,
      heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
      shutdown_timeout_seconds=_HEARTBEAT_SECONDS,
    )
  except (ValueError, RuntimeError) as error:
    raise ValueError(
      f'--coordinator={coordinator}: the processes did not find each other'
      f' ({error}). Without a launcher that jax knows give HOST:PORT,'
      ' --num_processes and --process_id'
    ) from error


def is_distributed() -> bool:
  """Whether the run has several processes."""
  return jax.process_count() > 1


def is_lead() -> bool:
  """Whether this process writes files."""
  return jax.process_index() == 0


def device_count() -> int:
  """Number of devices that share a batch."""
  return jax.device_count()


def describe() -> str:
  """The devices in words, e.g. '1 x cpu'."""
  kinds = [device.device_kind for device in jax.devices()]
  count = jax.process_count()
  where = f' in {count} processes' if count > 1 else ''
  return f'{len(kinds)} x {kinds[0]}{where}'


def _wait_for_all(what: str) -> None:
  """Waits until every process is here, for as long as it takes.

  A collective waits half a minute on CPU and then fails, which is shorter than
  one process's compiling or testing may take.
  """
  global _meetings
  _meetings += 1
  multihost.sync_global_processes(
    f'{what} {_meetings}',
    timeout=_PATIENCE_SECONDS,
    processes=set(range(jax.process_count())),
  )


def gather(value: Any) -> list[Any]:
  """What each process gives, in the processes' order, on all of them.

  Args:
    value: anything that JSON holds.
  """
  if not is_distributed():
    return [value]
  _wait_for_all('gather')
  text = np.frombuffer(json.dumps(value).encode(), np.uint8)
  lengths = multihost_utils.process_allgather(np.array([len(text)], np.int32))
  lengths = np.asarray(lengths).reshape(-1)
  # The same shape everywhere, and few different ones: each is compiled.
  padded = np.zeros(1 << int(lengths.max() - 1).bit_length(), np.uint8)
  padded[: len(text)] = text
  rows = np.asarray(multihost_utils.process_allgather(padded))
  return [
    json.loads(row[:length].tobytes())
    for row, length in zip(rows, lengths, strict=True)
  ]


def from_lead(make: Callable[[], Any]) -> Any:
  """Runs `make` on the lead process alone and gives all what it returns.

  Args:
    make: returns anything that JSON holds.

  Raises:
    OtherProcessError: on the others, when `make` raised on the lead.
  """
  answer, error = {}, None
  if is_lead():
    try:
      answer = {'value': make()}
    except Exception as caught:
      if not is_distributed():
        raise
      answer, error = {'error': str(caught)}, caught
  answer = gather(answer)[0]
  if error is not None:
    raise error
  if 'error' in answer:
    raise OtherProcessError(f'the lead process stopped: {answer["error"]}')
  return answer['value']


def on_lead(make: Callable[[], Any]) -> Any:
  """Runs `make` on the lead process; what it returns stays there.

  The others get None, once the lead is done.

  Raises:
    OtherProcessError: on the others, when `make` raised on the lead.
  """
  kept: list[Any] = []
  from_lead(lambda: kept.append(make()))
  return kept[0] if kept else None


def lead_first(make: Callable[[], Any]) -> Any:
  """Runs `make` on the lead process, then on the others.

  For what the lead leaves in a folder that the others may share.
  """
  kept = on_lead(make)
  return kept if is_lead() else make()


def agree(what: str, value: Any) -> None:
  """Checks that all processes hold the same value.

  Raises:
    ValueError: naming `what` and each process's value.
  """
  values = gather(value)
  if any(other != values[0] for other in values):
    listed = ', '.join(f'process {i}: {v}' for i, v in enumerate(values))
    raise ValueError(
      f'the processes of this run differ in {what} ({listed}): start each with'
      ' the same command, code and data'
    )


def blank(like: Any) -> Any:
  """Zeros of a tree's shapes and dtypes, to read into."""
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)


def arrays_from_lead(make: Callable[[], Any], like: Any) -> Any:
  """Runs `make` on the lead process and gives all the arrays that it returns.

  Args:
    make: returns a tree of numpy arrays.
    like: a tree of anything that has their shapes and dtypes.

  Raises:
    OtherProcessError: on the others, when `make` raised on the lead.
  """
  made = on_lead(make)
  if not is_distributed():
    return made
  tree = made if is_lead() else blank(like)
  # No bool: the sum over processes that carries the values has none.
  numbers = jax.tree.map(
    lambda x: x.astype(np.uint8) if x.dtype == bool else x, tree
  )
  numbers = multihost_utils.broadcast_one_to_all(numbers)
  return jax.tree.map(
    lambda x, like: np.asarray(x).astype(like.dtype), numbers, tree
  )


def check_batch(
  batch_size: int, multiple: int = 1, field: str = 'batch_size'
) -> None:
  """Checks that the per-modality batch divides over the devices.

  Args:
    batch_size: slices (or scans) per modality on all devices.
    multiple: each device's share must be a multiple of this.
    field: of the config that it comes from.

  Raises:
    ValueError: naming the nearest batch size that does.
  """
  devices = device_count()
  unit = devices * multiple
  if batch_size % unit:
    nearest = max(1, round(batch_size / unit)) * unit
    groups = f' in groups of {multiple}' if multiple > 1 else ''
    raise ValueError(
      f'{field}={batch_size} per modality and step does not divide over'
      f' {devices} devices{groups}: the nearest that does is {nearest}'
      f' (--config.{field}={nearest})'
    )


def own_samples(batch_size: int) -> range:
  """This process's samples of each modality's global batch."""
  share = batch_size // device_count() * jax.local_device_count()
  first = jax.process_index() * share
  return range(first, first + share)


def own_items(count: int) -> range:
  """This process's share of `count` things that are done one by one."""
  return range(jax.process_index(), count, jax.process_count())


def run_once(function: Callable[..., Any], *args: Any) -> Any:
  """Calls a function as one compiled program that is not worth optimising.

  Drawing a network's first weights takes a CPU milliseconds; at full strength
  its compiler spends longer on that than on the train step.
  """
  cpu = jax.default_backend() == 'cpu'
  options = {'xla_backend_optimization_level': 1} if cpu else None
  return jax.jit(function, compiler_options=options)(*args)


def _local_mesh() -> Mesh:
  return Mesh(np.array(jax.local_devices()), (AXIS,))


def share(tables: Any) -> Any:
  """Puts arrays that are only read on every local device."""
  return jax.device_put(tables, NamedSharding(_local_mesh(), PartitionSpec()))


def place(state: Any) -> Any:
  """Puts a state on every local device, without a leading replica axis."""
  # Copied: leaves may share a buffer, and a buffer is donated only once.
  state = jax.tree.map(lambda x: jax.numpy.array(x, copy=True), state)
  return share(state)


def memory() -> int | None:
  """Bytes of each device; None where they have none of their own, as CPUs."""
  return (jax.local_devices()[0].memory_stats() or {}).get('bytes_limit')


def room() -> float | None:
  """An eighth of `memory`: what one kind of data may take."""
  return (limit := memory()) and limit / 8


def per_call(slices: int) -> int:
  """Slices of a call that segments: on each GPU or TPU four times as many."""
  cpu = jax.default_backend() == 'cpu'
  return slices if cpu else 4 * slices * jax.local_device_count()


def spread(images: np.ndarray) -> jax.Array:
  """Splits the leading axis over the local devices where it divides."""
  even = len(images) % jax.local_device_count() == 0
  spec = PartitionSpec(AXIS) if even else PartitionSpec()
  return jax.device_put(images, NamedSharding(_local_mesh(), spec))


def shard(batch: Any) -> Any:
  """Splits axis 1 of `[K, B, ...]` arrays over the local devices.

  Args:
    batch: this process's samples of the global batch.

  Returns:
    `[devices, K, B / devices, ...]` arrays.
  """
  count = jax.local_device_count()

  def split(x):
    x = x.reshape(x.shape[0], count, x.shape[1] // count, *x.shape[2:])
    return np.ascontiguousarray(np.moveaxis(x, 1, 0))

  return jax.tree.map(split, batch)


def pmap_lookup(lookup: Callable[..., Any]) -> Callable[..., Any]:
  """Maps `lookup(tables, rows)` over the devices.

  The tables are the same on all, see `share`; the rows are split, see `shard`.
  """
  return jax.pmap(lookup, axis_name=AXIS, in_axes=(None, 0))


def pmap_step(step: Callable[..., Any]) -> Callable[..., Any]:
  """Maps `step(state, batch, signals, plan)` over the devices.

  All but the batch, which is split, are the same on all devices; the old
  state's memory is given to the new one (donated).
  """
  mapped = jax.pmap(
    step,
    axis_name=AXIS,
    in_axes=(None, 0, None, None),
    out_axes=None,
    donate_argnums=0,
  )
  if not is_distributed():
    return mapped
  compiled = False

  def together(*args):
    nonlocal compiled
    if not compiled:
      # The call below finds the program; see `_wait_for_all`.
      mapped.lower(*args).compile()
      _wait_for_all('compiled')
      compiled = True
    return mapped(*args)

  return together


def mean_gradients(gradients: Any) -> Any:
  """Averages gradients of a loss that already holds sums over devices.

  The transpose of a psum is a psum: every device's gradient is the whole one
  times the number of devices once they are added up, so they are averaged.
  """
  return jax.lax.pmean(gradients, AXIS)


def mesh_step(
  step: Callable[..., Any], mesh: Mesh
) -> tuple[Any, tuple[NamedSharding, ...]]:
  """`pmap_step`'s program for other devices than this process's.

  Args:
    step: `(state, batch, signals, plan) -> (state, metrics)`.
    mesh: of one axis, `AXIS`; its devices may be described ones.

  Returns:
    The jitted function, which donates what `pmap_step` does, and where each of
    its four arguments lies.
  """

  def own(state, batch, signals, plan):
    return step(state, jax.tree.map(lambda x: x[0], batch), signals, plan)

  specs = (PartitionSpec(), PartitionSpec(AXIS), *2 * (PartitionSpec(),))
  mapped = jax.shard_map(
    own, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False
  )
  placed = tuple(NamedSharding(mesh, spec) for spec in specs)
  return jax.jit(mapped, donate_argnums=0), placed
