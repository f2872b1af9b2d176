"""Memory that is kept between steps, on a CPU with the GNU C library.

A step's temporaries are one large block. By default the C library gives it
back after every step, and the next one waits for the system to hand out and
clear each page again: about a tenth of a step's time.
"""

import ctypes
from importlib import metadata, util
import os
import pathlib
import sys

# Where Linux shows GPUs (NVIDIA's, also in WSL; AMD's) and TPUs.
_DEVICES = ('dev/nvidia*', 'dev/dxg', 'dev/kfd', 'dev/accel*', 'dev/vfio/*')
# Of <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def accelerated() -> bool:
  """Whether jax will find a GPU or TPU; nothing of jax is started."""
  if os.environ.get('JAX_PLATFORMS') == 'cpu':
    return False
  plugins = metadata.entry_points(group='jax_plugins')
  if not plugins and util.find_spec('libtpu') is None:
    return False
  return any(next(pathlib.Path('/').glob(place), None) for place in _DEVICES)


def keep() -> bool:
  """Makes the C library keep what is freed; before threads are started.

  One arena for all threads, grown and never shrunk: others would still map and
  unmap large blocks. Where steps run on a GPU or TPU the host has none, and its
  threads (compiler, data) are better off with arenas of their own.

  Returns:
    Whether the C library can do so and does.
  """
  if not sys.platform.startswith('linux') or accelerated():
    return False
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt is None:
    return False
  settings = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))
  return all(mallopt(name, value) == 1 for name, value in settings)
