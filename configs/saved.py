"""The config that a run has saved.

  python -m dbdc_jax.main --config runs/heart/config.json

reads the file as data: unlike the other files of this folder it runs no code.
A field that the file lacks keeps its default.
"""

from collections.abc import Mapping
import json
import pathlib
from typing import Any

import ml_collections

from configs import common


def _merge(
  config: ml_collections.ConfigDict, values: Mapping[str, Any], path: str
) -> None:
  for name, value in values.items():
    if name not in config:
      raise ValueError(f'{path}: there is no field {name!r}')
    before = config[name]
    if isinstance(before, ml_collections.ConfigDict):
      if not isinstance(value, Mapping):
        raise ValueError(f'{path}: {name} must hold fields, not {value!r}')
      _merge(before, value, path)
      continue
    if isinstance(before, float) and type(value) is int:
      value = float(value)
    if type(value) is not type(before):
      raise ValueError(
        f'{path}: {name}={value!r} must be of type {type(before).__name__}'
      )
    config[name] = value


def get_config(path: str) -> ml_collections.ConfigDict:
  """Reads a `config.json`.

  Args:
    path: of the file.

  Raises:
    ValueError: it cannot be read, or a field is unknown or of another type;
      names the file and the field.
  """
  try:
    values = json.loads(pathlib.Path(path).read_text())
  except (OSError, ValueError) as error:
    raise ValueError(f'{path}: not a readable config ({error})') from error
  if not isinstance(values, dict):
    raise ValueError(f'{path}: not a config: it must hold fields')
  config = common.base()
  _merge(config, values, path)
  return config
