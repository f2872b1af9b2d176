"""Orbax checkpoints of a run: the last two and the best.

Only the lead process reads and writes; what it reads it gives to the others. A
checkpoint holds plain arrays, whatever the devices were: a run of N devices or
processes goes on with M.

Once Orbax has written one, it is sealed: the SHA-256 of each of its files is
put beside them. Only sealed checkpoints whose files still match count; Orbax
never sees the others, so a damaged one costs an epoch and not the run.
"""

import collections
from collections.abc import Callable
from concurrent import futures
import contextlib
import errno
import functools
import os
import pathlib
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp

from dbdc_jax.runtime import parallel
from dbdc_jax.workdir import seal

_FOLDER = 'checkpoints'
# Damaged checkpoints are moved here, not deleted.
_DAMAGED = 'checkpoints_damaged'
# Files and folders of a checkpoint beside its arrays.
_MARGIN_BYTES = 1 << 20
# Saves under way at most, each with a copy of the state: the next one waits.
_MOST_SAVING = 2
_print = functools.partial(print, flush=True)


class Checkpoints:
  """The checkpoints of one workdir, written while training goes on."""

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
    self._read_only = read_only
    self._warn = warn
    self._thread = futures.ThreadPoolExecutor(max_workers=1)
    self._saving: collections.deque[futures.Future[None]] = collections.deque()
    self._damaged = 0
    # None where nothing is kept: of the lead process alone, and read-only of a
    # folder that is not there.
    self._manager: Any = None
    if parallel.is_lead() and (not read_only or self._folder.is_dir()):
      self._set_damaged_aside()
      self._manager = _manager(self._folder, read_only)

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, kind, error, trace) -> None:
    # The first error is the one to report.
    with contextlib.suppress(*([Exception] if kind else [])):
      self.wait()
    self._thread.shutdown(cancel_futures=True)
    if self._manager is not None:
      self._manager.close()

  def save(self, step: int, state: Any, dice: float | None) -> None:
    """Starts a save; it is written while training goes on.

    Args:
      step: finished train steps.
      state: the pytree of jax arrays.
      dice: mean validation DSC, or None if this epoch was not validated.

    Raises:
      OSError: no space for it, or for one before; names the folder, the bytes
        needed and those free.
    """
    if self._manager is None:
      return
    under_way = lambda: sum(not save.done() for save in self._saving)
    while len(self._saving) > min(under_way(), _MOST_SAVING - 1):
      self._wait_for_oldest()
    arrays = jax.device_get(state)
    # Older ones go only once this one is complete.
    needed = sum(x.nbytes for x in jax.tree.leaves(arrays)) + _MARGIN_BYTES
    if self._free() < needed * (1 + len(self._saving)):
      self.wait()
    if self._free() < needed:
      raise self._disk_full(needed)
    self._saving.append(self._thread.submit(self._write, step, arrays, dice))

  def _free(self) -> int:
    return shutil.disk_usage(self._folder).free

  def _write(self, step: int, arrays: Any, dice: float | None) -> None:
    """Saves and seals; in the store's thread."""
    self._manager.save(
      step,
      args=ocp.args.StandardSave(arrays),
      metrics=None if dice is None else {'dice': dice},
    )
    self._manager.wait_until_finished()
    seal.put(self._folder / str(step))

  def wait(self) -> None:
    """Waits until all that was saved is on disk.

    Raises:
      OSError: a save failed for want of space.
    """
    while self._saving:
      self._wait_for_oldest()

  def _wait_for_oldest(self) -> None:
    try:
      self._saving.popleft().result()
    except Exception as error:
      # Orbax has many ways to say that the disk is full.
      if 'No space left' not in _chain(error):
        raise
      raise self._disk_full(None) from error

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

  def at(self, step: int, like: Any) -> Any:
    """The numpy arrays of a kept checkpoint (`steps` lists them).

    Args:
      step: which.
      like: see `latest`.

    Raises:
      ValueError: it holds other arrays or shapes; says which.
    """
    # Asked before reading: a read that fails half-way leaves others behind.
    found = self._manager.metadata(step).item_metadata.tree
    check_shapes(self._folder / str(step), found, like)
    blank = ocp.args.StandardRestore(parallel.blank(like))
    return self._manager.restore(step, args=blank)

  def _first_whole(self, like: Any, best: bool) -> tuple[int, Any] | None:
    step = parallel.from_lead(lambda: self._whole_step(best))
    if step is None:
      return None
    read = lambda: self.at(step, like)
    return step, parallel.arrays_from_lead(read, like)

  def _whole_step(self, best: bool) -> int | None:
    """The step of the best or newest checkpoint that is whole."""
    self.wait()
    if self._manager is None:
      return None
    self._set_damaged_aside()
    step = self._manager.best_step() if best else None
    step = self._manager.latest_step() if step is None else step
    if step is None and self._damaged:
      raise ValueError(
        f'{self._folder}: no whole checkpoint is left; start again in another'
        ' --workdir'
      )
    return step

  def _set_damaged_aside(self) -> None:
    """Moves damaged checkpoints out of the way, with a warning each.

    Raises:
      ValueError: there are some and this store is read-only.
    """
    for step in steps(self._workdir):
      folder = self._folder / str(step)
      text = seal.fault(folder)
      if not text:
        continue
      text = f'checkpoint {folder} is damaged ({text})'
      if self._read_only:
        raise ValueError(text)
      self._damaged += 1
      aside = self._workdir / _DAMAGED
      aside.mkdir(exist_ok=True)
      count = sum(p.name.split('_')[0] == str(step) for p in aside.iterdir())
      target = aside / (f'{step}_{count + 1}' if count else str(step))
      os.replace(folder, target)
      self._warn(
        f'warning: {text}: moved to {target}, the run goes on from the one'
        ' before'
      )
      if self._manager is not None:
        self._manager.reload()

  def _disk_full(self, needed: int | None) -> OSError:
    size = '' if needed is None else f'{needed:,} bytes needed, '
    return OSError(
      errno.ENOSPC,
      f'no space for a checkpoint: {size}{self._free():,} bytes free;'
      f' {standing(self._workdir)}. Make space, then the same command resumes',
      str(self._folder),
    )


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
    # The store has a thread of its own, which also seals.
    enable_async_checkpointing=False,
    multiprocessing_options=lead_only(),
  )
  return ocp.CheckpointManager(
    folder, options=options, item_handlers=ocp.StandardCheckpointHandler()
  )


