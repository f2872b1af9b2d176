"""Prepared slices to the batch of a step.

A batch is a pure function of (seed, step): there is nothing to checkpoint. The
labels of unlabelled scans are never touched.
"""

from collections.abc import Iterator, Sequence
import itertools
import os
from typing import Any

import grain.python as grain
import numpy as np

from data.cache.prepared import Prepared
from data.split import Split
from dbdc_jax.training import scans
from dbdc_jax.training.samples import Samples

# Batches that are decoded at the same time, at most.
_THREADS = 8
# Epochs of each stream whose order is kept.
_ORDERS = 4


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
    labelable: `[K, C]` bool, see `Task.labelable`; wanted where label maps were
      not drawn for everything.

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
    labelable: np.ndarray | None = None,
  ):
    labeled = scans.select(prepared, split, modalities, 'labeled')
    unlabeled = scans.select(prepared, split, modalities, 'unlabeled')
    self._batch_size, self._own, self._seed = batch_size, own, seed
    # A modality without labelled scans (the target of a transfer) fills its
    # part of the batch with images whose label is background, which its method
    # leaves alone.
    chain = itertools.chain.from_iterable
    with_label = list(chain(labeled))
    bare = [u for u, x in zip(unlabeled, labeled, strict=True) if not x]
    self.samples = Samples(
      prepared,
      with_label,
      list(chain(unlabeled if use_unlabeled else bare)),
      depth=depth,
      limit=memory_limit_gib * 2**30,
    )
    if labelable is None:
      if any(case.partly_drawn for case in with_label):
        raise ValueError('label maps are partial: say what they can contain')
      labelable = np.ones((len(labeled), 1), bool)
    masks = dict(zip(modalities, labelable, strict=True))
    rows, pairs = self.samples.rows, list(zip(unlabeled, labeled, strict=True))
    self._rows = {
      'labeled': [
        rows(x, lambda case: case.drawn_slices) if x else rows(u)
        for u, x in pairs
      ]
    }
    self.consistent = np.zeros(len(pairs), bool)
    if use_unlabeled:
      # Labelled scans teach by what their labels leave open, too.
      left = lambda case: case.open_slices(masks[case.modality])
      without = [np.concatenate([rows(u), rows(x, left)]) for u, x in pairs]
      self.consistent = np.array([len(found) > 0 for found in without])
      if self.consistent.any():
        # A modality without any takes its labelled images; `consistent` keeps
        # them out of every loss.
        self._rows['unlabeled'] = [
          found if len(found) else rows(x)
          for found, (_, x) in zip(without, pairs, strict=True)
        ]
    self._drawn: np.ndarray | None = None
    if any(case.partly_drawn for case in with_label):
      self._drawn = self.samples.drawn_for(
        with_label, np.stack([masks[case.modality] for case in with_label])
      )
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
    draws.
    """
    at = step * self._batch_size + np.array(self._own)
    first = self._batch_size * np.arange(len(self.consistent))[:, None]
    index = (first + np.array(self._own)).astype(np.int32)
    out = {}
    for kind, streams in self._rows.items():
      images = np.stack([self._taken(kind, k, at) for k in range(len(streams))])
      out[kind] = {'image': images, 'index': index}
      if kind == 'labeled' or self._drawn is not None:
        with_label = images < self.samples.num_labeled
        label = np.where(with_label, images + 1, 0)
        out[kind]['label'] = label.astype(np.int32)
      if self._drawn is not None:
        out[kind]['drawn'] = self._drawn[images]
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

    `batch['labeled']` has `image` uint16, `label` uint8 and `index` int32, and
    where label maps leave anything open `drawn` `[K, samples, C]` bool, see
    `ops/partial_labels.py`; `batch['unlabeled']`, if there is any, has `label`
    and `drawn` only there.
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
