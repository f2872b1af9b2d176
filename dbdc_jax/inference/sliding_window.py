"""Whole slices from a network that was trained on patches.

Windows of the patch's size at a fixed stride; where they overlap,
probabilities are averaged. Shapes are static, so one function is compiled per
slice size whatever the number of slices.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data.task import to_float
from dbdc_jax.runtime import parallel
from dbdc_jax.runtime.precision import EXACT

Corner = tuple[int, int]
# A method's `predict` with its parameters and memory.
Network = jax.tree_util.Partial


def window_starts(size: int, patch: int, stride: int) -> list[int]:
  """Starts of the windows along an axis; the last one ends at the edge."""
  if size <= patch:
    return [0]
  starts = list(range(0, size - patch, stride))
  return [*starts, size - patch]


def _corners(height: int, width: int, patch: int, stride: int) -> list[Corner]:
  """Upper left corners of a slice's windows, (row, column)."""
  rows, columns = (window_starts(n, patch, stride) for n in (height, width))
  return [(r, c) for r in rows for c in columns]


def _coverage(height: int, width: int, patch: int, stride: int) -> np.ndarray:
  """How many windows each pixel lies in, `[H, W, 1]` float32."""
  weight = np.zeros((height, width, 1), np.float32)
  for r, c in _corners(height, width, patch, stride):
    weight[r : r + patch, c : c + patch] += 1
  return weight


def ahead(start: Callable[[Any], Any], parts: Iterable[Any]) -> Iterator[Any]:
  """`start(part)` of each part, handed out once the next one is started.

  So whoever waits for what a device or a thread does keeps it busy.
  """
  started = itertools.chain(map(start, parts), [None])
  return (running for running, _ in itertools.pairwise(started))


def _overlapping(network, images, modality, patch, stride):
  """Averaged class probabilities of `images [n, H, W]`: `[n, H, W, C]`."""
  count, height, width = images.shape
  patch = min(patch, height, width)
  corners = _corners(height, width, patch, stride)
  images = to_float(images)
  windows = jnp.stack(
    [images[:, r : r + patch, c : c + patch] for r, c in corners]
  )
  flat = windows.reshape(-1, patch, patch, 1)
  ids = jnp.tile(modality, len(corners))
  logits = network(flat, ids).astype(jnp.float32)
  p = jax.nn.softmax(logits)
  p = p.reshape(len(corners), count, patch, patch, p.shape[-1])
  total = jnp.zeros((count, height, width, p.shape[-1]))
  for i, (r, c) in enumerate(corners):
    total = total.at[:, r : r + patch, c : c + patch].add(p[i])
  return total / _coverage(height, width, patch, stride)


@functools.partial(jax.jit, static_argnames=('patch', 'stride', 'hard'))
def _forward(network, images, modality, patch, stride, hard):
  """`_overlapping`, or (`hard`) the classes, uint8."""
  p = _overlapping(network, images, modality, patch, stride)
  return jnp.argmax(p, -1).astype(jnp.uint8) if hard else p


@functools.partial(jax.jit, static_argnames=('patch', 'stride'))
def joint_histograms(
  network: Network,
  images: jax.Array,
  labels: jax.Array,
  modality: jax.Array,
  *,
  patch: int,
  stride: int,
) -> jax.Array:
  """How many pixels of each slice have which pair of classes.

  Args:
    network: see `of_one_size`.
    images: `[n, H, W]` uint16 prepared slices.
    labels: `[n, H, W]` their classes.
    modality: `[n]` their modalities' ids.
    patch: see `of_one_size`.
    stride: see `of_one_size`.

  Returns:
    `[n, C, C]` float32 counts (exact below 2^24 pixels), rows by the label.
  """
  p = _overlapping(network, images, modality, patch, stride)
  classes = jnp.arange(p.shape[-1])
  one_hot = lambda x: (x[..., None] == classes).astype(jnp.float32)
  return jnp.einsum(
    'nhwr,nhwp->nrp',
    one_hot(labels),
    one_hot(jnp.argmax(p, -1)),
    precision=EXACT,
  )