def lead_only() -> ocp.options.MultiprocessingOptions:
  """Orbax's word for what the lead process does alone."""
  return ocp.options.MultiprocessingOptions(
    primary_host=0, active_processes={0}, barrier_sync_key_prefix='lead'
  )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  """Shape of every array of a tree by its name, e.g. 'params/unet/...'."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): tuple(leaf.shape)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def check_shapes(folder: pathlib.Path, found: Any, like: Any) -> None:
  """Compares what a checkpoint holds with what is wanted of it.

  Args:
    folder: of the checkpoint, for the error.
    found: its tree, of anything that has a shape.
    like: the tree that is wanted.

  Raises:
    ValueError: other arrays or shapes; says how many, and the first.
  """
  found, wanted = _shapes(found), _shapes(like)
  differing = sorted(
    name
    for name in found.keys() | wanted.keys()
    if found.get(name) != wanted.get(name)
  )
  if differing:
    name = differing[0]
    raise ValueError(
      f'{folder}: {len(differing)} arrays differ, the first is {name}:'
      f' {found.get(name, "missing")} in the checkpoint,'
      f' {wanted.get(name, "missing")} in this config'
    )


def _chain(error: BaseException | None) -> str:
  """The texts of an error and of its causes."""
  texts = []
  while error is not None:
    texts.append(str(error))
    error = error.__cause__ or error.__context__
  return '\n'.join(texts)


def read(workdir: str | os.PathLike, step: int | None = None) -> Any:
  """A checkpoint's arrays as nested dicts, without knowing its shapes.

  Args:
    workdir: the run's folder.
    step: which; None is the newest.
  """
  folder = pathlib.Path(workdir).absolute() / _FOLDER
  with contextlib.closing(_manager(folder, read_only=True)) as manager:
    return manager.restore(steps(workdir)[-1] if step is None else step)


def steps(workdir: str | os.PathLike) -> list[int]:
  """Steps of the checkpoints of a workdir, oldest first."""
  folder = pathlib.Path(workdir) / _FOLDER
  if not folder.is_dir():
    return []
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def standing(workdir: str | os.PathLike) -> str:
  """A sentence on which checkpoint a run that stops here leaves behind.

  Args:
    workdir: the run's folder, which may hold one folder per network.
  """
  workdir = pathlib.Path(workdir).absolute()
  below = sorted(workdir.iterdir()) if workdir.is_dir() else []
  found = []
  for folder in [workdir, *(p for p in below if p.is_dir())]:
    sealed = [
      step for step in steps(folder) if seal.is_on(folder / _FOLDER / str(step))
    ]
    if sealed:
      found.append(str(folder / _FOLDER / str(sealed[-1])))
  if not found:
    return 'no checkpoint was complete yet'
  return f'checkpoint {", ".join(found)} stands'
