"""Compiles train steps, times them in turns, says what they cost."""

from collections.abc import Mapping
import dataclasses
import time
from typing import Any

import jax
import numpy as np

from dbdc_jax.benchmarking import parts, program, timing
from dbdc_jax.benchmarking.workload import PLAN, MeasuredStep, Workload, make
from dbdc_jax.runtime import parallel
from dbdc_jax.runtime.precision import compute_dtype

# What the numbers of a step say of its workload.
_SAID = ('method', 'modalities', 'width', 'patch', 'batch')


class CompiledStep:
  """A compiled step with its own state, called again and again.

  Attributes:
    seconds: that lowering and compiling took.
    program: the compiled program.
    step: what was compiled.
  """

  def __init__(self, step: MeasuredStep):
    self.step = step
    self._state = step.state()
    self._given = step.batch, parallel.place(step.signals), PLAN
    start = time.perf_counter()
    self.program = step.function.lower(self._state, *self._given).compile()
    self.seconds = time.perf_counter() - start

  def __call__(self) -> jax.Array:
    """Runs a step; returns its loss."""
    self._state, metrics = self.program(self._state, *self._given)
    return metrics['loss']

  def memory(self) -> dict[str, int | None]:
    """See `timing.memory`."""
    return timing.memory(self.program, self._state.step)


def device_rate(dtype: Any) -> float:
  """Floating-point operations per second of all devices' matrix products."""
  platform = jax.default_backend()
  # Side of the square matrices.
  size = 2048 if platform == 'cpu' else 8192
  rate = timing.matmul_rate(dtype, size)
  # Virtual CPU devices share the cores that one product already uses.
  return rate if platform == 'cpu' else rate * parallel.device_count()


def _xla_flops(compiled: Any) -> float | None:
  found = compiled.cost_analysis()
  flops = found.get('flops') if isinstance(found, Mapping) else None
  return float(flops) if flops and flops > 0 else None


def _row(workload: Workload, compiled: CompiledStep, seconds: np.ndarray):
  """A measured step's numbers."""
  step = compiled.step
  median = float(np.median(seconds))
  counted = program.count(step.function, *step.arguments)
  devices = parallel.device_count()
  flops = 2 * counted.macs * devices
  dtype = compute_dtype(workload.dtype)
  rate = device_rate(dtype)
  xla = _xla_flops(compiled.program)
  return {
    **{name: getattr(workload, name) for name in _SAID},
    'dtype': str(dtype),
    'devices': devices,
    'compile_seconds': compiled.seconds,
    **timing.summary(seconds),
    'images_per_second': step.images / median,
    'counted_macs': counted.macs * devices,
    'xla_flops_per_device': xla,
    'flops_per_second': flops / median,
    'matmul_flops_per_second': rate,
    'share_of_matmul_rate': flops / median / rate,
    'memory': compiled.memory(),
  }


def measure(workloads: list[Workload], rounds: int) -> list[dict[str, Any]]:
  """Measures steps that take turns.

  Args:
    workloads: what to train.
    rounds: timed steps of each.

  Returns:
    A row of numbers for each workload: seconds, bytes, operations. Operations
    are those of the step's convolutions and matrix products as traced
    (`program.count`), 2 for each multiply-accumulate.
  """
  compiled = {str(i): CompiledStep(make(w)) for i, w in enumerate(workloads)}
  seconds = timing.interleaved(compiled, rounds)
  return [
    _row(workload, compiled[key], seconds[key])
    for key, workload in zip(compiled, workloads, strict=True)
  ]


def measure_parts(workload: Workload, rounds: int) -> dict[str, dict[str, Any]]:
  """The step's parts, each by leaving it out; see `parts`.

  Returns:
    name -> 'ms' (whole less without, medians), 'share' of the whole step in
    [0, 1] and 'left_out', what that means; 'whole' has only 'ms'.
  """
  found = parts.of(workload.method)
  calls = {'whole': CompiledStep(make(workload))}
  for name, part in found.items():
    calls[name] = CompiledStep(part.without(workload))
  seconds = timing.interleaved(calls, rounds)
  medians = {name: 1e3 * float(np.median(s)) for name, s in seconds.items()}
  whole = medians['whole']
  out: dict[str, dict[str, Any]] = {'whole': {'ms': whole}}
  for name, part in found.items():
    spent = whole - medians[name]
    share = min(max(spent / whole, 0.0), 1.0)
    out[name] = {'ms': spent, 'share': share, 'left_out': part.meaning}
  return out


def compare_modalities(
  counts: list[int], workload: Workload, rounds: int
) -> dict[str, float]:
  """t(2K) / t(K) for each K of `counts`.

  Returns:
    'K -> 2K' -> ratio of medians; every K is compiled once.
  """
  everything = sorted({k * f for k in counts for f in (1, 2)})
  calls = {
    str(k): CompiledStep(make(dataclasses.replace(workload, modalities=k)))
    for k in everything
  }
  seconds = timing.interleaved(calls, rounds)
  median = {int(k): float(np.median(s)) for k, s in seconds.items()}
  return {f'{k} -> {2 * k}': median[2 * k] / median[k] for k in counts}