def of_one_size(
  network: Network,
  images: np.ndarray,
  modality: int,
  *,
  patch: int,
  stride: int,
  batch: int,
  hard: bool = False,
) -> np.ndarray:
  """Class probabilities, or classes, of a scan's slices.

  One function is compiled for each size of slices.

  Args:
    network: see `Network`; keep the same `predict` between calls, it is what
      the compiled function is remembered by.
    images: `[S, H, W]` uint16 prepared slices.
    modality: the modality's id.
    patch: side of a window, in pixels.
    stride: step between windows, in pixels.
    batch: slices per call; the last call is filled up with zeros.
    hard: classes instead of probabilities.

  Returns:
    `[S, H, W, C]` float32, or (`hard`) `[S, H, W]` uint8.
  """
  ids = parallel.spread(np.full(batch, modality, np.int32))
  start = lambda chunk: _forward(
    network, parallel.spread(chunk), ids, patch, stride, hard
  )
  done = map(np.asarray, ahead(start, filled(images, batch)))
  return np.concatenate([*done])[: len(images)]


def filled(slices: np.ndarray, batch: int) -> list[np.ndarray]:
  """Parts of `batch` slices; the last is filled up with zeros."""
  parts = [slices[i : i + batch] for i in range(0, len(slices), batch)]
  short = batch - len(parts[-1])
  parts[-1] = np.pad(parts[-1], ((0, short), *[(0, 0)] * (slices.ndim - 1)))
  return parts


@functools.partial(jax.jit, static_argnames='mirrored')
def _window_probabilities(network, windows, ids, mirrored):
  """Class probabilities of `windows [B, p, p]`: `[B, p, p, C]` float32."""
  forward = lambda x: jax.nn.softmax(
    network(x[..., None], ids).astype(jnp.float32)
  )
  if not mirrored:
    return forward(windows)
  flips = ((), (1,), (2,), (1, 2))
  return sum(jnp.flip(forward(jnp.flip(windows, f)), f) for f in flips) / 4


def of_any_size(
  network: Network,
  images: np.ndarray,
  modality: int,
  *,
  patch: int,
  stride: int,
  batch: int,
  mirrored: bool = False,
) -> np.ndarray:
  """Class probabilities of slices of any size, by one compiled function.

  What is compiled sees a fixed number of windows; they are cut and put
  together here.

  Args:
    network: see `of_one_size`.
    images: `[S, H, W]` float32 in [0, 1]; H and W at least `patch`.
    modality: the modality's id.
    patch: side of a window, in pixels.
    stride: step between windows, in pixels.
    batch: windows per call.
    mirrored: average over the four mirror images of each window.

  Returns:
    `[S, H, W, C]` float32.
  """
  count, height, width = images.shape
  corners = [
    (s, *corner)
    for s in range(count)
    for corner in _corners(height, width, patch, stride)
  ]
  ids = parallel.spread(np.full(batch, modality, np.int32))

  def start(part: Sequence[tuple[int, int, int]]) -> jax.Array:
    windows = np.zeros((batch, patch, patch), np.float32)
    for i, (s, r, c) in enumerate(part):
      windows[i] = images[s, r : r + patch, c : c + patch]
    return _window_probabilities(
      network, parallel.spread(windows), ids, mirrored
    )

  parts = [corners[i : i + batch] for i in range(0, len(corners), batch)]
  results = map(np.asarray, ahead(start, parts))
  first = next(results)
  total = np.zeros((count, height, width, first.shape[-1]), np.float32)
  for part, p in zip(parts, itertools.chain([first], results), strict=True):
    for i, (s, r, c) in enumerate(part):
      total[s, r : r + patch, c : c + patch] += p[i]
  return total / _coverage(height, width, patch, stride)
