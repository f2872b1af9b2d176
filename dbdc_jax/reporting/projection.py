"""Points of many dimensions in the plane, by t-SNE."""

import numpy as np
from sklearn.manifold import TSNE
import threadpoolctl

METHOD = (
  't-SNE (scikit-learn: perplexity 30, or a third of the points where there are'
  ' fewer than 90; start from the principal components; seed 0). Neighbours are'
  ' kept; distances and sizes of clusters mean nothing.'
)
_PERPLEXITY = 30.0


def plane(points: np.ndarray) -> np.ndarray:
  """Projects points so that neighbours stay neighbours.

  Args:
    points: `[N, D]`.

  Returns:
    `[N, 2]`, centred and scaled to [-1, 1]; the same on every call. Fewer than
    four points keep their first two principal components.
  """
  points = np.asarray(points, np.float64)
  centred = points - points.mean(0)
  if len(points) < 4 or not centred.any():
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    found = centred @ axes[:2].T
    found = np.pad(found, ((0, 0), (0, 2 - found.shape[1])))
  else:
    perplexity = min(_PERPLEXITY, (len(points) - 1) / 3)
    # Narrow features have fewer components than a start in the plane needs.
    start = 'pca' if points.shape[1] > 1 else 'random'
    # Threads that wait for each other spin: on a busy machine six times slower
    # than one thread. One also adds up in the same order each time.
    with threadpoolctl.threadpool_limits(1):
      found = TSNE(
        perplexity=perplexity, init=start, random_state=0
      ).fit_transform(centred.astype(np.float32))
  found = found - (found.max(0) + found.min(0)) / 2
  return found / max(np.abs(found).max(), 1e-12)
