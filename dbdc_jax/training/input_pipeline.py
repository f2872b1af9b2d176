"""Prepared slices to the batch of a step.

A batch is a pure function of (seed, step): there is nothing to checkpoint. The
labels of unlabelled scans are never touched.
"""

from collections.abc import Iterator, Sequence
import os
import pathlib
from typing import Any

import grain.python as grain
import ml_collections
import numpy as np

from data import phantom, prepare, task_file
from data import split as splits
from data.cache.prepared import Prepared, PreparedCase
from data.split import Split
from data.task import TASKS
from dbdc_jax.methods.common.transfer import Transfer
from dbdc_jax.training.samples import Samples

# Batches that are decoded at the same time, at most.
_THREADS = 8
# Epochs of each stream whose order is kept.
_ORDERS = 4


def load(config: ml_collections.ConfigDict) -> Prepared:
  """Prepares the run's scans; without folders of scans, the phantom's.

  Raises:
    prepare.BadScans: scans that cannot be used.
    ValueError: folders that are missing.
  """
  task = task_file.find(config.task)
  modalities = task.select(config.modalities)
  roots = {m.source: config.data[m.source] for m in modalities}
  missing = [source for source, root in roots.items() if not root]
  if len(missing) == len(roots) and config.task in TASKS:
    roots = _phantom(config)
    unknown = [source for source in missing if source not in roots]
    if unknown:
      raise ValueError(
        f'the phantom has no {", ".join(unknown)}: give scans=DIR, or choose'
        ' other --config.modalities'
      )
  elif missing:
    raise ValueError(
      f'no folder for {", ".join(missing)}: give scans=DIR, or'
      f' {missing[0]}=DIR behind the config, or choose other'
      ' --config.modalities'
    )
  return prepare.prepare(
    task,
    modalities,
    roots,
    slice_size=config.data.slice_size,
    roi=config.data.roi,
    cache=config.data.cache,
    skip_bad=config.data.skip_bad,
    include_unlabeled=config.data.extra_unlabeled,
  )


def choose_split(
  config: ml_collections.ConfigDict,
  prepared: Prepared,
  workdir: pathlib.Path,
  resume: bool,
  transfer: Transfer | None = None,
) -> Split:
  """Decides (or reads) who is where, and saves it as `split.json`.

  A run that is resumed keeps its split; else it comes from `data.split`, or is
  made.

  Args:
    config: the run's config.
    prepared: the prepared data.
    workdir: the run's folder.
    resume: whether the workdir holds a checkpoint.
    transfer: the direction of a method that has one: what it makes of the
      split is what is saved.

  Raises:
    ValueError: a split that does not fit the scans or the run.
  """
  saved = workdir / 'split.json'
  bare = (transfer.target,) if transfer else ()
  adapt = transfer.split if transfer else lambda split: split
  split = None
  if config.data.split:
    split = adapt(splits.load(config.data.split, prepared.cases, bare))
  if resume:
    kept = splits.load(str(saved), prepared.cases, bare)
    if split is not None and split != kept:
      raise ValueError(
        f'{config.data.split} differs from {saved}, which this run was started'
        ' with: choose another --workdir'
      )
    split = kept
  if split is None:
    made = splits.make(
      prepared.cases,
      seed=config.data.split_seed,
      fold=config.data.fold,
      labeled_fraction=config.labeled_fraction,
      partly_labeled=_partly_labeled(config, prepared),
    )
    split = adapt(made)
  splits.check(split, prepared.cases)
  splits.save(split, str(saved))
  return split


def _partly_labeled(
  config: ml_collections.ConfigDict, prepared: Prepared
) -> set[str]:
  """Modalities of own scans of which some carry no label.

  Of the archives, those without are the organisers' own test scans.
  """
  task = task_file.find(config.task)
  own = {m.name for m in task.modalities if m.source == 'folder'}
  return {c.modality for c in prepared.cases if not c.labeled} & own


def _phantom(config: ml_collections.ConfigDict) -> dict[str, str]:
  """Writes the phantom into the cache (once) and returns its folders."""
  settings = config.phantom
  name = f'phantom{phantom.VERSION}-{config.task}-{settings.size}'
  name += f'-{settings.subjects}-{settings.seed}'
  folder = prepare.cache_folder(config.data.cache) / name
  return phantom.write(
    config.task,
    str(folder),
    subjects=settings.subjects,
    seed=settings.seed,
    size=settings.size,
  )


def select(
  prepared: Prepared, split: Split, modalities: Sequence[str], part: str
) -> list[list[PreparedCase]]:
  """The cases of one part of the split, per modality."""
  by_name = {case.name: case for case in prepared.cases}
  return [[by_name[name] for name in split[m][part]] for m in modalities]


def present_classes(
  prepared: Prepared,
  split: Split,
  modalities: Sequence[str],
  num_classes: int,
) -> np.ndarray:
  """`[K, C]` bool: classes in each modality's labelled training scans.

  Labels of other training scans are not looked at.
  """
  present = np.zeros((len(modalities), num_classes), bool)
  groups = select(prepared, split, modalities, 'labeled')
  for row, cases in zip(present, groups, strict=True):
    for case in cases:
      row[np.unique(prepared.labels(case))] = True
  return present


