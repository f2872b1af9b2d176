"""A run's folder, or an export's, as the commands read it."""

import functools
import json
import os
import pathlib
from typing import Any

import ml_collections

from configs import saved
from data import task_file

CONFIG = 'config.json'
RECORD = 'run.json'
RESULTS = 'results.json'
# What the scans of each modality look like, see `inference.recognition`.
LOOKS = 'fit.json'
# Classes whose largest component is kept, see `evaluation.components`.
COMPONENTS = 'components.json'
# Who is where, see `data.split`.
SPLIT = 'split.json'
# The run's task, in the form of a dataset.json.
TASK = task_file.RUNS_TASK


class RunFolder:
  """The JSON files of a run.

  Attributes:
    path: the folder, absolute.
  """

  def __init__(self, folder: str | os.PathLike, remedy: str = ''):
    """Nothing is read yet.

    Args:
      folder: the run's workdir, or an export of it.
      remedy: ends the error about a file that cannot be read.
    """
    self.path = pathlib.Path(folder).absolute()
    self._remedy = remedy

  def read(self, name: str, *keys: str) -> dict[str, Any]:
    """A file of the folder.

    Args:
      name: of the file.
      *keys: that it must hold.

    Raises:
      ValueError: it is missing or damaged, or lacks a key; names the file.
    """
    path = self.path / name
    try:
      found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
      raise ValueError(
        f'{path}: not readable ({error}){self._remedy}'
      ) from error
    if not isinstance(found, dict) or not found.keys() >= set(keys):
      raise ValueError(f'{path}: not what a run writes{self._remedy}')
    return found

  def read_if_there(self, name: str) -> dict[str, Any]:
    """A file of the folder; empty where there is none."""
    return self.read(name) if (self.path / name).exists() else {}

  def of_modalities(self, name: str) -> dict[str, Any]:
    """What a file says of each modality, in whichever network's folder."""
    found = self.read_if_there(name)
    for modality in self.record['modalities']:
      found |= self.read_if_there(f'{modality}/{name}')
    return found

  @functools.cached_property
  def record(self) -> dict[str, Any]:
    """Versions, commit, modalities, classes and data of the run."""
    return self.read(RECORD)

  def config(self) -> ml_collections.ConfigDict:
    """The run's config.

    Raises:
      ValueError: it is missing, damaged, or of another version; names the file.
    """
    return saved.get_config(str(self.path / CONFIG))

  def own_config(self) -> ml_collections.ConfigDict:
    """The run's config with the task that the folder holds.

    The scans' folder, with the task's first file, may be gone.
    """
    config = self.config()
    if (self.path / TASK).exists():
      config.task = str(self.path / TASK)
    return config

  def network(self, modality: str, joint: bool) -> pathlib.Path:
    """The folder of the network that takes a modality.

    Args:
      modality: its name.
      joint: whether one network takes all modalities.
    """
    return self.path if joint else self.path / modality
