"""Metrics of two masks, as tests ask for them."""

import numpy as np

from dbdc_jax.evaluation import metrics


def compare(prediction, reference, spacing, tolerance=0.0):
  """What `metrics.from_distances` returns, of two boolean volumes."""
  p, r = (np.asarray(v, bool).view(np.uint8) for v in (prediction, reference))
  found = metrics.distances(metrics.surfaces(p, r, 2)[0], spacing)
  return metrics.from_distances(found, tolerance)
