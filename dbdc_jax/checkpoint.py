"""Orbax checkpoints of a run: the latest and the best."""

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp


class Checkpoints:
  """The checkpoints of one workdir: latest + best, written asynchronously.

  A checkpoint appears under its step's number once it is complete, so a run
  that is killed inside a save finds the one before.
  """

  def __init__(self, workdir: str | pathlib.Path):
    self._folder = pathlib.Path(workdir).absolute() / 'checkpoints'
    policy = ocp.checkpoint_managers
    options = ocp.CheckpointManagerOptions(
      best_fn=lambda metrics: metrics['dice'],
      best_mode='max',
      preservation_policy=policy.AnyPreservationPolicy(
        [
          policy.LatestN(1),
          policy.BestN(
            n=1,
            get_metric_fn=lambda metrics: metrics['dice'],
            keep_checkpoints_without_metrics=False,
          ),
        ]
      ),
      cleanup_tmp_directories=True,
    )
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=options,
      item_handlers=ocp.StandardCheckpointHandler(),
    )

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *error) -> None:
    self._manager.close()

  def save(self, step: int, state: Any, dice: float | None) -> None:
    """Starts a save.

    Args:
      step: finished train steps.
      state: the pytree of jax arrays.
      dice: mean validation DSC, or None if this epoch was not validated.
    """
    metrics = None if dice is None else {'dice': dice}
    self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics)

  def wait(self) -> None:
    """Waits until running saves are on disk."""
    self._manager.wait_until_finished()

  def latest_step(self) -> int | None:
    """Step of the newest checkpoint, None without one."""
    return self._manager.latest_step()

  def best_step(self) -> int | None:
    """Step of the best validated checkpoint, else of the newest."""
    best = self._manager.best_step()
    return self.latest_step() if best is None else best

  def restore(self, step: int, like: Any) -> Any:
    """Reads a checkpoint.

    Args:
      step: a step that exists.
      like: a pytree of arrays with the shapes, dtypes and placement to
        restore into.

    Raises:
      ValueError: the checkpoint holds other arrays or shapes; says which.
    """
    # Asked before reading: a read that fails half-way leaves others behind.
    found = _shapes(self._manager.metadata(step).item_metadata.tree)
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
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  """Shape of every array of a tree by its name, e.g. 'params/unet/...'."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): tuple(leaf.shape)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def exists(workdir: str | pathlib.Path) -> bool:
  """Whether a workdir holds any checkpoint."""
  return (pathlib.Path(workdir) / 'checkpoints').is_dir()
