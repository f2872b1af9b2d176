"""A trained run, ready to segment: its networks and how scans are prepared."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from configs import saved
from data import task_file
from data.task import Modality, Task
from dbdc_jax import methods
from dbdc_jax.runtime import parallel
from dbdc_jax.workdir import export_folder, run_record, weights
from dbdc_jax.workdir.train_state import state_shapes


class Network(NamedTuple):
  """A network and the modality's place in it.

  Attributes:
    method: the method that trained it.
    params: its parameters, on the devices.
    memory: its memory, on the devices.
    index: id of the modality in this network.
  """

  method: methods.Method
  params: Any
  memory: Any
  index: int


@dataclasses.dataclass(frozen=True)
class Deployed:
  """What a run has learnt.

  Attributes:
    folder: the run's workdir, or an export of it.
    config: the run's config.
    task: classes, modalities and label codes.
    modalities: those of the run, in bank order.
    mm_per_pixel: modality -> pixel side that it was trained with (median).
    networks: modality -> its network; one network may serve several.
  """

  folder: pathlib.Path
  config: ml_collections.ConfigDict
  task: Task
  modalities: tuple[Modality, ...]
  mm_per_pixel: dict[str, float]
  networks: dict[str, Network]

  @functools.cached_property
  def identity(self) -> str:
    """SHA-256 of all that its label maps depend on, wherever it lies.

    A run, its copy and its export have the same; a run that was trained on has
    another.
    """
    sha = hashlib.sha256()
    task = task_file.to_dict(self.task)
    config = self.config
    said = [
      {m.name: task['modalities'][m.name] for m in self.modalities},
      task['classes'],
      self.mm_per_pixel,
      [config.augment.patch_size, config.data.slice_size, config.data.roi],
    ]
    sha.update(json.dumps(said, sort_keys=True).encode())
    for name in sorted(self.networks):
      network = self.networks[name]
      sha.update(f'{name} {network.index}'.encode())
      for array in jax.tree.leaves((network.params, network.memory)):
        sha.update(np.asarray(jax.device_get(array)).tobytes())
    return sha.hexdigest()

  def modality(self, name: str) -> Modality:
    """A modality of the run by its name.

    Raises:
      ValueError: the run was not trained on it.
    """
    for modality in self.modalities:
      if modality.name == name:
        return modality
    known = ', '.join(m.name for m in self.modalities)
    raise ValueError(
      f'{self.folder} was not trained on modality {name!r}: choose {known}'
    )


def _read(path: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise ValueError(
      f'{path}: not readable ({error}); give the workdir of a finished run, or'
      ' an exported model'
    ) from error


def _network(config, workdir: pathlib.Path, classes: int, count: int):
  """Method and best weights of one network."""
  method = methods.build(config)
  if method.traits.vote:
    raise ValueError(
      f'{workdir}: {config.method} segments by the labelled training scans that'
      ' it was trained with, which no run or export holds; its test is in'
      ' results.json, and method=dbdc segments new scans'
    )
  like = state_shapes(method, method.recipe.tx, config, classes, count)
  found = weights.best(workdir, like)
  if found is None:
    raise ValueError(f'{workdir}: no checkpoint there; train the run first')
  return method, parallel.place(tuple(found))


def load(folder: str | os.PathLike) -> Deployed:
  """Loads a run's best checkpoint, or an export.

  Args:
    folder: the workdir of a run, or what `export` made of one.

  Raises:
    ValueError: it is not one, or it is damaged; says what is wrong.
  """
  folder = pathlib.Path(folder).absolute()
  if export_folder.is_model(folder):
    export_folder.read(folder, export_folder.MODEL)
  record = _read(folder / 'run.json')
  config = saved.get_config(str(folder / 'config.json'))
  if (folder / run_record.TASK).exists():
    config.task = str(folder / run_record.TASK)
  task = task_file.find(config.task)
  names = record['modalities']
  config.modalities = ','.join(names)
  networks = {}
  if methods.traits(config).joint:
    method, learnt = _network(config, folder, len(task.classes), len(names))
    for index, name in enumerate(names):
      networks[name] = Network(method, *learnt, index)
  else:
    for name in names:
      config.modalities = name
      method, learnt = _network(config, folder / name, len(task.classes), 1)
      networks[name] = Network(method, *learnt, 0)
    config.modalities = ','.join(names)
  return Deployed(
    folder=folder,
    config=config,
    task=task,
    modalities=task.select(config.modalities),
    mm_per_pixel={name: record['data'][name]['mm_per_pixel'] for name in names},
    networks=networks,
  )
