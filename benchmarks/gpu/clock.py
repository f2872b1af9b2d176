"""Seconds of a call that is made again and again."""

from collections.abc import Callable
import time
from typing import Any

import jax
import numpy as np

from dbdc_jax.benchmarking import timing


def seconds(
  call: Callable[[], Any], number: int, warmup: int = 2
) -> tuple[float, float]:
  """Times a call whose result is on a device.

  Args:
    call: to be timed.
    number: of timed calls, twice.
    warmup: calls before.

  Returns:
    The median of calls that are waited for one by one; and the mean of calls
    in a row, of which only the last is waited for.
  """
  each = timing.interleaved({'call': call}, number, warmup)['call']
  start = time.perf_counter()
  for _ in range(number):
    last = call()
  jax.block_until_ready(last)
  return float(np.median(each)), (time.perf_counter() - start) / number
