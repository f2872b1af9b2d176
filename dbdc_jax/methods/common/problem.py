"""What a config asks for: its names resolved once, then handed on."""

from collections.abc import Sequence
import dataclasses
import functools

import ml_collections
import numpy as np

from data import task_file
from data.task import Modality, Task
from data.task import names as task_names


@dataclasses.dataclass(frozen=True)
class Problem:
  """A segmentation problem.

  Attributes:
    config: the whole config; nothing of it changes any more.
    task: that `config.task` names.
    modalities: that `config.modalities` chooses, in bank order.
  """

  config: ml_collections.FrozenConfigDict
  task: Task
  modalities: tuple[Modality, ...]

  @property
  def names(self) -> tuple[str, ...]:
    """The modalities' names."""
    return task_names(self.modalities)

  @property
  def classes(self) -> tuple[str, ...]:
    """Names, background first."""
    return self.task.classes

  @functools.cached_property
  def labelable(self) -> np.ndarray:
    """`[K, C]` bool, see `Task.labelable`."""
    return self.task.labelable(self.modalities)

  def of(self, names: Sequence[str]) -> 'Problem':
    """The same in other modalities of the task, named in bank order."""
    # From a dict: a config made from a frozen one shares its groups.
    config = ml_collections.ConfigDict(self.config.to_dict())
    config.modalities = ','.join(names)
    return resolve(config)

  def networks(self, joint: bool) -> tuple['Problem', ...]:
    """What each network of a run solves: all of it, or a modality each."""
    parts = [self.names] if joint else [(name,) for name in self.names]
    return tuple(map(self.of, parts))


def resolve(config: ml_collections.ConfigDict) -> Problem:
  """Looks up what a config names.

  Raises:
    ValueError: an unknown task or modality.
  """
  task = task_file.find(config.task)
  modalities = task.select(config.modalities)
  return Problem(ml_collections.FrozenConfigDict(config), task, modalities)
