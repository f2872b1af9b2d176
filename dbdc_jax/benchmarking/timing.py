"""Times that can be compared: medians of calls that take turns.

A machine that does other work beside is slower at one time than at another:
what is to be compared runs alternately in one process, and ratios are of
medians.
"""

from collections.abc import Callable, Mapping
import functools
import resource
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Matrix products that are waited for once.
_IN_A_ROW = 4


def interleaved(
  calls: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 1
) -> dict[str, np.ndarray]:
  """Times calls that take turns.

  Args:
    calls: name -> a call whose result is waited for.
    rounds: timed calls of each.
    warmup: calls of each before.

  Returns:
    name -> `[rounds]` seconds.
  """
  seconds = {name: np.zeros(rounds) for name in calls}
  for i in range(-warmup, rounds):
    for name, call in calls.items():
      start = time.perf_counter()
      jax.block_until_ready(call())
      if i >= 0:
        seconds[name][i] = time.perf_counter() - start
  return seconds


def summary(seconds: np.ndarray) -> dict[str, float]:
  """Median and quartiles in milliseconds."""
  low, median, high = np.percentile(1e3 * seconds, (25, 50, 75))
  return {
    'median_ms': float(median),
    'quartile_low_ms': float(low),
    'quartile_high_ms': float(high),
  }


@functools.cache
def matmul_rate(
  dtype: Any, size: int, precision: str | None = None, repeats: int = 5
) -> float:
  """Floating-point operations per second of one device, as measured.

  The numbers are random: a GPU that multiplies ones draws less power and runs
  at a higher clock than it ever does in training.

  Args:
    dtype: of both factors and the result.
    size: side of the square matrices.
    precision: of the products, see `jax.default_matmul_precision`.
    repeats: the fastest of these counts.

  Returns:
    2 size^3 / seconds, of products in a row.
  """
  a, b = (
    jax.random.normal(jax.random.key(i), (size, size)).astype(dtype)
    for i in (0, 1)
  )
  multiply = jax.jit(lambda a, b: jnp.matmul(a, b, precision=precision))
  row = lambda: [multiply(a, b) for _ in range(_IN_A_ROW)]
  seconds = interleaved({'matmul': row}, repeats)['matmul'].min()
  return _IN_A_ROW * 2 * size**3 / float(seconds)


def memory(compiled: Any, leaf: jax.Array) -> dict[str, int | None]:
  """Memory of a compiled program and of the process, in bytes.

  Args:
    compiled: from `jit(...).lower(...).compile()`.
    leaf: an array on the device in question.

  Returns:
    'program': arguments, results and temporaries of one call, as compiled, per
    device (None where the backend does not say); 'device': the most that the
    device has held in this process (None where it has no counter, as on CPU);
    'process': peak resident memory of the process.
  """
  found = compiled.memory_analysis()
  program = found and (
    found.argument_size_in_bytes
    + found.output_size_in_bytes
    - found.alias_size_in_bytes
    + found.temp_size_in_bytes
  )
  device = next(iter(leaf.devices()))
  statistics = device.memory_stats() or {}
  unit = 1 if sys.platform == 'darwin' else 1024
  return {
    'program': program,
    'device': statistics.get('peak_bytes_in_use'),
    'process': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
  }
