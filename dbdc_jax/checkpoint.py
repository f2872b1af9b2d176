"""Orbax checkpoints of a run: the last two and the best.

Only the lead process reads and writes; what it reads it gives to the others. A
checkpoint holds plain arrays, whatever the devices were: a run of N devices or
processes goes on with M. A digest of all arrays lies beside them, so that a
damaged checkpoint is noticed, and the one before it used.
"""

from collections.abc import Callable
import contextlib
import errno
import hashlib
import os
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from dbdc_jax import parallel

_FOLDER = 'checkpoints'
# Damaged checkpoints are moved here, not deleted.
_DAMAGED = 'checkpoints_damaged'
_DIGEST = 'sha256'
# Files and folders of a checkpoint beside its arrays.
_MARGIN_BYTES = 1 << 20


class DamagedError(Exception):
  """A checkpoint that cannot be read, or whose content has changed."""


def _print(text: str) -> None:
  print(text, flush=True)


class Checkpoints:
  """The checkpoints of one workdir, written asynchronously.

  A checkpoint appears under its step's number once it is complete, so a run
  that is killed inside a save finds the one before.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    *,
    read_only: bool = False,
    warn: Callable[[str], None] = _print,
  ):
    """Opens (or makes) the workdir's checkpoints.

    Args:
      workdir: the run's folder.
      read_only: change nothing there; for the workdir of another run.
      warn: called with a sentence for each damaged checkpoint.
    """
    self._workdir = pathlib.Path(workdir).absolute()
    self._folder = self._workdir / _FOLDER
    self._warn = warn
    self._read_only = read_only
    self._manager = None
    if parallel.is_lead() and (not read_only or self._folder.is_dir()):
      self._manager = _manager(self._folder, read_only)

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, kind, error, trace) -> None:
    if self._manager is None:
      return
    if kind is None:
      with self._explained():
        self._manager.close()
    else:
      # The first error is the one to report.
      with contextlib.suppress(Exception):
        self._manager.close()

  def save(self, step: int, state: Any, dice: float | None) -> None:
    """Starts a save.

    Args:
      step: finished train steps.
      state: the pytree of jax arrays.
      dice: mean validation DSC, or None if this epoch was not validated.

    Raises:
      OSError: no space; names the folder, the bytes needed and those free.
    """
    if self._manager is None:
      return
    arrays = parallel.to_host(state)
    # Older ones go only once this one is complete.
    needed = sum(x.nbytes for x in jax.tree.leaves(arrays)) + _MARGIN_BYTES
    free = shutil.disk_usage(self._folder).free
    if free < needed:
      raise self._disk_full(needed, free)
    with self._explained():
      self._manager.save(
        step,
        args=ocp.args.StandardSave(arrays),
        metrics=None if dice is None else {'dice': dice},
        custom_metadata={_DIGEST: _digest(arrays)},
      )

  def wait(self) -> None:
    """Waits until running saves are on disk.

    Raises:
      OSError: a save that failed.
    """
    if self._manager is not None:
      with self._explained():
        self._manager.wait_until_finished()

  def latest(self, like: Any) -> tuple[int, Any] | None:
    """The newest checkpoint that is whole, on all processes.

    Damaged newer ones are moved aside, with a warning each.

    Args:
      like: a pytree of arrays with the shapes and dtypes to read.

    Returns:
      Its step, and numpy arrays; None where there is no checkpoint at all.

    Raises:
      ValueError: it holds other arrays or shapes (says which), or all are
        damaged.
    """
    return self._first_whole(like, best=False)

  def best(self, like: Any) -> tuple[int, Any] | None:
    """The best validated checkpoint, else the newest; see `latest`."""
    return self._first_whole(like, best=True)

  def _first_whole(self, like, best):
    found: list[Any] = []

    def read() -> int | None:
      if self._manager is None:
        return None
      steps = sorted(self._manager.all_steps(), reverse=True)
      if best and (first := self._manager.best_step()) is not None:
        steps.sort(key=lambda step: step != first)
      for step in steps:
        try:
          found.append(self._read(step, like))
        except DamagedError as error:
          self._warn(
            f'warning: checkpoint {self._folder / str(step)} is damaged'
            f' ({error}){self._set_aside(step)}; looking for another one'
          )
        else:
          return step
      if steps:
        raise ValueError(
          f'all checkpoints in {self._folder} are damaged: start again in'
          ' another --workdir'
        )
      return None

    step = parallel.from_lead(read)
    if step is None:
      return None
    arrays = found[0] if found else jax.tree.map(_blank, like)
    return step, parallel.tree_from_lead(arrays)

  def _read(self, step: int, like: Any) -> Any:
    """One checkpoint, checked against `like` and its own digest."""
    # Asked before reading: a read that fails half-way leaves others behind.
    try:
      metadata = self._manager.metadata(step)
      found = _shapes(metadata.item_metadata.tree)
      digest = metadata.custom_metadata[_DIGEST]
    except Exception as error:
      raise DamagedError(_short(error)) from error
    wanted = _shapes(like)
    differing = sorted(
      name
      for name in found.keys() | wanted.keys()
      if found.get(name) != wanted.get(name)
    )
    if differing:
      name = differing[0]
      raise ValueError(
        f'{self._folder / str(step)}: {len(differing)} arrays differ, the first'
        f' is {name}: {found.get(name, "missing")} in the checkpoint,'
        f' {wanted.get(name, "missing")} in this config'
      )
    # A file that is cut or gone shows up as any kind of error.
    try:
      arrays = self._manager.restore(
        step, args=ocp.args.StandardRestore(jax.tree.map(_blank, like))
      )
    except Exception as error:
      raise DamagedError(_short(error)) from error
    if _digest(arrays) != digest:
      raise DamagedError('its arrays are not those that were saved')
    return arrays

  def _set_aside(self, step: int) -> str:
    """Moves a damaged checkpoint out of the way; says where to."""
    if self._read_only:
      return ''
    folder = self._workdir / _DAMAGED
    folder.mkdir(exist_ok=True)
    target = folder / str(step)
    number = 1
    while target.exists():
      number += 1
      target = folder / f'{step}_{number}'
    os.replace(self._folder / str(step), target)
    self._manager.reload()
    return f', moved to {target}'

  def _disk_full(self, needed: int, free: int) -> OSError:
    kept = standing(self._workdir)
    return OSError(
      errno.ENOSPC,
      f'no space for a checkpoint: {needed:,} bytes needed, {free:,} free;'
      f' {kept}. Make space, then the same command resumes',
      str(self._folder),
    )

  @contextlib.contextmanager
  def _explained(self):
    """Turns Orbax's many ways to say 'disk full' into one OSError."""
    try:
      yield
    except Exception as error:
      free = shutil.disk_usage(self._folder).free
      if 'No space left' not in _chain(error):
        raise
      raise self._disk_full(free + 1, free) from error


