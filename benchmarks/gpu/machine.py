"""Part `env`: machine, packages, and what the device reaches at best."""

from importlib import metadata
import os
import platform
import subprocess

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu import clock, plan
from dbdc_jax.benchmarking import timing
from dbdc_jax.workdir import run_record

# Beside what a run records: packages that a machine may lack.
_PACKAGES = (
  'torch',
  'jax-cuda13-plugin',
  'jax-cuda12-plugin',
  'nvidia-cudnn-cu13',
  'nvidia-cudnn-cu12',
  'nvidia-cublas',
)
_COMMANDS = {
  'nvidia_smi': (
    'nvidia-smi',
    '--query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem,'
    'power.limit',
    '--format=csv,noheader',
  ),
  'cpu': ('grep', '-m1', 'model name', '/proc/cpuinfo'),
  'memory': ('grep', 'MemTotal', '/proc/meminfo'),
}


def _version(package: str) -> str | None:
  try:
    return metadata.version(package)
  except metadata.PackageNotFoundError:
    return None


def _said(command: tuple[str, ...]) -> str:
  try:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
  except OSError as error:
    return str(error)
  return (done.stdout + done.stderr).strip()[:300]


def _products(tiny: bool, found: plan.Found) -> None:
  """Rates of square matrix products of random numbers, in TFLOP/s."""
  size = 512 if tiny else 8192
  for key, dtype, precision in (
    ('matmul_bf16_tflops', jnp.bfloat16, None),
    ('matmul_f32_tflops', jnp.float32, None),
    ('matmul_f32_highest_tflops', jnp.float32, 'highest'),
  ):
    found[key] = timing.matmul_rate(dtype, size, precision) / 1e12
    found.save()


def measure(context: plan.Context, name: str, found: plan.Found) -> None:
  """Measures the machine; stops all where it has no GPU."""
  del name
  device, code = jax.devices()[0], run_record.versions()
  more = {package: _version(package) for package in _PACKAGES}
  found.update(
    device=device.device_kind,
    platform=device.platform,
    devices=jax.device_count(),
    packages=code['packages'] | more,
    commit=code['commit'],
    python=platform.python_version(),
    cpus=len(os.sched_getaffinity(0)),
    xla_flags=os.environ.get('XLA_FLAGS', ''),
    **{key: _said(command) for key, command in _COMMANDS.items()},
  )
  if not context.tiny and device.platform != 'gpu':
    found['state'] = 'NO GPU: --tiny rehearses on a CPU'
    return
  found.save()
  _products(context.tiny, found)
  count = 2**22 if context.tiny else 2**30
  x = jax.random.normal(jax.random.key(2), (count,), jnp.bfloat16)
  copy = jax.jit(lambda x: x + jnp.bfloat16(1))
  _, piped = clock.seconds(lambda: copy(x), 10)
  found['copy_gb_s'] = 4 * count / piped / 1e9
  host = np.ones(8 << 20, np.uint8)
  _, piped = clock.seconds(lambda: jax.device_put(host), 10)
  found['host_to_device_gb_s'] = host.nbytes / piped / 1e9
