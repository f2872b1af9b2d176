"""Methods, one file each, found by their file's name."""

import importlib
import pkgutil

import ml_collections

from dbdc_jax.methods.common.base import Method, Signals, full_signals
from dbdc_jax.models.unet import MODULATIONS

__all__ = ['Method', 'Signals', 'build', 'full_signals', 'names']

# Fields that every method reads, and their values.
_CHOICES = {
  'recipe': ('dbdc', 'own'),
  'joint': ('auto', 'true', 'false'),
  'model.modulation': tuple(MODULATIONS),
}


def names() -> tuple[str, ...]:
  """Returns the names of all methods, sorted."""
  found = pkgutil.iter_modules(__path__)
  return tuple(sorted(m.name for m in found if not m.ispkg))


def build(
  config: ml_collections.ConfigDict, axis_name: str | None = None
) -> Method:
  """Builds the method that `config.method` names.

  Args:
    config: a full config (`configs/common.py`).
    axis_name: the device axis that `loss` reduces over, or None.

  Raises:
    ValueError: for an unknown name, or an unknown value of a field that
      every method reads.
  """
  if config.method not in names():
    raise ValueError(
      f'unknown method {config.method!r}; there are: {", ".join(names())}'
    )
  for field, allowed in _CHOICES.items():
    group, _, name = field.rpartition('.')
    value = (config[group] if group else config)[name]
    if value not in allowed:
      raise ValueError(f'{field}={value!r}: choose {", ".join(allowed)}')
  module = importlib.import_module(f'{__name__}.{config.method}')
  return module.build(config, axis_name)