def steps_per_epoch(
  prepared: Prepared, split: Split, modalities: Sequence[str], batch_size: int
) -> int:
  """Steps until the largest modality's unlabelled slices were all seen.

  A modality without unlabelled scans counts its labelled ones; shorter sets
  repeat. The same for every method, so that all train equally long.
  """
  parts = (
    select(prepared, split, modalities, part)
    for part in ('unlabeled', 'labeled')
  )
  slices = [
    sum(case.num_slices for case in (unlabeled or labeled))
    for unlabeled, labeled in zip(*parts, strict=True)
  ]
  return -(-max(slices) // batch_size)


class Batches:
  """The batches of a run, or one process's samples of them.

  Args of the constructor:
    prepared: the prepared data.
    split: who is where.
    modalities: names, in bank order.
    batch_size: samples of each modality in the global batch.
    own: those of them that are loaded here.
    seed: of the order of the slices.
    memory_limit_gib: slices beyond it are decoded each time.
    use_unlabeled: whether unlabelled slices are wanted.
    depth: whole scans of so many slices each are the samples; None: slices are.

  Attributes:
    consistent: `[K]` bool, modalities that have unlabelled scans.
    samples: what a batch's rows stand for.
  """

  def __init__(
    self,
    prepared: Prepared,
    split: Split,
    modalities: Sequence[str],
    *,
    batch_size: int,
    own: range,
    seed: int,
    memory_limit_gib: float,
    use_unlabeled: bool,
    depth: int | None = None,
  ):
    labeled = select(prepared, split, modalities, 'labeled')
    unlabeled = select(prepared, split, modalities, 'unlabeled')
    self.consistent = np.array([bool(cases) for cases in unlabeled])
    self._batch_size, self._own, self._seed = batch_size, own, seed
    # A modality without labelled scans (the target of a transfer) fills its
    # part of the batch with images whose label is background, which its method
    # leaves alone.
    self._bare = np.array([not cases for cases in labeled])
    groups = {
      'labeled': [x or u for u, x in zip(unlabeled, labeled, strict=True)]
    }
    if use_unlabeled and self.consistent.any():
      # One without unlabelled scans does so with its labelled images;
      # `consistent` keeps them out of every loss.
      groups['unlabeled'] = [
        u or x for u, x in zip(unlabeled, labeled, strict=True)
      ]
    else:
      self.consistent[:] = False
    with_label = [case for cases in labeled for case in cases]
    named = {case.name for case in with_label}
    others = {
      case.name: case
      for group in groups.values()
      for cases in group
      for case in cases
      if case.name not in named
    }
    self.samples = Samples(
      prepared,
      with_label,
      list(others.values()),
      depth=depth,
      limit=memory_limit_gib * 2**30,
    )
    self._rows = {
      kind: [self.samples.rows(cases) for cases in group]
      for kind, group in groups.items()
    }
    self._orders: dict[tuple[str, int], dict[int, np.ndarray]] = {}

  def _order(self, kind: str, k: int, epoch: int) -> np.ndarray:
    """A stream's rows in the order of an epoch; another stream's is another.

    A generator's raw bits, unlike its distributions, are the same in every
    version of NumPy.
    """
    known = self._orders.get((kind, k), {})
    if epoch not in known:
      rows = self._rows[kind][k]
      key = [self._seed, int(kind == 'unlabeled'), k, epoch]
      bits = np.random.Philox(np.random.SeedSequence(key)).random_raw(len(rows))
      order = rows[np.argsort(bits, kind='stable')]
      # A batch may reach into the next epoch, threads may be ahead by some.
      latest = sorted(known)[1 - _ORDERS :]
      known = {**{e: known[e] for e in latest}, epoch: order}
      self._orders[kind, k] = known
    return known[epoch]

  def rows(self, step: int) -> dict[str, dict[str, np.ndarray]]:
    """The batch of a step as rows of `samples`: `[K, samples]` int32 arrays.

    `index` is the sample's index in the global batch, which keys its random
    draws. Unlabelled samples have no label.
    """
    at = step * self._batch_size + np.array(self._own)
    first = self._batch_size * np.arange(len(self._bare))[:, None]
    index = (first + np.array(self._own)).astype(np.int32)
    out = {}
    for kind, streams in self._rows.items():
      images = np.stack([self._taken(kind, k, at) for k in range(len(streams))])
      out[kind] = {'image': images, 'index': index}
      if kind == 'labeled':
        label = np.where(self._bare[:, None], 0, images + 1)
        out[kind]['label'] = label.astype(np.int32)
    return out

  def _taken(self, kind: str, k: int, at: np.ndarray) -> np.ndarray:
    """The rows at some positions of a stream that never ends."""
    epochs, places = np.divmod(at, len(self._rows[kind][k]))
    taken = np.empty(len(at), np.int32)
    for epoch in range(epochs[0], epochs[-1] + 1):
      now = epochs == epoch
      taken[now] = self._order(kind, k, epoch)[places[now]]
    return taken

  def batch(self, step: int) -> dict[str, Any]:
    """The batch of a step: dict of dicts of `[K, samples, ...]` arrays.

    `batch['labeled']` has `image` uint16, `label` uint8 and `index` int32;
    `batch['unlabeled']`, if there is any, has no label.
    """
    load = {'image': self.samples.images, 'label': self.samples.labels}
    return {
      kind: {
        name: load[name](rows) if name in load else rows
        for name, rows in group.items()
      }
      for kind, group in self.rows(step).items()
    }

  def iterate(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
    """Batches `start` to `stop - 1`; what is decoded is decoded ahead."""
    if self.samples.complete:
      yield from map(self.batch, range(start, stop))
    elif start < stop:
      threads = min(os.cpu_count() or 1, _THREADS)
      steps = grain.MapDataset.range(start, stop).map(self.batch)
      options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=2 * threads
      )
      yield from steps.to_iter_dataset(options)
