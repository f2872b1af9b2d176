"""A finished run, opened again: results, log, data, and its networks."""

from collections.abc import Collection, Iterator
import dataclasses
import functools
import json
import pathlib
from typing import Any

import ml_collections
import numpy as np

from configs import saved
from data import split as splits
from data import task_file
from data.cache.prepared import Prepared, PreparedCase
from data.split import Split
from dbdc_jax import methods
from dbdc_jax.runtime import parallel
from dbdc_jax.training import scans
from dbdc_jax.workdir import checkpoint, export_folder, run_record
from dbdc_jax.workdir.metric_writer import read_rows
from dbdc_jax.workdir.train_state import state_shapes

# What is read of a run's files.
_RESULTS = ('run', 'classes', 'modalities', 'mean', 'cases')
_RECORD = ('commit', 'data', 'skipped_scans')
_AGAIN = (
  'bring the file back, or test the run again with --config.eval_only=true'
)


@dataclasses.dataclass(frozen=True)
class Network:
  """One network of a run.

  Attributes:
    folder: its checkpoints and log.
    config: of the run, with this network's modalities and the run's own task.
    modalities: names, in bank order.
    facts: of `results.json`: parameters, best step, seconds.
  """

  folder: pathlib.Path
  config: ml_collections.ConfigDict
  modalities: tuple[str, ...]
  facts: dict[str, Any]

  @functools.cached_property
  def method(self) -> methods.Method:
    """Its method; the same object each time, which jit remembers."""
    return methods.build(self.config)

  @functools.cached_property
  def labelable(self) -> np.ndarray:
    """`[K, C]` bool of its modalities, see `Task.labelable`."""
    task = task_file.find(self.config.task)
    return task.labelable(task.select(self.config.modalities))

  @functools.cached_property
  def rows(self) -> list[dict[str, Any]]:
    """Its epochs."""
    return [row for row in read_rows(self.folder) if row['kind'] == 'epoch']

  def steps(self) -> list[int]:
    """Steps of the checkpoints that are kept."""
    return checkpoint.steps(self.folder)

  def state(self, step: int) -> tuple[Any, Any]:
    """Parameters and memory after a step.

    Raises:
      ValueError: the checkpoint is damaged, or not of this config.
    """
    like = state_shapes(
      self.method,
      self.method.recipe.tx,
      self.config,
      self.labelable.shape[1],
      len(self.modalities),
    )
    with checkpoint.Checkpoints(self.folder, read_only=True) as store:
      found = store.at(step, like)
    return parallel.place((found.params, found.memory))


@dataclasses.dataclass(frozen=True)
class Run:
  """A workdir with results.

  Attributes:
    workdir: the folder.
    config: as it was trained.
    results: contents of `results.json`.
    record: contents of `run.json`.
  """

  workdir: pathlib.Path
  config: ml_collections.ConfigDict
  results: dict[str, Any]
  record: dict[str, Any]

  @property
  def classes(self) -> tuple[str, ...]:
    """Names, background first."""
    return tuple(self.results['classes'])

  @property
  def modalities(self) -> tuple[str, ...]:
    """Names of those that were tested, in bank order."""
    return tuple(self.results['modalities'])

  @property
  def trained(self) -> tuple[str, ...]:
    """Names of those that a network has learnt, tested or not."""
    return tuple(name for n in self.networks for name in n.modalities)

  @functools.cached_property
  def networks(self) -> tuple[Network, ...]:
    """One, or one for each modality."""
    parts = self.results['run']['networks']
    config = self.config.copy_and_resolve_references()
    # The scans' folder, with the task's first file, may be gone.
    own = self.workdir / run_record.TASK
    config.task = str(own) if own.exists() else config.task
    joint = methods.traits(config).joint
    return tuple(self._networks(parts, config, joint))

  def _networks(self, parts, config, joint) -> Iterator[Network]:
    for names, facts in parts.items():
      own = config.copy_and_resolve_references()
      own.modalities = names
      modalities = tuple(names.split(','))
      folder = self.workdir if joint else self.workdir / modalities[0]
      yield Network(folder, own, modalities, facts)

  def data(self) -> tuple[Prepared, Split]:
    """The scans that it was trained on, prepared again if need be.

    Raises:
      ValueError: they are not there any more, or others are.
      data.preparation.BadScans: they cannot be used any more.
      OSError: they cannot be read.
    """
    task = pathlib.Path(self.config.task)
    if task.suffix == '.json' and not task.exists():
      raise ValueError(f'{task} is gone: bring the folder of the scans back')
    prepared = scans.load(self.config)
    run_record.check_data(self.workdir, prepared.fingerprint)
    transfer = methods.traits(self.config).transfer
    bare = (transfer.target,) if transfer else ()
    split = splits.load(str(self.workdir / 'split.json'), prepared.cases, bare)
    return prepared, split

  def cases(
    self, prepared: Prepared, split: Split, network: Network, part: str
  ) -> list[list[PreparedCase]]:
    """Scans of a part of the split, for each of a network's modalities."""
    return scans.select(prepared, split, network.modalities, part)


def _read(path: pathlib.Path, keys: Collection[str]) -> dict[str, Any]:
  """A JSON file of a run, which must hold some keys."""
  try:
    found = json.loads(path.read_text())
  except (FileNotFoundError, NotADirectoryError) as error:
    raise ValueError(_missing(path)) from error
  except (OSError, ValueError) as error:
    raise ValueError(f'{path}: not readable ({error}): {_AGAIN}') from error
  if not isinstance(found, dict) or not found.keys() >= set(keys):
    raise ValueError(f'{path}: not what a run writes: {_AGAIN}')
  return found


def _missing(path: pathlib.Path) -> str:
  """Why a folder without one of a run's files gives no report."""
  folder = path.parent
  if not folder.exists():
    return f'{folder}: no such folder: give the workdir of a finished run'
  if not folder.is_dir():
    return f'{folder}: a file: give the workdir of a finished run'
  if (folder / export_folder.MODEL).exists():
    return f'{folder}: an export: a report needs the run that it is of'
  if (folder / 'config.json').exists() and not (
    folder / 'results.json'
  ).exists():
    return (
      f'{folder}: the run has no results yet: the command that started it'
      ' goes on, and tests the network at the end'
    )
  return (
    f'{path}: missing, so {folder} is no finished run: give the workdir of one'
  )


def read(workdir: str) -> Run:
  """Opens a run's folder; no scan is touched.

  Raises:
    ValueError: it holds no finished run; names the file.
  """
  folder = pathlib.Path(workdir).absolute()
  results = _read(folder / 'results.json', _RESULTS)
  record = _read(folder / 'run.json', _RECORD)
  config = saved.get_config(str(folder / 'config.json'))
  return Run(folder, config, results, record)
