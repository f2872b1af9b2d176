"""Part `predict`: windows a second, and seconds for a whole volume."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu import clock, plan, steps
from dbdc_jax.benchmarking import workload as workloads
from dbdc_jax.inference import sliding_window
from dbdc_jax.runtime import parallel

_WINDOWS = (8, 72, 512)
# Slices a call; each is a program of its own, which is compiled for seconds.
_SLICES = (8, 32, 150)
_VOLUME = (150, 192, 192)
# No further program is begun after so many seconds.
_LAST_START = 32


def _windows(context, method, weights, patch, found) -> None:
  """The forward pass alone, with windows that are on the device."""
  found['windows_per_second'] = {}
  rng, predict = np.random.default_rng(0), jax.jit(method.predict)
  for batch in (2, 4) if context.tiny else _WINDOWS:
    x = jnp.asarray(rng.random((batch, patch, patch, 1), np.float32))
    ids = jnp.zeros(batch, jnp.int32)
    call = lambda x=x, ids=ids: predict(*weights, x, ids)
    _, piped = clock.seconds(call, 10)
    found['windows_per_second'][batch] = batch / piped
    found['lines'].append(
      f'{batch} windows a call: {batch / piped:.0f} windows/s,'
      f' {1e3 * piped:.2f} ms'
    )
    found.save()


def _volumes(context, method, weights, patch, found, begin) -> None:
  """A scan on the host to its labels on the host."""
  shape = (8, 2 * patch, 2 * patch) if context.tiny else _VOLUME
  volume = np.random.default_rng(0).integers(0, 65536, shape, np.uint16)
  found['volume'] = shape
  found['slices_per_second'], found['volume_seconds'] = {}, {}
  for batch in (2, 8) if context.tiny else _SLICES:
    most = _LAST_START * context.flags.slow
    if time.perf_counter() - begin > most:
      found['lines'].append(f'{batch} slices a call: no time left')
      continue

    network = sliding_window.Network(method.predict, *weights)

    def call(batch=batch, network=network):
      sliding_window.of_one_size(
        network,
        volume,
        0,
        patch=patch,
        stride=patch // 2,
        batch=batch,
        hard=True,
      )

    call()
    start = time.perf_counter()
    call()
    seconds = time.perf_counter() - start
    found['volume_seconds'][batch] = seconds
    found['slices_per_second'][batch] = len(volume) / seconds
    found['lines'].append(
      f'a volume of {" x ".join(map(str, shape))}, {batch} slices a call:'
      f' {seconds:.3f} s, {len(volume) / seconds:.0f} slices/s'
    )
    found.save()


def measure(context: plan.Context, name: str, found: plan.Found) -> None:
  """Measures prediction with the DBDC network in bfloat16."""
  del name
  begin = time.perf_counter()
  workload = steps.workload(steps.MAIN, context.tiny)
  method = workloads.build_method(workload)
  weights = jax.device_put(workloads.initial(workload))
  found['lines'] = []
  _windows(context, method, weights, workload.patch, found)
  _volumes(context, method, weights, workload.patch, found, begin)
  found['describe'] = parallel.describe()
