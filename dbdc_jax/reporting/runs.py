"""A finished run, opened again: results, log, data, and its networks."""

from collections.abc import Iterator
import dataclasses
import functools
import json
import pathlib
from typing import Any

import ml_collections

from configs import saved
from data import split as splits
from data.prepared import Prepared, PreparedCase
from data.split import Split
from data.task import TASKS
from dbdc_jax import (
  checkpoint,
  input_pipeline,
  methods,
  parallel,
  run_record,
)
from dbdc_jax.metric_writer import read_rows
from dbdc_jax.step import state_shapes


@dataclasses.dataclass(frozen=True)
class Network:
  """One network of a run.

  Attributes:
    folder: its checkpoints and log.
    config: of the run, with this network's modalities.
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
      self.method.tx,
      self.config,
      len(TASKS[self.config.task].classes),
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

  @functools.cached_property
  def networks(self) -> tuple[Network, ...]:
    """One, or one for each modality."""
    parts = self.results['run']['networks']
    joint = methods.build(self.config).joint
    return tuple(self._networks(parts, joint))

  def _networks(self, parts, joint) -> Iterator[Network]:
    for names, facts in parts.items():
      config = self.config.copy_and_resolve_references()
      config.modalities = names
      modalities = tuple(names.split(','))
      folder = self.workdir if joint else self.workdir / modalities[0]
      yield Network(folder, config, modalities, facts)

  def data(self) -> tuple[Prepared, Split]:
    """The scans that it was trained on, prepared again if need be.

    Raises:
      ValueError: they are not there any more, or others are.
      data.prepare.BadScans: they cannot be used any more.
      OSError: they cannot be read.
    """
    prepared = input_pipeline.load(self.config)
    run_record.check_data(self.workdir, prepared.fingerprint)
    transfer = methods.build(self.config).transfer
    bare = (transfer.target,) if transfer else ()
    split = splits.load(str(self.workdir / 'split.json'), prepared.cases, bare)
    return prepared, split

  def cases(
    self, prepared: Prepared, split: Split, network: Network, part: str
  ) -> list[list[PreparedCase]]:
    """Scans of a part of the split, for each of a network's modalities."""
    return input_pipeline.select(prepared, split, network.modalities, part)


def _read(path: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise ValueError(
      f'{path}: not readable ({error}): a report needs the folder of a finished'
      ' run'
    ) from error


def read(workdir: str) -> Run:
  """Opens a run's folder; no scan is touched.

  Raises:
    ValueError: it holds no finished run; names the file.
  """
  folder = pathlib.Path(workdir).absolute()
  results = _read(folder / 'results.json')
  record = _read(folder / 'run.json')
  config = saved.get_config(str(folder / 'config.json'))
  return Run(folder, config, results, record)
