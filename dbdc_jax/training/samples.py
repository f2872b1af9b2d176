"""Training samples by row: slices, or whole scans, decoded once where they fit.

No jax here.
"""

from collections.abc import Callable, Sequence
from concurrent import futures

import numpy as np

from data.cache import whole_scans
from data.cache.prepared import Prepared, PreparedCase


class Samples:
  """The samples of some cases, one behind the other.

  The labels of unlabelled cases are never asked for.

  Args of the constructor:
    prepared: the prepared data.
    labeled: cases whose labels are wanted.
    unlabeled: other cases.
    depth: whole scans of so many slices are the samples; None: slices are.
    limit: bytes; what goes beyond is decoded each time. Labelled cases come
      first: their samples are repeated most often.

  Attributes:
    in_memory: number of samples that are decoded once.
  """

  def __init__(
    self,
    prepared: Prepared,
    labeled: Sequence[PreparedCase],
    unlabeled: Sequence[PreparedCase],
    *,
    depth: int | None,
    limit: float,
  ):
    self._prepared, self._depth = prepared, depth
    self._cases = [*labeled, *unlabeled]
    self._num_labeled = len(labeled)
    counts = [1 if depth else case.num_slices for case in self._cases]
    self._first = np.cumsum([0, *counts])
    size = self._cases[0].geometry['slice_size']
    self._shape = (depth, size, size) if depth else (size, size)
    kept = self._kept(limit)
    self.in_memory = int(self._first[kept])
    labels = int(self._first[min(kept, len(labeled))])
    self._images = np.empty((self.in_memory, *self._shape), np.uint16)
    # The first is the label of what has none: background.
    self._labels = np.empty((1 + labels, *self._shape), np.uint8)
    self._labels[0] = 0
    with futures.ThreadPoolExecutor() as pool:
      list(pool.map(self._decode, range(kept)))

  def __len__(self) -> int:
    return int(self._first[-1])

  @property
  def num_labeled(self) -> int:
    """Samples that have a label; they are the first ones."""
    return int(self._first[self._num_labeled])

  def _kept(self, limit: float) -> int:
    """Number of cases, from the first, that fit into `limit` bytes."""
    per_case = np.diff(self._first) * int(np.prod(self._shape))
    # Image and label, or image.
    per_case[: self._num_labeled] *= 3
    per_case[self._num_labeled :] *= 2
    return int(np.searchsorted(np.cumsum(per_case), limit, side='right'))

  def _images_of(self, case: PreparedCase) -> np.ndarray:
    images = self._prepared.images(case)
    if self._depth is None:
      return images
    return whole_scans.resample(images, self._depth)[None]

  def _labels_of(self, case: PreparedCase) -> np.ndarray:
    labels = self._prepared.labels(case)
    if self._depth is None:
      return labels
    return whole_scans.resample_labels(labels, self._depth)[None]

  def _decode(self, index: int) -> None:
    case, first, last = self._cases[index], *self._first[index : index + 2]
    self._images[first:last] = self._images_of(case)
    if index < self._num_labeled:
      self._labels[1 + first : 1 + last] = self._labels_of(case)

  def rows(
    self,
    cases: Sequence[PreparedCase],
    slices: Callable[[PreparedCase], Sequence[int]] | None = None,
  ) -> np.ndarray:
    """The rows of some of the cases, int32.

    Args:
      cases: of those that there are.
      slices: which slices of each case; None: all. A whole scan is one sample
        if it has any of them.
    """
    at = {case.name: i for i, case in enumerate(self._cases)}
    found = [np.zeros(0, int)]
    for case in cases:
      first, last = self._first[at[case.name] :][:2]
      rows = np.arange(first, last)
      if slices is not None:
        chosen = np.asarray(slices(case), int)
        rows = rows[: len(chosen)] if self._depth else first + chosen
      found.append(rows)
    return np.concatenate(found).astype(np.int32)

  def drawn_for(
    self, cases: Sequence[PreparedCase], labelable: np.ndarray
  ) -> np.ndarray:
    """`[rows, C]` bool of all rows, see `PreparedCase.drawn_for`.

    Nothing was drawn in other cases.

    Args:
      cases: whose label maps were not drawn for everything.
      labelable: `[C]` bool for each of them.
    """
    out = np.zeros((len(self), labelable.shape[1]), bool)
    for case, mask in zip(cases, labelable, strict=True):
      out[self.rows([case])] = case.drawn_for(mask)
    return out

  def _one(self, row, whole, single) -> np.ndarray:
    """Decodes a row, by a function of its case or of a slice of it."""
    index = int(np.searchsorted(self._first, row, side='right')) - 1
    case = self._cases[index]
    if self._depth is None:
      return single(case, int(row - self._first[index]))
    return whole(case)[0]

  def images(self, rows: np.ndarray) -> np.ndarray:
    """`[...]` rows to `[..., H, W]` uint16 (whole scans: `[..., D, H, W]`)."""
    decode = lambda row: self._one(row, self._images_of, self._prepared.image)
    return _take(self._images, rows, decode)

  def labels(self, rows: np.ndarray) -> np.ndarray:
    """Their labels, uint8: a row is that of the image and 1, or 0 for none."""
    decode = lambda row: self._one(
      row - 1, self._labels_of, self._prepared.label
    )
    return _take(self._labels, rows, decode)

  @property
  def complete(self) -> bool:
    """Whether all are in memory."""
    return self.in_memory == len(self)

  @property
  def nbytes(self) -> int:
    """Bytes of what is in memory."""
    return self._images.nbytes + self._labels.nbytes

  def release(self) -> dict[str, np.ndarray]:
    """The images and labels that are in memory, by row; they are given up.

    What is asked for afterwards is decoded.
    """
    tables = {'image': self._images, 'label': self._labels}
    # Copies: a view would keep the whole.
    self._images = self._images[:0].copy()
    self._labels = self._labels[:1].copy()
    self.in_memory = 0
    return tables


def _take(kept, rows, decode):
  """Rows of an array; those behind its end are decoded."""
  if rows.max() < len(kept):
    return kept.take(rows, 0)
  out = np.empty((rows.size, *kept.shape[1:]), kept.dtype)
  for i, row in enumerate(rows.ravel()):
    out[i] = kept[row] if row < len(kept) else decode(row)
  return out.reshape(*rows.shape, *kept.shape[1:])
