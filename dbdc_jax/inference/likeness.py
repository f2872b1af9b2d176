"""How usual a scan would be for a modality, judged by scans left out.

The numbers of `data/preprocessing/appearance.py` are taken as normally
distributed within a modality. Few scans say little of their spread and nothing
of how the numbers go together, so the covariance is a compromise with what is
supposed of every modality (`Feature.spread`). How far a scan of the modality
may be is not read off that model: each patient's scans are left out in turn,
their distance from the others is measured, and a scan that is not known is held
against those distances. Their logarithm is taken as normal, its spread as
uncertain (Student's t), so that few patients draw a wide bound.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from data.preprocessing import appearance

# What is supposed of the covariance counts as so many scans.
_SUPPOSED = 6
# Logarithm of a distance: its mean and spread, supposed, and the distances that
# either counts as.
_MEAN, _MEAN_COUNTS = 0.1, 3
_SPREAD, _SPREAD_COUNTS = 0.2, 8


class _Cloud(NamedTuple):
  """Where scans are: mean `[D]`, and inverse and roots of the covariance."""

  middle: np.ndarray
  precision: np.ndarray
  spread: np.ndarray


def _cloud(looks: np.ndarray) -> _Cloud:
  count = len(looks)
  supposed = np.diag(np.square([f.spread for f in appearance.FEATURES]))
  middle = looks.mean(0)
  scatter = (looks - middle).T @ (looks - middle) + _SUPPOSED * supposed
  # A scan is off by its own deviation, and the mean by its.
  covariance = scatter / (count - 1 + _SUPPOSED) * (1 + 1 / count)
  return _Cloud(middle, np.linalg.inv(covariance), np.sqrt(np.diag(covariance)))


def _distance(cloud: _Cloud, look: np.ndarray) -> float:
  """About 1 for a scan like those of the cloud.

  The geometric mean of two: that of the normal distribution, in which many
  numbers may be a little off in ways that do not go together, and the numbers'
  own to the power of 4, in which one that is far off counts.
  """
  off = look - cloud.middle
  together = np.sqrt(off @ cloud.precision @ off / len(off))
  single = np.mean((off / cloud.spread) ** 4) ** 0.25
  return float(np.sqrt(together * single))


class Likeness:
  """What scans of one modality look like.

  Attributes:
    distances: of each scan from those of the other patients; empty where all
      are of one.
  """

  def __init__(self, looks: Sequence[Sequence[float]], patients: Sequence[int]):
    """Learns from scans.

    Args:
      looks: of each scan what `appearance.describe` says, at least one.
      patients: of each scan a number that is equal for scans of a person.
    """
    known, people = np.array(looks, float), np.array(patients)
    self._cloud = _cloud(known)
    self.distances = np.array(
      [
        _distance(_cloud(known[people != who]), look)
        for look, who in zip(known, people, strict=True)
        if (people != who).any()
      ]
    )
    # Scans of a person are not as many independent ones.
    count = len(set(patients)) if len(self.distances) else 0
    logs = np.log(np.maximum(self.distances, 1e-6))
    mean, variance = (logs.mean(), logs.var()) if count else (0.0, 0.0)
    counts = count + _MEAN_COUNTS
    self._mean = (count * mean + _MEAN_COUNTS * _MEAN) / counts
    self._freedom = max(count - 1, 0) + _SPREAD_COUNTS
    scatter = count * variance + _SPREAD_COUNTS * _SPREAD**2
    self._spread = np.sqrt(scatter / self._freedom * (1 + 1 / (count + 1)))

  def distance(self, look: Sequence[float]) -> float:
    """Of a scan from the known ones, in units of their usual spread."""
    return _distance(self._cloud, np.array(look, float))

  def chance(self, look: Sequence[float]) -> float:
    """Share of the modality's unknown scans that are as far off, or further."""
    far = np.log(max(self.distance(look), 1e-6)) - self._mean
    return float(stats.t.sf(far / self._spread, self._freedom))
