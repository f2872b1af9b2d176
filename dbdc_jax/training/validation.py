"""The validation scans' DSC, which chooses a run's checkpoint.

It is taken on the prepared grid, from windows side by side; the test's overlap
by half, and its scores are of the scan's own grid.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from data.cache.prepared import Prepared, PreparedCase
from dbdc_jax.evaluation import metrics, scoring
from dbdc_jax.inference.prepared_cases import Scans, Slices
from dbdc_jax.runtime import parallel


class Validation:
  """The validation scans of a run, decoded once where they fit.

  Each process does its share of them.

  Args of the constructor:
    prepared: the prepared data.
    cases: per modality, in bank order.
    limit: bytes of decoded slices; beyond it they are decoded each time.
  """

  def __init__(
    self,
    prepared: Prepared,
    cases: Sequence[Sequence[PreparedCase]],
    limit: float,
  ):
    self._prepared = prepared
    self._groups = len(cases)
    self._cases = [(k, case) for k, group in enumerate(cases) for case in group]
    self._mine = list(parallel.own_items(len(self._cases)))
    # Image and label of each pixel.
    size = sum(
      3 * case.num_slices * case.geometry['slice_size'] ** 2
      for _, case in map(self._cases.__getitem__, self._mine)
    )
    room = parallel.room()
    self._together = size <= limit and (room is None or size <= room)
    self._kept: Slices | None = None

  def _slices(self) -> Iterator[Slices]:
    """All slices at once, decoded once; or scan by scan, each time."""
    if not self._mine:
      return
    if not self._together:
      yield from (self._decoded([i]) for i in self._mine)
      return
    if self._kept is None:
      self._kept = self._decoded(self._mine)
    yield self._kept

  def _decoded(self, indices: Sequence[int]) -> Slices:
    found = [self._cases[i] for i in indices]
    return Slices(
      np.concatenate([self._prepared.images(case) for _, case in found]),
      np.concatenate([self._prepared.labels(case) for _, case in found]),
      [case.num_slices for _, case in found],
      [k for k, _ in found],
    )

  def dice(self, scans: Scans) -> np.ndarray:
    """Mean foreground DSC of each modality's scans.

    Args:
      scans: segments them.

    Returns:
      `[K]` in [0, 1]: per scan the mean over the classes that were drawn and
      occur in it or in its prediction, on the prepared grid; then the mean over
      scans.
    """
    joints = (
      joint
      for slices in self._slices()
      for joint in scans.joint_histograms(slices)
    )
    labelable = scans.problem.labelable
    mine = {}
    for index, joint in zip(self._mine, joints, strict=True):
      modality, case = self._cases[index]
      drawn = case.drawn_for(labelable[modality])
      dice = np.where(drawn, metrics.dice_of(joint), np.nan)
      mine[index] = scoring.mean(dice[1:])
    found = {
      int(i): dice
      for share in parallel.gather(mine)
      for i, dice in share.items()
    }
    scores: list[list[float | None]] = [[] for _ in range(self._groups)]
    # In the cases' order, whoever segmented them.
    for index, (modality, _) in enumerate(self._cases):
      scores[modality].append(found[index])
    return np.array([scoring.mean(group) or 0.0 for group in scores])
