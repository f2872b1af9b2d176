"""Methods, one file each, found by their file's name."""

import functools
import importlib
import pkgutil
import types

import ml_collections

from configs.common import FIELDS
from configs.presets import PLUS, RECIPES
from dbdc_jax.evaluation import components
from dbdc_jax.methods.common.base import (
  Method,
  Reading,
  Recipe,
  Signals,
  Traits,
  full_signals,
  reading,
)
from dbdc_jax.methods.common.problem import Problem, resolve
from dbdc_jax.models.unet import MODULATIONS

__all__ = [
  'Method',
  'Problem',
  'Reading',
  'Recipe',
  'Signals',
  'Traits',
  'build',
  'full_signals',
  'names',
  'reading',
  'resolve',
  'traits',
]

# Fields that every method reads, and their values.
_CHOICES = {
  'recipe': RECIPES,
  'joint': ('auto', 'true', 'false'),
  'evaluation.components': components.WAYS,
  'model.modulation': tuple(MODULATIONS),
}


@functools.cache
def _modules() -> dict[str, types.ModuleType]:
  """Name of a method -> its module: the file's name, or the file's `NAMES`."""
  found: dict[str, types.ModuleType] = {}
  for file in pkgutil.iter_modules(__path__):
    if not file.ispkg:
      module = importlib.import_module(f'{__name__}.{file.name}')
      found |= dict.fromkeys(getattr(module, 'NAMES', (file.name,)), module)
  return found


def names() -> tuple[str, ...]:
  """Returns the names of all methods, sorted."""
  return tuple(sorted(_modules()))


def traits(config: ml_collections.ConfigDict) -> Traits:
  """The traits of the method that `config.method` names.

  Raises:
    ValueError: the method refuses the config; see `build`.
  """
  return _made(config).traits


def build(config: ml_collections.ConfigDict) -> Method:
  """Builds the method that `config.method` names.

  Args:
    config: a full config (`configs/common.py`). A method that trains one
      network per modality (`traits.joint`) is built of one modality's.

  Raises:
    ValueError: for an unknown name, an unknown value of a field that every
      method reads, or several modalities of a method that trains one network
      for each.
  """
  method = _made(config)
  count = len(resolve(config).modalities)
  if count > 1 and not method.traits.joint:
    raise ValueError(
      f'{config.method} trains one network per modality, and these are {count}:'
      ' a step of it has 1 modality'
    )
  return method


def _check_plus(config) -> None:
  """Checks that `recipe='plus'` names what it is.

  Raises:
    ValueError: another method's, or the name without its fields.
  """
  if config.method != 'dbdc':
    raise ValueError(
      f"recipe='plus' is DBDC's, and the method is {config.method}: choose"
      ' dbdc or own'
    )
  fields = [field for field in PLUS if field.startswith('dc.')]
  if all(config.dc[field[3:]] == FIELDS[field] for field in fields):
    raise ValueError(
      "recipe='plus' stands for several fields: give it behind the config's"
      ' name, for example configs/heart.py:recipe=plus'
    )


def _made(config) -> Method:
  """The method as its module builds it."""
  if config.method not in _modules():
    raise ValueError(
      f'unknown method {config.method!r}; there are: {", ".join(names())}'
    )
  for field, allowed in _CHOICES.items():
    group, _, name = field.rpartition('.')
    value = (config[group] if group else config)[name]
    if value not in allowed:
      raise ValueError(f'{field}={value!r}: choose {", ".join(allowed)}')
  if config.recipe == 'plus':
    _check_plus(config)
  return _modules()[config.method].build(config)
