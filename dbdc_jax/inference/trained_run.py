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

from data import task_file
from data.task import Modality, Task
from dbdc_jax import methods
from dbdc_jax.evaluation.components import Choice, kept
from dbdc_jax.inference import sliding_window
from dbdc_jax.runtime import parallel
from dbdc_jax.workdir import (
  export_folder,
  metric_writer,
  run_folder,
  weights,
)
from dbdc_jax.workdir.run_folder import RunFolder
from dbdc_jax.workdir.train_state import state_shapes

_REMEDY = '; give the workdir of a finished run, or an exported model'


class TrainedNetwork(NamedTuple):
  """A network and the modality's place in it.

  Attributes:
    method: the method that trained it.
    params: its parameters, on the devices.
    memory: its memory, on the devices.
    place: id of the modality in this network.
  """

  method: methods.Method
  params: Any
  memory: Any
  place: int

  @property
  def predict(self) -> sliding_window.Network:
    """The method's `predict` with what was learnt."""
    return sliding_window.Network(self.method.predict, self.params, self.memory)


@dataclasses.dataclass(frozen=True)
class TrainedRun:
  """What a run has learnt.

  Attributes:
    folder: the run's workdir, or an export of it.
    config: the run's config.
    task: classes, modalities and label codes.
    modalities: those of the run, in bank order.
    mm_per_pixel: modality -> pixel side that it was trained with (median).
    networks: modality -> its network; one network may serve several.
    components: modality -> what its validation scans chose
      (`evaluation.components.Choice`); empty before the run was tested.
    doubts: sentences on what its training or its test lacks.
  """

  folder: pathlib.Path
  config: ml_collections.ConfigDict
  task: Task
  modalities: tuple[Modality, ...]
  mm_per_pixel: dict[str, float]
  networks: dict[str, TrainedNetwork]
  components: dict[str, Choice] = dataclasses.field(default_factory=dict)
  doubts: tuple[str, ...] = ()

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
      sha.update(f'{name} {network.place}'.encode())
      for array in jax.tree.leaves((network.params, network.memory)):
        sha.update(np.asarray(jax.device_get(array)).tobytes())
    return sha.hexdigest()

  def kept(self, modality: str) -> list[int]:
    """Classes whose largest component the validation scans chose to keep."""
    return kept(self.components.get(modality, {}), self.task.classes)

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


def _best(problem: methods.Problem, workdir: pathlib.Path) -> TrainedNetwork:
  """A network's best checkpoint, for the first of its modalities."""
  method = methods.build(problem.config)
  if method.traits.vote:
    raise ValueError(
      f'{workdir}: {problem.config.method} segments by the labelled training'
      ' scans that it was trained with, which no run or export holds; its test'
      ' is in results.json, and method=dbdc segments new scans'
    )
  found = weights.best(workdir, state_shapes(method, problem))
  if found is None:
    raise ValueError(f'{workdir}: no checkpoint there; train the run first')
  params, memory = parallel.place(tuple(found))
  return TrainedNetwork(method, params, memory, 0)


def _doubts(files: RunFolder, epochs: int, joint: bool) -> tuple[str, ...]:
  """What whoever uses a run should know first.

  Args:
    files: of the run, or of an export, which has what it said then.
    epochs: that the run was to have.
    joint: whether one network takes all modalities.
  """
  if model := files.read_if_there(export_folder.MODEL):
    return tuple(model.get('doubts', ()))
  out = []
  for name in files.record['modalities'][: 1 if joint else None]:
    rows = metric_writer.read_epochs(files.network(name, joint))
    done = rows[-1]['epoch'] if rows else epochs
    if done < epochs:
      whose = '' if joint else f' of {name}'
      out.append(f'training{whose} ended after {done} of {epochs} epochs')
  tested = files.read_if_there(run_folder.RESULTS).get('run', {})
  if not tested:
    out.append('no test: nothing is known of how well it segments')
  elif tested['epochs'] < epochs:
    out.append(f'its test is that of {tested["epochs"]} epochs')
  return tuple(out)


def load(folder: str | os.PathLike) -> TrainedRun:
  """Loads a run's best checkpoint, or an export.

  Args:
    folder: the workdir of a run, or what `export` made of one.

  Raises:
    ValueError: it is not one, or it is damaged; says what is wrong.
  """
  files = RunFolder(folder, _REMEDY)
  if export_folder.is_model(files.path):
    export_folder.read(files.path, export_folder.MODEL)
  record, config = files.record, files.own_config()
  config.modalities = ','.join(record['modalities'])
  problem = methods.resolve(config)
  joint = methods.traits(config).joint
  networks = {}
  for part in problem.networks(joint):
    network = _best(part, files.network(part.names[0], joint))
    for place, name in enumerate(part.names):
      networks[name] = network._replace(place=place)
  return TrainedRun(
    folder=files.path,
    config=config,
    task=problem.task,
    modalities=problem.modalities,
    mm_per_pixel={n: record['data'][n]['mm_per_pixel'] for n in problem.names},
    networks=networks,
    components=files.of_modalities(run_folder.COMPONENTS),
    doubts=_doubts(files, config.epochs, joint),
  )
