"""Largest components, kept where a run's validation scans gain by it.

A network's islands are far from the organ: they cost little DSC and much HD95.
As nnU-Net (Isensee et al. 2021, "empirical parameters") does, the validation
scans decide of each class whether its largest component alone is kept. What is
removed becomes background; no other class changes, so that classes are decided
one by one.
"""

from collections.abc import Collection, Mapping, Sequence
import fractions
from typing import Any

import numpy as np
from scipy import ndimage

from dbdc_jax.evaluation import metrics

# Whether a run's scores have them, `evaluation.components`.
NONE, VALIDATION = 'none', 'validation'
WAYS = (NONE, VALIDATION)

# Class -> scans, both DSC, and whether its largest component alone is kept.
Choice = dict[str, dict[str, Any]]
# Of a scan and class: voxels of the prediction and of the reference, and of
# both at once.
_Voxels = tuple[int, int, int]
_NOTHING = (0, 0, 0)


def largest(classes: np.ndarray, kept: Collection[int]) -> np.ndarray:
  """Keeps the largest connected component (6 neighbours) of some classes.

  Of several that are equally large, the first in memory order stays.

  Args:
    classes: `[S, h, w]` uint8.
    kept: the classes' indices; all other voxels stay as they are.
  """
  out = classes.copy()
  boxes = ndimage.find_objects(classes, max_label=max(kept, default=1))
  for index in kept:
    box = boxes[index - 1]
    if box is None:
      continue
    parts, count = ndimage.label(classes[box] == index)
    if count > 1:
      first = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
      out[box][(parts > 0) & (parts != first)] = 0
  return out


def _voxels(
  prediction: np.ndarray, reference: np.ndarray, num_classes: int
) -> list[_Voxels]:
  joint = metrics.joint_histogram(prediction, reference, num_classes)
  sizes = joint.sum(0), joint.sum(1), np.diag(joint)
  return [(int(p), int(r), int(b)) for p, r, b in zip(*sizes, strict=True)]


def _decided(
  before: Sequence[_Voxels], after: Sequence[_Voxels]
) -> dict[str, Any]:
  """A class's entry of a `Choice`, from each scan's voxels both ways."""
  # Removing islands leaves no mask empty: both ways have the same scans.
  dice, other = (
    [fractions.Fraction(2 * both, p + r) for p, r, both in way if p + r]
    for way in (before, after)
  )
  scans = len(dice)
  # Exact: equal means are a tie, whatever floats say.
  gain = sum(other, fractions.Fraction()) - sum(dice, fractions.Fraction())
  mean = lambda values: float(100 * sum(values) / scans) if scans else None
  return {
    'scans': scans,
    'dice': mean(dice),
    'dice_of_largest': mean(other),
    'keep_largest': gain > 0,
  }


class Chooser:
  """Decides for one modality.

  Args of the constructor:
    classes: names, background first.
    labelled: indices of those that the modality's labels contain; the others
      have no reference, and are never decided.
  """

  def __init__(self, classes: Sequence[str], labelled: Collection[int]):
    self._classes = classes
    self._labelled = sorted({*labelled} - {0})
    self._scans: list[tuple[list[_Voxels], list[_Voxels]]] = []

  def add(
    self,
    prediction: np.ndarray,
    reference: np.ndarray,
    drawn: Collection[int],
  ) -> None:
    """Takes a validation scan in.

    Args:
      prediction: `[S, h, w]` classes, on the scan's own grid.
      reference: the same.
      drawn: the classes that it was drawn for.
    """
    ways = prediction, largest(prediction, self._labelled)
    count = len(self._classes)
    before, after = (
      [
        found if index in drawn else _NOTHING
        for index, found in enumerate(_voxels(way, reference, count))
      ]
      for way in ways
    )
    self._scans.append((before, after))

  def choice(self) -> Choice:
    """What the scans say.

    Returns:
      Of each class `scans` (those with a DSC), `dice` and `dice_of_largest`
      (percent, means over them; None without any) and `keep_largest`: whether
      the second is higher. A tie keeps the output as it is.
    """
    out = {}
    for index in self._labelled:
      before, after = (
        [scan[way][index] for scan in self._scans] for way in (0, 1)
      )
      out[self._classes[index]] = _decided(before, after)
    return out


def kept(
  choice: Mapping[str, Mapping[str, Any]], classes: Sequence[str]
) -> list[int]:
  """Indices of the classes whose largest component alone a choice keeps."""
  return [
    index
    for index, name in enumerate(classes)
    if choice.get(name, {}).get('keep_largest')
  ]
