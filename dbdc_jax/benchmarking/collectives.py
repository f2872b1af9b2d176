"""What a step sends on 8 or 64 devices, counted without having them.

The step is traced and lowered, not compiled, for that many virtual CPU devices
in a process of its own. A ring all-reduce over n devices makes every device
send (and receive) 2 (n - 1) / n times the array's bytes.
"""

import dataclasses
from typing import Any

import jax

from dbdc_jax.benchmarking import elsewhere, program
from dbdc_jax.benchmarking.workload import Workload, make
from dbdc_jax.runtime import parallel


def ring_factor(devices: int) -> float:
  """Bytes a device sends for each byte that a ring all-reduce sums."""
  return 2 * (devices - 1) / devices


def count(workload: Workload) -> dict[str, Any]:
  """Counts a step's collectives on the devices of this process.

  Args:
    workload: its batch is raised to a multiple of the devices.

  Returns:
    'devices'; 'kinds': kind -> {'arrays', 'bytes'} per step as written;
    'lowered': kind -> number of places in the lowered program (the body of a
    loop once); 'gradient_bytes': the part of the all-reduced bytes that is the
    gradients; 'ring_bytes': what a device sends for the all-reduces.
  """
  devices = parallel.device_count()
  batch = -(-workload.batch // devices) * devices
  step = make(dataclasses.replace(workload, batch=batch))
  found = program.count(step.function, *step.arguments)
  text = step.function.lower(*step.arguments).as_text()
  kinds = {
    kind: {'arrays': arrays, 'bytes': found.collective_bytes[kind]}
    for kind, arrays in found.collectives.items()
  }
  reduced = found.collective_bytes['all_reduce']
  return {
    'devices': devices,
    'batch': batch,
    'kinds': kinds,
    'lowered': {kind: text.count(f'"stablehlo.{kind}"') for kind in kinds},
    'gradient_bytes': sum(
      x.size * x.dtype.itemsize for x in jax.tree.leaves(step.shapes.params)
    ),
    'ring_bytes': round(ring_factor(devices) * reduced),
  }


def count_elsewhere(workload: Workload, devices: int) -> dict[str, Any]:
  """`count` in a new process that has this many virtual CPU devices.

  Raises:
    RuntimeError: with the process's last words if it fails.
  """
  environment = {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''}
  what = f'counting for {devices} devices'
  return elsewhere.count(
    __spec__.name, workload, environment, what, devices=devices
  )


def table(found: dict[str, Any]) -> str:
  """The counts as text for the terminal."""
  devices = found['devices']
  mib = lambda count: f'{count / 2**20:.2f} MiB'
  kinds = [
    f'  {kind}: {sent["arrays"]} arrays, {mib(sent["bytes"])} a step'
    f' ({found["lowered"][kind]} places in the lowered program)'
    for kind, sent in found['kinds'].items()
  ]
  lines = [
    f'{devices} devices, {found["batch"]} slices per modality and kind:',
    *kinds,
    f'  of these the gradients: {mib(found["gradient_bytes"])}',
    f'  a ring all-reduce moves 2 (n - 1) / n = {ring_factor(devices):.3f}'
    f' times the bytes: each device sends {mib(found["ring_bytes"])} a step',
  ]
  return '\n'.join(lines)
