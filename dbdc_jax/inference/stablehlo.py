"""A network as StableHLO, which runs without this project.

One file for CPU, CUDA and TPU, with the weights inside, any number of images
and any sides that divide by 8. `load_network.py`, which is put beside it, runs
it with jax alone.
"""

from collections.abc import Callable, Sequence
import pathlib
import shutil
from typing import Any

import jax
from jax import export

from data.files import atomic
from dbdc_jax.inference import load_network

PLATFORMS = ('cpu', 'cuda', 'tpu')


def write(
  folder: pathlib.Path,
  name: str,
  predict: Callable[..., jax.Array],
  weights: tuple[Any, Any],
  modalities: Sequence[str],
) -> dict[str, Any]:
  """Writes `folder/name.stablehlo`.

  Args:
    folder: that is given away.
    name: of the file.
    predict: a method's `predict`.
    weights: its params and memory, as numpy arrays.
    modalities: names, in bank order.

  Returns:
    What `load_network` has to know of it.
  """

  def logits(images, modality):
    return predict(*weights, images, modality)

  lowered = export.export(jax.jit(logits), platforms=PLATFORMS)(
    *load_network.inputs()
  )
  file = f'{name}.stablehlo'
  atomic.write(folder / file, bytes(lowered.mlir_module_serialized))
  return {
    'file': file,
    'modalities': list(modalities),
    'platforms': list(lowered.platforms),
    'calling_convention_version': lowered.calling_convention_version,
    'module_kept_var_idx': list(lowered.module_kept_var_idx),
    'uses_global_constants': lowered.uses_global_constants,
    'inputs': {
      'images': 'float32 [b, 8h, 8w, 1] in [0, 1]',
      'modality': 'int32 [b], place in modalities',
    },
    'output': 'float32 [b, 8h, 8w, classes] logits',
  }


def write_loader(folder: pathlib.Path) -> None:
  """Puts the program that runs the networks beside them."""
  source = pathlib.Path(load_network.__file__)
  shutil.copyfile(source, folder / source.name)
