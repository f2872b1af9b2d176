"""Rows of the two banks: what a network keeps for one modality alone.

Everything else is shared. A row is told by its place in the tree: below a
`modulation` (scale and bias among the parameters; mean, var and count in the
memory) or `prototypes`; its first axis counts the modalities, in bank order.
That holds where every modulation has a row for each (`check`).
"""

from collections.abc import Callable, Mapping, Sequence
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_BANKS = ('modulation', 'prototypes')
# What a new row takes from the old ones: their mean. See `spread`.
_AVERAGED = ('scale', 'bias', 'mean', 'var')


def check(modulation: str, what: str) -> None:
  """Checks that every normalisation has a row for each modality.

  Args:
    modulation: the config's `model.modulation`.
    what: is wanted, for the error.

  Raises:
    ValueError: some are shared, and change with every modality.
  """
  if modulation != 'all':
    raise ValueError(
      f'{what}: model.modulation={modulation!r} lets modalities share'
      " normalisations, which a new one would change for all; choose 'all'"
    )


def check_rows(tree: Any, count: int, what: str) -> None:
  """Checks that a tree's banks have a row for each modality.

  Args:
    tree: params or memory.
    count: of the modalities.
    what: is wanted, for the error.

  Raises:
    ValueError: other numbers of rows: networks of one modality each.
  """
  rows: set[int] = set()
  _map(lambda name, x: rows.add(len(x)) if name else None, tree)
  if rows != {count}:
    raise ValueError(
      f'{what}: its networks keep no rows for {count} modalities; only one'
      ' network that all of them share does (method=dbdc)'
    )


def _name(path: Any) -> str:
  """A leaf's place, e.g. 'unet/conv0/modulation/scale'."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def _in_bank(name: str) -> bool:
  return any(part in _BANKS for part in name.split('/'))


def _map(function: Callable[..., Any], *trees: Any) -> Any:
  """Maps `function(name, *leaves)`, with the leaf's name or '' if shared."""

  def one(path, *leaves):
    name = _name(path)
    return function(name if _in_bank(name) else '', *leaves)

  return jax.tree_util.tree_map_with_path(one, *trees)


def count(tree: Any, rows: int) -> int:
  """Numbers in `rows` rows of a tree's banks."""
  sizes = []
  _map(lambda n, x: sizes.append(x.size // len(x) * rows if n else 0), tree)
  return sum(sizes)


def select(new: Any, old: Any, trained: np.ndarray) -> Any:
  """`new` in the rows that are trained, `old` everywhere else.

  Selected, never multiplied: bits of `old` stay, NaNs of `new` stay out.

  Args:
    new: a tree of arrays.
    old: the same shapes.
    trained: `[K]` bool.
  """

  def one(name, x, before):
    if not name:
      return before
    mask = trained.reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.where(mask, x, before)

  return _map(one, new, old)


def spread(old: Any, fresh: Any, places: Sequence[int]) -> Any:
  """The weights of a network with fewer modalities, for one with more.

  A new row starts as the mean of the old ones where that means something:
  modulation that already suits the shared weights. Its count starts at 0, so
  that running statistics follow its first batches at once, and its prototypes
  start as in a new run, from its own labelled pixels.

  Args:
    old: params or memory, as numpy arrays; rows of the old modalities.
    fresh: the same of the larger network before its first step.
    places: row in `fresh` of each row of `old`.

  Returns:
    Numpy arrays of the shapes of `fresh`.

  Raises:
    ValueError: other arrays or shapes, beside the rows; names the first.
  """
  rows = np.asarray(places)

  def one(name, before, start):
    # One row for several modalities is shared, see `ModulationBank.shared`.
    shared = not name or len(start) == 1
    wanted = start.shape if shared else (len(rows), *start.shape[1:])
    if before.shape != wanted:
      raise ValueError(f'{name or "an array"}: {before.shape}, not {wanted}')
    if shared:
      return before
    out = np.array(start)
    if name.split('/')[-1] in _AVERAGED:
      out[:] = before.mean(0)
    out[rows] = before
    return out

  return _map(one, old, fresh)


def take(tree: Any, index: int) -> dict[str, np.ndarray]:
  """One modality's rows by their names: `[1, ...]` numpy arrays."""
  out = {}

  def one(name, x):
    if name:
      out[name] = np.asarray(x)[index : index + 1]

  _map(one, tree)
  return out


def append(tree: Any, rows: Mapping[str, np.ndarray]) -> Any:
  """A tree with one more modality, whose rows `take` has given.

  Raises:
    ValueError: the rows are of another network.
  """
  names = []

  def one(name, x):
    if not name:
      return np.asarray(x)
    names.append(name)
    row = rows.get(name)
    if row is None or row.shape[1:] != x.shape[1:] or row.dtype != x.dtype:
      raise ValueError(f'{name}: the rows are of another network')
    return np.concatenate([np.asarray(x), row])

  out = _map(one, tree)
  if set(names) != set(rows):
    raise ValueError('the rows are of another network')
  return out


def shared_fingerprint(tree: Any) -> str:
  """SHA-256 of all that is shared by the modalities: names, shapes, bits."""
  found = hashlib.sha256()

  def one(path, x):
    if not _in_bank(_name(path)):
      x = np.ascontiguousarray(x)
      found.update(f'{_name(path)} {x.dtype} {x.shape}\n'.encode())
      found.update(x.tobytes())

  jax.tree_util.tree_map_with_path(one, tree)
  return found.hexdigest()
