"""Batches as the step takes them, on its devices.

Samples that fit live once on every device that has memory of its own, and a
step is sent the rows that it takes; others are sent with each step.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from data.cache.prepared import Prepared
from data.split import Split
from dbdc_jax import methods
from dbdc_jax.runtime import parallel
from dbdc_jax.training.input_pipeline import Batches


def _look_up(tables, rows):
  """A batch of rows to the samples; what is no table stays as it is."""
  return {
    kind: {
      name: tables[name][value] if name in tables else value
      for name, value in group.items()
    }
    for kind, group in rows.items()
  }


class Feed:
  """A run's batches, shared out to the devices.

  Args of the constructor:
    batches: the batches.
    room: bytes of each device that samples may take; 0 for none.
  """

  def __init__(self, batches: Batches, room: float):
    self._batches = batches
    self._tables = None
    if batches.samples.complete and batches.samples.nbytes <= room:
      self._tables = parallel.share(batches.samples.release())
      self._look_up = parallel.pmap_lookup(_look_up)

  @property
  def consistent(self) -> np.ndarray:
    """`[K]` bool, modalities that have unlabelled scans."""
    return self._batches.consistent

  def iterate(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
    """The batches of steps `start` to `stop - 1`; see `parallel.shard`."""
    if self._tables is None:
      yield from map(parallel.shard, self._batches.iterate(start, stop))
      return
    for step in range(start, stop):
      rows = parallel.shard(self._batches.rows(step))
      yield self._look_up(self._tables, rows)


def batches(
  problem: methods.Problem,
  method: methods.Method,
  prepared: Prepared,
  split: Split,
) -> Batches:
  """This process's batches of a run.

  Args:
    problem: of the run, or of one of its networks.
    method: what they are for.
    prepared: the prepared data.
    split: who is where.
  """
  config, size = problem.config, method.recipe.batch_size
  return Batches(
    prepared,
    split,
    problem.names,
    batch_size=size,
    own=parallel.own_samples(size),
    seed=config.seed,
    memory_limit_gib=config.data.memory_limit_gib,
    use_unlabeled=method.traits.unlabeled,
    depth=method.traits.volumes or None,
    labelable=problem.labelable,
  )
