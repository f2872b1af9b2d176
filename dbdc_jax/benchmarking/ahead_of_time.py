"""The train step's program for a GPU, compiled on a machine without one.

XLA compiles for a card that it only knows by a description (`cards/`). That
needs jax's plug-in for CUDA and NVIDIA's compiler as packages, neither a GPU
nor its driver: `benchmarks/requirements-compile.txt`. On the card itself XLA
times several forms of a product or convolution; here it takes its default.
"""

import dataclasses
from importlib import metadata, resources, util
import os
import pathlib
import re
import time
from typing import Any

import jax
from jax.experimental import topologies

from dbdc_jax.benchmarking import compiled, elsewhere
from dbdc_jax.benchmarking.choices import REQUIREMENTS
from dbdc_jax.benchmarking.workload import Workload, build_method, make
from dbdc_jax.runtime import parallel
from dbdc_jax.training import step

# The folder of the package `nvidia`, and what the compiler needs of it -> the
# distribution that brings it.
_TOOLKIT = 'cu13'
_TOOLS = {
  'bin/ptxas': 'nvidia-cuda-nvcc',
  'nvvm/libdevice': 'nvidia-nvvm',
}
_PLUGINS = ('jax-cuda13-plugin', 'jax-cuda13-pjrt')


def description(card: str) -> str:
  """What XLA is told of a card: a text proto of `GpuTargetConfigProto`."""
  file = resources.files(__package__).joinpath('cards', f'{card}.txtpb')
  return file.read_text()


def bandwidth(card: str) -> int:
  """The card's memory bandwidth, in bytes a second."""
  (found,) = re.findall(r'^ *memory_bandwidth: (\d+)$', description(card), re.M)
  return int(found)


def _toolkit() -> pathlib.Path | None:
  """The folder of NVIDIA's compiler among the installed packages."""
  spec = util.find_spec('nvidia')
  places = spec.submodule_search_locations if spec else None
  folders = [pathlib.Path(place) / _TOOLKIT for place in places or ()]
  # Other packages of NVIDIA's have folders of that name.
  complete = [f for f in folders if all((f / tool).exists() for tool in _TOOLS)]
  return next(iter(complete or folders), None)


def _version(package: str) -> str | None:
  """Of an installed distribution."""
  try:
    return metadata.version(package)
  except metadata.PackageNotFoundError:
    return None


def lacking() -> str:
  """What has to be installed to compile for a card; '' if it is there."""
  folder, plugin = _toolkit(), _version(_PLUGINS[0])
  missing = [package for package in _PLUGINS if not _version(package)]
  missing += [
    package
    for tool, package in _TOOLS.items()
    if folder is None or not (folder / tool).exists()
  ]
  remedy = (
    f'in a virtual environment of its own, pip install -r {REQUIREMENTS} (its'
    ' first lines say how)'
  )
  if missing:
    return f'not installed: {", ".join(missing)}; {remedy}'
  if plugin != jax.__version__:
    return (
      f'{_PLUGINS[0]} {plugin} does not go with jax {jax.__version__}; {remedy}'
    )
  return ''


def count(workload: Workload, card: str) -> dict[str, Any]:
  """Compiles a step for one card and counts what the program does.

  Args:
    workload: 'auto' is bfloat16, as on a GPU.
    card: one of `choices.cards()`.

  Returns:
    The workload's fields; 'card'; 'bytes_per_second' of its memory; the counts
    of `compiled.count`; 'floor_ms': the bytes at that rate; 'memory': bytes
    of arguments, results (of these donated ones) and temporaries;
    'compile_seconds' on this machine.
  """
  if workload.dtype == 'auto':
    workload = dataclasses.replace(workload, dtype='bfloat16')
  topology = topologies.get_topology_desc(
    topology_name=card,
    platform='cuda',
    target_config=description(card),
    topology='1x1x1',
  )
  mesh = topologies.make_mesh(topology, (1,), (parallel.AXIS,))
  method = build_method(workload)
  function, placed = parallel.mesh_step(step.step_function(method), mesh)
  shapes = jax.eval_shape(lambda *given: given, *make(workload).arguments)
  lay = lambda on: lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on)
  arguments = [
    jax.tree.map(lay(sharding), tree)
    for tree, sharding in zip(shapes, placed, strict=True)
  ]
  start = time.perf_counter()
  program = function.lower(*arguments).compile()
  seconds = time.perf_counter() - start
  found = compiled.count(program.as_text())
  memory = program.memory_analysis()
  rate = bandwidth(card)
  return {
    **dataclasses.asdict(workload),
    'card': card,
    'bytes_per_second': rate,
    **found,
    'floor_ms': 1e3 * found['bytes'] / rate,
    'memory': {
      'arguments': memory.argument_size_in_bytes,
      'results': memory.output_size_in_bytes,
      'donated': memory.alias_size_in_bytes,
      'temporaries': memory.temp_size_in_bytes,
    },
    'compile_seconds': seconds,
  }


def _environment() -> dict[str, str]:
  """Of a process that compiles for a card and uses none, where it differs.

  What changes the program on a GPU (`XLA_FLAGS=--xla_gpu_...`) does so here.
  """
  given = os.environ.get('XLA_FLAGS', '').split()
  flags = [flag for flag in given if flag.startswith('--xla_gpu_')]
  return {
    'JAX_PLATFORMS': 'cpu',
    # A compile time read from a cache would not be one.
    'JAX_ENABLE_COMPILATION_CACHE': 'false',
    'XLA_FLAGS': ' '.join([*flags, f'--xla_gpu_cuda_data_dir={_toolkit()}']),
  }


def count_elsewhere(workload: Workload, card: str) -> dict[str, Any]:
  """`count` in a new process, whatever devices this one has.

  Raises:
    RuntimeError: packages are missing, or the process failed; then with its
      last words.
  """
  if text := lacking():
    raise RuntimeError(f'compiling for {card}: {text}')
  return elsewhere.count(
    __spec__.name, workload, _environment(), f'compiling for {card}', card=card
  )
