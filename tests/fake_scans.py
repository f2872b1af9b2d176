"""Prepared scans of random voxels, without any files."""

import numpy as np

from data.cache.prepared import PreparedCase


class Case:
  """A prepared case, as far as its slices go."""

  def __init__(self, name, num_slices, side, drawn=None, undrawn=()):
    self.name, self.num_slices = name, num_slices
    self.geometry = {'slice_size': side}
    self.drawn, self.undrawn = drawn, list(undrawn)

  drawn_for = PreparedCase.drawn_for
  drawn_slices = PreparedCase.drawn_slices
  open_slices = PreparedCase.open_slices

  @property
  def shape(self):
    side = self.geometry['slice_size']
    return self.num_slices, side, side


class Scans:
  """Prepared scans of random voxels; keeps what was asked for in `asked`."""

  def __init__(self, cases, num_classes):
    rng = np.random.default_rng(0)
    self._images = {
      c.name: rng.integers(0, 65536, c.shape).astype(np.uint16) for c in cases
    }
    self._labels = {
      c.name: rng.integers(0, num_classes, c.shape).astype(np.uint8)
      for c in cases
    }
    self.asked = []

  def images(self, case):
    self.asked.append(('image', case.name))
    return self._images[case.name]

  def labels(self, case):
    self.asked.append(('label', case.name))
    return self._labels[case.name]

  def image(self, case, index):
    return self.images(case)[index]

  def label(self, case, index):
    return self.labels(case)[index]
