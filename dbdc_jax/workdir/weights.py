"""Parameters and memory alone: what prediction needs of a train state.

A run keeps them in its checkpoints, an export in a folder `weights` that Orbax
wrote and that is sealed as a checkpoint is.
"""

import contextlib
import os
import pathlib
from typing import Any, NamedTuple

import orbax.checkpoint as ocp

from dbdc_jax.runtime import parallel
from dbdc_jax.workdir import checkpoint, seal

FOLDER = 'weights'


class Weights(NamedTuple):
  """What is learnt.

  Attributes:
    params: what the optimizer touches.
    memory: everything else of the method that changes.
  """

  params: Any
  memory: Any


def _checkpointer() -> ocp.Checkpointer:
  alone = checkpoint.lead_only()
  handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
  return ocp.Checkpointer(handler, multiprocessing_options=alone)


def save(weights: Weights, folder: pathlib.Path) -> None:
  """Writes `folder/weights`.

  Args:
    weights: numpy or jax arrays.
    folder: where nothing of that name is yet.
  """
  target = folder.absolute() / FOLDER
  with contextlib.closing(_checkpointer()) as orbax:
    orbax.save(target, args=ocp.args.StandardSave(weights))
  seal.put(target)


def _read(folder: pathlib.Path, like: Weights) -> Weights:
  """The weights of an export.

  Raises:
    ValueError: damaged, or of other shapes; names the folder.
  """
  fault = seal.fault(folder)
  if fault:
    raise ValueError(f'{folder} is damaged ({fault})')
  with contextlib.closing(_checkpointer()) as orbax:
    found = orbax.metadata(folder).item_metadata.tree
    checkpoint.check_shapes(folder, found, like)
    blank = parallel.blank(like)
    return orbax.restore(folder, args=ocp.args.StandardRestore(blank))


def best(folder: str | os.PathLike, like: Any) -> Weights | None:
  """The weights of an export, or of a run's best checkpoint.

  On all processes; the lead alone reads.

  Args:
    folder: that holds `weights` or `checkpoints`.
    like: a `TrainState` of the shapes to read.

  Returns:
    Numpy arrays; None where there is neither.

  Raises:
    ValueError: damaged, or of other shapes; says which.
  """
  folder = pathlib.Path(folder).absolute()
  wanted = Weights(like.params, like.memory)
  if parallel.from_lead(lambda: (folder / FOLDER).is_dir()):
    read = lambda: _read(folder / FOLDER, wanted)
    return parallel.arrays_from_lead(read, wanted)
  with checkpoint.Checkpoints(folder, read_only=True) as store:
    state = store.best(like)
  return None if state is None else Weights(state[1].params, state[1].memory)
