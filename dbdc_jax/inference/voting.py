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
    labelable: `[K, C]` bool, see `Task.labelable`.
  """

  def __init__(
    self,
    method: Method,
    params: Any,
    memory: Any,
    prepared: Prepared,
    atlases: Sequence[Sequence[PreparedCase]],
    labelable: np.ndarray,
  ):
    self._vote = functools.partial(_compiled(method.predict), params, memory)
    self._depth = method.traits.volumes
    self._atlases = [
      VolumeSource(prepared, cases, depth=self._depth) for cases in atlases
    ]
    self._drawn = [
      [case.drawn_for(mask) for case in cases]
      for mask, cases in zip(labelable, atlases, strict=True)
    ]

  def probabilities(self, images: np.ndarray, modality: int) -> np.ndarray:
    """The weighted vote of the modality's atlases.

    Args:
      images: `[S, H, W]` uint16 prepared slices.
      modality: its id.

    Returns:
      `[S, H, W, C]` float32: on the method's grid each voxel's share of the
      votes, weighted by the softmax of their weights; between its slices
      interpolated. On a class vote those atlases that were drawn for it; what
      is none is background.
    """
    volume, atlases = resample(images, self._depth), self._atlases[modality]
    total = weights = np.zeros((), np.float32)
    for index, drawn in enumerate(self._drawn[modality]):
      atlas = atlases[index]
      votes, weight = self._vote(
        atlas['image'], atlas['label'], volume, np.int32(modality)
      )
      weight = np.exp(np.asarray(weight, np.float32))[..., None]
      votes = np.asarray(votes)
      # One that nobody drew there has no vote at all.
      counts = drawn & votes.any(-1, keepdims=True)
      total = total + weight * (votes & counts)
      weights = weights + weight * counts
    share = np.divide(
      total, weights, out=np.zeros_like(total), where=weights > 0
    )
    if not all(drawn.all() for drawn in self._drawn[modality]):
      share[..., 0] = 1 - share[..., 1:].sum(-1)
    return resample(share, len(images))
