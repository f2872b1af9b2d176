"""XLA's compiled programs, kept between runs."""

import hashlib
import os
import pathlib
import platform

import jax

# The least recently used programs go once there are more bytes than this.
_MAX_BYTES = 4 << 30


def _machine() -> str:
  """Names the processor: a program compiled for another may not run here."""
  text = platform.machine()
  info = pathlib.Path('/proc/cpuinfo')
  if info.exists():
    lines = info.read_text().splitlines()
    text += '\n'.join(
      sorted({x for x in lines if x.startswith(('flags', 'Features'))})
    )
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def use(cache: pathlib.Path) -> None:
  """Keeps compiled programs in `cache/xla`, unless jax was told where already.

  A step compiles in half a minute; read back, it is there in seconds.

  Args:
    cache: the folder of prepared data (`data.preparation.cache_folder`).
  """
  if os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    return
  folder = cache / 'xla' / _machine()
  jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_compilation_cache_max_size', _MAX_BYTES)
