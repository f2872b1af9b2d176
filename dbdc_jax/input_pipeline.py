"""Prepared slices to the batch of a step.

A batch is a pure function of (seed, step): there is nothing to checkpoint. The
sources of unlabelled slices never touch a label.
"""

from collections.abc import Iterable, Iterator, Sequence
import itertools
import pathlib
from typing import Any

import grain.python as grain
import ml_collections
import numpy as np

from data import phantom, prepare
from data import split as splits
from data.prepared import Prepared, PreparedCase
from data.split import Split
from data.task import TASKS

_LABELED, _UNLABELED = 0, 1


def load(
  config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> tuple[Prepared, Split]:
  """Prepares the run's scans and decides (or reads) who is where.

  Without folders of real scans the phantom is written first. The split comes
  from `data.split`, else from the workdir's own `split.json`, else it is made
  and saved there.

  Raises:
    prepare.BadScans: scans that cannot be used.
    ValueError: a split that does not fit the scans.
  """
  task = TASKS[config.task]
  modalities = task.select(config.modalities)
  roots = {m.source: config.data[m.source] for m in modalities}
  missing = [source for source, root in roots.items() if not root]
  if len(missing) == len(roots):
    roots = _phantom(config)
  elif missing:
    raise ValueError(
      f'no folder for {", ".join(missing)}: give scans=DIR, or'
      f' {missing[0]}=DIR behind the config, or choose other'
      ' --config.modalities'
    )
  prepared = prepare.prepare(
    task,
    modalities,
    roots,
    slice_size=config.data.slice_size,
    roi=config.data.roi,
    cache=config.data.cache,
    skip_bad=config.data.skip_bad,
    include_unlabeled=config.data.extra_unlabeled,
  )
  saved = workdir / 'split.json'
  given = config.data.split or (str(saved) if saved.exists() else '')
  if given:
    split = splits.load(given, prepared.cases)
  else:
    split = splits.make(
      prepared.cases,
      seed=config.data.split_seed,
      fold=config.data.fold,
      labeled_fraction=config.labeled_fraction,
    )
  splits.check(split, prepared.cases)
  splits.save(split, str(saved))
  return prepared, split


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


class SliceSource:
  """Random access to the slices of some cases of one modality.

  Slices are decoded once and kept while the memory budget lasts; beyond it
  they are decoded each time they are asked for.
  """

  def __init__(
    self,
    prepared: Prepared,
    cases: Sequence[PreparedCase],
    *,
    with_labels: bool,
    keep: bool,
  ):
    self._prepared = prepared
    self._with_labels = with_labels
    self._where = [(c, i) for c in cases for i in range(c.num_slices)]
    self._images = self._labels = None
    if keep and self._where:
      self._images = np.concatenate([prepared.images(c) for c in cases])
      if with_labels:
        self._labels = np.concatenate([prepared.labels(c) for c in cases])

  def __len__(self) -> int:
    return len(self._where)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    index = int(index) % len(self._where)
    if self._images is not None:
      record = {'image': self._images[index]}
      if self._with_labels:
        record['label'] = self._labels[index]
      return record
    case, position = self._where[index]
    record = {'image': self._prepared.image(case, position)}
    if self._with_labels:
      record['label'] = self._prepared.label(case, position)
    return record


class Batches:
  """The batches of a run.

  Attributes:
    consistent: `[K]` bool, modalities that have unlabelled scans.
    steps_per_epoch: ceil(largest modality's unlabelled (without any:
      labelled) slices / batch size); shorter sets repeat.
  """

  def __init__(
    self,
    prepared: Prepared,
    split: Split,
    modalities: Sequence[str],
    *,
    batch_size: int,
    seed: int,
    memory_limit_gib: float,
    use_unlabeled: bool,
  ):
    labeled = select(prepared, split, modalities, 'labeled')
    unlabeled = select(prepared, split, modalities, 'unlabeled')
    # The same length for a method that leaves the unlabelled scans alone.
    slices = [
      sum(case.num_slices for case in (u or x))
      for u, x in zip(unlabeled, labeled, strict=True)
    ]
    self.steps_per_epoch = -(-max(slices) // batch_size)
    self.consistent = np.array([bool(cases) for cases in unlabeled])
    self.batch_size = batch_size
    use_unlabeled = use_unlabeled and bool(self.consistent.any())
    if not use_unlabeled:
      self.consistent[:] = False
      unlabeled = [[] for _ in modalities]
    # A modality without unlabelled scans fills its part of the batch with its
    # labelled images; `consistent` keeps them out of every loss.
    filled = [u or x for u, x in zip(unlabeled, labeled, strict=True)]
    needed = _bytes(itertools.chain(*labeled), 3)
    needed += _bytes(itertools.chain(*filled), 2) if use_unlabeled else 0
    self.in_memory = needed <= memory_limit_gib * 2**30
    keep = self.in_memory
    sources = {
      _LABELED: [
        SliceSource(prepared, cases, with_labels=True, keep=keep)
        for cases in labeled
      ]
    }
    if use_unlabeled:
      sources[_UNLABELED] = [
        SliceSource(prepared, cases, with_labels=False, keep=keep)
        for cases in filled
      ]
    self._datasets = {
      kind: [
        grain.MapDataset.source(source)
        .seed(_seed(seed, kind, k))
        .shuffle()
        .repeat()
        .batch(batch_size)
        for k, source in enumerate(group)
      ]
      for kind, group in sources.items()
    }

  def batch(self, step: int) -> dict[str, Any]:
    """The batch of a step: dict of dicts of `[K, B, ...]` arrays.

    `batch['labeled']` has `image` uint16, `label` uint8 and `index` int32 (the
    sample's index in the global batch, which keys its random draws);
    `batch['unlabeled']`, if there is any, has no label.
    """
    names = {_LABELED: 'labeled', _UNLABELED: 'unlabeled'}
    out = {}
    for kind, datasets in self._datasets.items():
      parts = [dataset[step] for dataset in datasets]
      stacked = {k: np.stack([p[k] for p in parts]) for k in parts[0]}
      count = len(parts) * self.batch_size
      index = np.arange(count, dtype=np.int32)
      stacked['index'] = index.reshape(len(parts), self.batch_size)
      out[names[kind]] = stacked
    return out

  def iterate(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
    """Batches `start` to `stop - 1`, loaded ahead of the step by threads."""
    if stop <= start:
      return
    steps = grain.MapDataset.range(start, stop).map(self.batch)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    yield from steps.to_iter_dataset(options)


def _seed(seed: int, kind: int, modality: int) -> int:
  """A seed of its own for each stream of slices."""
  sequence = np.random.SeedSequence([seed, kind, modality])
  return int(sequence.generate_state(1)[0]) % 2**31


def _bytes(cases: Iterable[PreparedCase], per_pixel: int) -> int:
  """Memory that the cases' slices take once decoded."""
  return sum(
    case.num_slices * case.geometry['slice_size'] ** 2 * per_pixel
    for case in cases
  )
