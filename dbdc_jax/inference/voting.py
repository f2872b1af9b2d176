"""Scans segmented by labelled ones that are registered to them.

For methods with `Traits.vote` (`mass`): the atlases are a run's labelled
training scans. They vote one after another, so that memory does not grow with
their number.
"""

from collections.abc import Sequence
import functools
from typing import Any

import jax
import numpy as np

from data.cache.prepared import Prepared, PreparedCase
from data.cache.whole_scans import VolumeSource, resample
from dbdc_jax.methods import Method

# The same function for the same method: what is compiled is remembered by it.
_compiled = functools.cache(jax.jit)


class Voters:
  """The atlases of each modality, on the method's grid.

  Args of the constructor:
    method: that votes.
    params: its parameters.
    memory: its memory.
    prepared: the prepared data.
    atlases: labelled cases per modality, in bank order.
  """

  def __init__(
    self,
    method: Method,
    params: Any,
    memory: Any,
    prepared: Prepared,
    atlases: Sequence[Sequence[PreparedCase]],
  ):
    self._vote = functools.partial(_compiled(method.predict), params, memory)
    self._depth = method.traits.volumes
    self._atlases = [
      VolumeSource(prepared, cases, depth=self._depth) for cases in atlases
    ]

  def probabilities(self, images: np.ndarray, modality: int) -> np.ndarray:
    """The weighted vote of the modality's atlases.

    Args:
      images: `[S, H, W]` uint16 prepared slices.
      modality: its id.

    Returns:
      `[S, H, W, C]` float32: on the method's grid each voxel's share of the
      votes, weighted by the softmax of their weights; between its slices
      interpolated.
    """
    volume, atlases = resample(images, self._depth), self._atlases[modality]
    total = weights = np.zeros((), np.float32)
    for index in range(len(atlases)):
      atlas = atlases[index]
      votes, weight = self._vote(
        atlas['image'], atlas['label'], volume, np.int32(modality)
      )
      weight = np.exp(np.asarray(weight, np.float32))[..., None]
      total = total + weight * np.asarray(votes)
      weights = weights + weight
    return resample(total / weights, len(images))
