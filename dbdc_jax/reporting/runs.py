"""A finished run, opened again: results, log, data, and its networks."""

import dataclasses
import functools
import pathlib
from typing import Any, NamedTuple

import ml_collections

from data.cache.prepared import Prepared, PreparedCase
from data.split import Split
from dbdc_jax import methods
from dbdc_jax.inference import prepared_cases
from dbdc_jax.runtime import parallel
from dbdc_jax.training import scans
from dbdc_jax.workdir import checkpoint, export_folder, run_folder, run_record
from dbdc_jax.workdir.metric_writer import read_epochs
from dbdc_jax.workdir.run_folder import RunFolder
from dbdc_jax.workdir.train_state import state_shapes

# What is read of a run's files.
_RESULTS = ('run', 'classes', 'modalities', 'mean', 'cases')
_RECORD = ('commit', 'data', 'skipped_scans')
_REMEDY = (
  ': bring the file back, or test the run again with --config.eval_only=true'
)


@dataclasses.dataclass(frozen=True)
class FinishedNetwork:
  """One network of a run.

  Attributes:
    folder: its checkpoints and log.
    problem: that it solves, with the run's own task.
    facts: of `results.json`: parameters, best step, seconds.
  """

  folder: pathlib.Path
  problem: methods.Problem
  facts: dict[str, Any]

  @property
  def config(self) -> ml_collections.FrozenConfigDict:
    """Of the problem."""
    return self.problem.config

  @property
  def modalities(self) -> tuple[str, ...]:
    """Names, in bank order."""
    return self.problem.names

  @functools.cached_property
  def method(self) -> methods.Method:
    """Its method; the same object each time, which jit remembers."""
    return methods.build(self.config)

  @functools.cached_property
  def rows(self) -> list[dict[str, Any]]:
    """Its epochs."""
    return read_epochs(self.folder)

  def steps(self) -> list[int]:
    """Steps of the checkpoints that are kept."""
    return checkpoint.steps(self.folder)

  def state(self, step: int) -> tuple[Any, Any]:
    """Parameters and memory after a step.

    Raises:
      ValueError: the checkpoint is damaged, or not of this config.
    """
    like = state_shapes(self.method, self.problem)
    with checkpoint.Checkpoints(self.folder, read_only=True) as store:
      found = store.at(step, like)
    return parallel.place((found.params, found.memory))


@dataclasses.dataclass(frozen=True)
class FinishedRun:
  """A workdir with results.

  Attributes:
    files: its folder.
    config: as it was trained.
    results: contents of `results.json`.
    record: contents of `run.json`.
  """

  files: RunFolder
  config: ml_collections.ConfigDict
  results: dict[str, Any]
  record: dict[str, Any]

  @property
  def workdir(self) -> pathlib.Path:
    """The folder."""
    return self.files.path

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
  def networks(self) -> tuple[FinishedNetwork, ...]:
    """One, or one for each modality."""
    parts = self.results['run']['networks']
    problem = methods.resolve(self.files.own_config())
    joint = methods.traits(problem.config).joint
    return tuple(
      FinishedNetwork(self.files.network(names, joint), solved, facts)
      for names, facts in parts.items()
      for solved in [problem.of(names.split(','))]
    )

  def data(self) -> 'Data':
    """The scans that it was trained on, prepared again if need be.

    Raises:
      ValueError: they are not there any more, or others are.
      data.preparation.BadScans: they cannot be used any more.
      OSError: they cannot be read.
    """
    task = pathlib.Path(self.config.task)
    if task.suffix == '.json' and not task.exists():
      raise ValueError(f'{task} is gone: bring the folder of the scans back')
    prepared = scans.load(methods.resolve(self.config))
    run_record.check_data(self.workdir, prepared.fingerprint)
    transfer = methods.traits(self.config).transfer
    path = self.workdir / run_folder.SPLIT
    return Data(prepared, scans.load_split(path, prepared, transfer))


class Data(NamedTuple):
  """A run's scans, and who is where."""

  prepared: Prepared
  split: Split

  def cases(
    self, network: FinishedNetwork, part: str
  ) -> list[list[PreparedCase]]:
    """Scans of a part of the split, for each of a network's modalities."""
    return scans.select(self.prepared, self.split, network.modalities, part)

  def segmenter(
    self, network: FinishedNetwork, step: int
  ) -> prepared_cases.Scans:
    """Segments scans as a network does after a step.

    Raises:
      ValueError: see `FinishedNetwork.state`.
    """
    return prepared_cases.Scans(
      network.problem,
      network.method,
      *network.state(step),
      self.prepared,
      self.cases(network, 'labeled'),
    )


def _missing(path: pathlib.Path) -> str:
  """Why a folder without one of a run's files gives no report."""
  folder = path.parent
  if not folder.exists():
    return f'{folder}: no such folder: give the workdir of a finished run'
  if not folder.is_dir():
    return f'{folder}: a file: give the workdir of a finished run'
  if (folder / export_folder.MODEL).exists():
    return f'{folder}: an export: a report needs the run that it is of'
  if (folder / run_folder.CONFIG).exists() and path.name == run_folder.RESULTS:
    return (
      f'{folder}: the run has no results yet: the command that started it'
      ' goes on, and tests the network at the end'
    )
  return (
    f'{path}: missing, so {folder} is no finished run: give the workdir of one'
  )


def read(workdir: str) -> FinishedRun:
  """Opens a run's folder; no scan is touched.

  Raises:
    ValueError: it holds no finished run; names the file.
  """
  files = RunFolder(workdir, _REMEDY)
  for name in (run_folder.RESULTS, run_folder.RECORD):
    if not (files.path / name).exists():
      raise ValueError(_missing(files.path / name))
  results = files.read(run_folder.RESULTS, *_RESULTS)
  record = files.read(run_folder.RECORD, *_RECORD)
  return FinishedRun(files, files.config(), results, record)