def _manager(folder: pathlib.Path, read_only: bool) -> ocp.CheckpointManager:
  if not read_only:
    folder.mkdir(parents=True, exist_ok=True)
  policy = ocp.checkpoint_managers
  options = ocp.CheckpointManagerOptions(
    best_fn=lambda metrics: metrics['dice'],
    best_mode='max',
    preservation_policy=policy.AnyPreservationPolicy(
      [
        # Two: should the last be damaged, an epoch is lost and not the run.
        policy.LatestN(2),
        policy.BestN(
          n=1,
          get_metric_fn=lambda metrics: metrics['dice'],
          keep_checkpoints_without_metrics=False,
        ),
      ]
    ),
    cleanup_tmp_directories=not read_only,
    read_only=read_only,
    create=False,
    multiprocessing_options=ocp.options.MultiprocessingOptions(
      primary_host=0, active_processes={0}, barrier_sync_key_prefix='lead'
    ),
  )
  return ocp.CheckpointManager(
    folder,
    options=options,
    item_handlers=ocp.StandardCheckpointHandler(),
  )


def _blank(x: Any) -> np.ndarray:
  return np.zeros(x.shape, x.dtype)


def _digest(tree: Any) -> str:
  """SHA-256 of all arrays with their names, dtypes and shapes."""
  total = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    leaf = np.asarray(leaf)
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    total.update(f'{name} {leaf.dtype} {leaf.shape}\n'.encode())
    total.update(np.ascontiguousarray(leaf).tobytes())
  return total.hexdigest()


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  """Shape of every array of a tree by its name, e.g. 'params/unet/...'."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): tuple(leaf.shape)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _chain(error: BaseException | None) -> str:
  """The texts of an error and of its causes."""
  texts = []
  while error is not None:
    texts.append(str(error))
    error = error.__cause__ or error.__context__
  return '\n'.join(texts)


def _short(error: Exception) -> str:
  """The first line of an error, not longer than a line."""
  text = str(error).strip().splitlines() or [type(error).__name__]
  return text[0][:160]


def steps(workdir: str | os.PathLike) -> list[int]:
  """Steps of the complete checkpoints of a workdir, oldest first."""
  folder = pathlib.Path(workdir) / _FOLDER
  if not folder.is_dir():
    return []
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def standing(workdir: str | os.PathLike) -> str:
  """A sentence on which checkpoint a run that stops here leaves behind."""
  workdir = pathlib.Path(workdir).absolute()
  found = (
    [workdir / _FOLDER / str(steps(workdir)[-1])] if steps(workdir) else []
  )
  found += [
    below / _FOLDER / str(steps(below)[-1])
    for below in (sorted(workdir.iterdir()) if workdir.is_dir() else ())
    if below.is_dir() and steps(below)
  ]
  if not found:
    return 'no checkpoint was complete yet'
  return 'standing: checkpoint ' + ', '.join(map(str, found))
