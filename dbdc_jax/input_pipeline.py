"""Prepared slices to the batch of a step.

A batch is a pure function of (seed, step): there is nothing to checkpoint. The
sources of unlabelled slices never touch a label.
"""

from collections.abc import Iterator, Sequence
import pathlib
from typing import Any

import grain.python as grain
import ml_collections
import numpy as np

from data import phantom, prepare, task_file
from data import split as splits
from data.prepared import Prepared, PreparedCase
from data.split import Split
from data.task import TASKS
from dbdc_jax.transfer import Transfer
from dbdc_jax.volume_source import VolumeSource

_LABELED, _UNLABELED = 0, 1


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


class SliceSource:
  """Random access to the slices of some cases of one modality.

  The slices of the cases in `kept` are decoded once; the others' each time
  they are asked for.
  """

  def __init__(
    self,
    prepared: Prepared,
    cases: Sequence[PreparedCase],
    *,
    with_labels: bool,
    kept: Sequence[PreparedCase],
    blank: bool = False,
  ):
    self._prepared = prepared
    # Labels of background only, instead of the scans' own.
    self._blank = blank
    self._with_labels = with_labels
    self._where = [(c, i) for c in cases for i in range(c.num_slices)]
    self._images = {c.name: prepared.images(c) for c in kept}
    self._labels = {}
    if with_labels and not blank:
      self._labels = {c.name: prepared.labels(c) for c in kept}

  def __len__(self) -> int:
    return len(self._where)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    case, position = self._where[int(index) % len(self._where)]
    kept = case.name in self._images
    if kept:
      record = {'image': self._images[case.name][position]}
    else:
      record = {'image': self._prepared.image(case, position)}
    if self._blank:
      record['label'] = np.zeros(record['image'].shape, np.uint8)
    elif self._with_labels and kept:
      record['label'] = self._labels[case.name][position]
    elif self._with_labels:
      record['label'] = self._prepared.label(case, position)
    return record


class Batches:
  """The batches of a run, or one process's samples of them.

  Args of the constructor:
    prepared: the prepared data.
    split: who is where.
    modalities: names, in bank order.
    batch_size: samples of each modality in the global batch.
    samples: those of them that are loaded here.
    seed: of the order of the slices.
    memory_limit_gib: slices beyond it are decoded each time.
    use_unlabeled: whether unlabelled slices are wanted.
    depth: whole scans of so many slices each are the samples; None: slices are.

  Attributes:
    consistent: `[K]` bool, modalities that have unlabelled scans.
    in_memory: cases whose slices are decoded once, per kind and modality.
  """

  def __init__(
    self,
    prepared: Prepared,
    split: Split,
    modalities: Sequence[str],
    *,
    batch_size: int,
    samples: range,
    seed: int,
    memory_limit_gib: float,
    use_unlabeled: bool,
    depth: int | None = None,
  ):
    labeled = select(prepared, split, modalities, 'labeled')
    unlabeled = select(prepared, split, modalities, 'unlabeled')
    self.consistent = np.array([bool(cases) for cases in unlabeled])
    self._batch_size, self._samples = batch_size, samples
    training = unlabeled
    use_unlabeled = use_unlabeled and bool(self.consistent.any())
    if not use_unlabeled:
      self.consistent[:] = False
      unlabeled = [[] for _ in modalities]
    # A modality without unlabelled scans fills its part of the batch with its
    # labelled images; `consistent` keeps them out of every loss.
    filled = [u or x for u, x in zip(unlabeled, labeled, strict=True)]
    # Likewise one without labelled scans (the target of a transfer): images
    # with labels of background only, which its method leaves alone.
    blank = [not cases for cases in labeled]
    groups = {
      _LABELED: [x or u for u, x in zip(training, labeled, strict=True)]
    }
    if use_unlabeled:
      groups[_UNLABELED] = filled
    self.in_memory = _within_memory(groups, memory_limit_gib * 2**30)
    sources = {
      kind: [
        _source(
          prepared,
          cases,
          kept,
          depth,
          kind == _LABELED,
          kind == _LABELED and bare,
        )
        for cases, kept, bare in zip(
          group, self.in_memory[kind], blank, strict=True
        )
      ]
      for kind, group in groups.items()
    }
    self._datasets = {
      kind: [
        grain.MapDataset.source(source)
        .seed(_seed(seed, kind, k))
        .shuffle()
        .repeat()
        for k, source in enumerate(group)
      ]
      for kind, group in sources.items()
    }

  def batch(self, step: int) -> dict[str, Any]:
    """The batch of a step: dict of dicts of `[K, samples, ...]` arrays.

    `batch['labeled']` has `image` uint16, `label` uint8 and `index` int32 (the
    sample's index in the global batch, which keys its random draws);
    `batch['unlabeled']`, if there is any, has no label.
    """
    names = {_LABELED: 'labeled', _UNLABELED: 'unlabeled'}
    size, mine = self._batch_size, np.array(self._samples)
    out = {}
    for kind, datasets in self._datasets.items():
      records = [
        [dataset[step * size + i] for i in self._samples]
        for dataset in datasets
      ]
      stacked = {
        name: np.stack([[r[name] for r in group] for group in records])
        for name in records[0][0]
      }
      first = size * np.arange(len(datasets))[:, None]
      stacked['index'] = (first + mine).astype(np.int32)
      out[names[kind]] = stacked
    return out

  def iterate(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
    """Batches `start` to `stop - 1`, loaded ahead of the step by threads."""
    if stop <= start:
      return
    steps = grain.MapDataset.range(start, stop).map(self.batch)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    yield from steps.to_iter_dataset(options)


def _source(prepared, cases, kept, depth, with_labels, blank):
  """Slices, or whole scans where a depth is given."""
  if depth is None:
    return SliceSource(
      prepared, cases, with_labels=with_labels, kept=kept, blank=blank
    )
  return VolumeSource(prepared, cases, with_labels=with_labels, depth=depth)


def _seed(seed: int, kind: int, modality: int) -> int:
  """A seed of its own for each stream of slices."""
  sequence = np.random.SeedSequence([seed, kind, modality])
  return int(sequence.generate_state(1)[0]) % 2**31


def _within_memory(
  groups: dict[int, list[list[PreparedCase]]], limit: float
) -> dict[int, list[list[PreparedCase]]]:
  """The cases that fit into `limit` bytes once decoded, grouped alike.

  Labelled cases come first: their slices are repeated most often.
  """
  kept = {kind: [[] for _ in group] for kind, group in groups.items()}
  for kind, group in groups.items():
    per_pixel = 3 if kind == _LABELED else 2  # Image and label, or image.
    for chosen, cases in zip(kept[kind], group, strict=True):
      for case in cases:
        side = case.geometry['slice_size']
        limit -= case.num_slices * side**2 * per_pixel
        if limit < 0:
          return kept
        chosen.append(case)
  return kept
