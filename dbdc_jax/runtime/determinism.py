"""The same bits each time, where a GPU does not give them by itself."""

import os

import jax

_FLAG = '--xla_gpu_deterministic_ops=true'


def ask() -> None:
  """Lets GPUs give the same bits each time; before anything uses a device."""
  flags = os.environ.get('XLA_FLAGS', '')
  if _FLAG not in flags:
    os.environ['XLA_FLAGS'] = f'{flags} {_FLAG}'.strip()


def check() -> None:
  """Checks that this process computes the same bits each time.

  Raises:
    ValueError: a GPU that `ask` came too late for.
  """
  flags = os.environ.get('XLA_FLAGS', '')
  if jax.default_backend() == 'gpu' and _FLAG not in flags:
    raise ValueError(
      f'deterministic: on a GPU, set XLA_FLAGS={_FLAG} before jax'
      ' starts (the command python -m dbdc_jax.main does)'
    )
