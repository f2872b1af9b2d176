"""What stands behind a config's name: `preset=NAME` and `recipe=NAME`.

A preset is the sizes of a run, a recipe what DBDC is made of.
"""

from typing import Any

import ml_collections

# What `recipe=plus` adds to the paper's DBDC (docs/evidence.md).
PLUS: dict[str, Any] = {
  'dc.pseudo': 'teacher',
  'dc.confidence': 0.9,
  'dc.cutmix': 0.5,
  'evaluation.components': 'validation',
}


RECIPES = ('dbdc', 'own', 'plus')

# What `preset=auto` leaves open, with the values that say so: the scans, the
# device and `minutes` decide when a run begins (dbdc_jax/sizing.py). A field
# that is set is not open.
OPEN: dict[str, Any] = {
  'data.slice_size': 0,
  'augment.patch_size': 0,
  'model.width': 0,
  'model.embedding_dim': 0,
  'mass.depth': 0,
  'batch_size': 0,
  'epochs': 0,
  'optimizer.learning_rate': -1.0,
  'ssl.gan_learning_rate': -1.0,
  'mpcl.stride': 0,
  'dc.ramp': '',
  'dc.warmup_epochs': -1,
}


def recipe(config: ml_collections.ConfigDict, name: str) -> None:
  """Sets the fields that a recipe's name stands for.

  Raises:
    ValueError: an unknown name.
  """
  if name not in RECIPES:
    raise ValueError(
      f'config argument recipe={name}: choose one of {", ".join(RECIPES)}'
    )
  config.recipe = name
  if name == 'plus':
    config.update_from_flattened_dict(PLUS)


def choose(config: ml_collections.ConfigDict, name: str) -> None:
  """Sets the sizes that a preset's name stands for.

  Raises:
    ValueError: an unknown name.
  """
  presets = {
    'paper': lambda config: None,
    'quick': quick,
    'tiny': tiny,
    'auto': lambda config: config.update_from_flattened_dict(OPEN),
  }
  if name not in presets:
    raise ValueError(
      f'config argument preset={name}: choose one of {", ".join(presets)}'
    )
  presets[name](config)
  if name not in ('paper', 'auto'):
    suit(config)


def suit(config: ml_collections.ConfigDict) -> None:
  """Sets what the config's method needs beside sizes below the paper's."""
  if config.method in _OF_METHODS:
    _OF_METHODS[config.method](config)


def left_open(config: ml_collections.ConfigDict) -> list[str]:
  """The fields of `OPEN` that nobody has set."""
  return [f for f, value in OPEN.items() if _value(config, f) == value]


def _value(config: ml_collections.ConfigDict, field: str) -> Any:
  for name in field.split('.'):
    config = config[name]
  return config


def quick(config: ml_collections.ConfigDict) -> None:
  """The phantom's preset: a small network that two CPU cores finish.

  Every term of the method stays on; sizes, length, the ramp and the strength of
  the augmentation differ.
  """
  config.model.width = 8
  config.model.embedding_dim = 32
  config.augment.patch_size = 48
  # Short runs have no time to learn every turn of a heart.
  config.augment.flips = False
  config.data.slice_size = 64
  config.mass.depth = 24
  config.batch_size = 4
  config.epochs = 16
  config.mpcl.stride = 2
  config.dc.ramp = 'constant'
  config.optimizer.learning_rate = 2e-3
  config.evaluation.batch_size = 16


def tiny(config: ml_collections.ConfigDict) -> None:
  """A preset that fills a table in half an hour: two minutes for most runs.

  Few subjects, coarse slices, few steps: every method learns, but three test
  scans of each modality do not tell which of two close ones is better.
  """
  quick(config)
  config.model.width = 6
  config.model.embedding_dim = 16
  config.augment.patch_size = 32
  config.data.slice_size = 40
  config.mass.depth = 16
  # Many small steps: what is not found before the unlabelled terms begin may
  # stay so.
  config.batch_size = 2
  config.epochs = 7
  config.dc.warmup_epochs = 2
  config.optimizer.learning_rate = 3e-3
  config.phantom.subjects = 12
  config.evaluation.overlays = 1


def _summl(config: ml_collections.ConfigDict) -> None:
  """Translators learn twice as fast as segmenters, as at paper's sizes."""
  config.ssl.gan_learning_rate = 2 * config.optimizer.learning_rate


def _mass(config: ml_collections.ConfigDict) -> None:
  """A registration that a few hundred steps teach.

  Encoders of 2, 8 and 16 channels (published: 4, 16, 32), and a rate nearer to
  the published 3e-4. `batch_size` says no more than how many steps an epoch
  has: half of the others', each of which takes longer.
  """
  config.model.width = 16
  config.optimizer.learning_rate = 1e-3
  config.batch_size = max(4, config.batch_size)


# What a method needs beside a small preset's sizes.
_OF_METHODS = {'summl': _summl, 'mass': _mass}
