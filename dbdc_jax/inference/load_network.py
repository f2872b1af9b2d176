"""Runs an exported network with jax and numpy alone.

This file lies beside the network, which holds its weights:

  from load_network import load
  network = load('ct')
  logits = network(images)

`images` are `[n, height, width, 1]` float32 in [0, 1], prepared as model.json
says under 'preprocessing'; both sides divide by 8. `logits` are
`[n, height, width, classes]` float32; their softmax are the probabilities, and
model.json lists the classes.
"""

from collections.abc import Callable
import dataclasses
import hashlib
import json
import pathlib

import jax
from jax import export
import jax.numpy as jnp
import numpy as np


def load(
  modality: str, folder: str | pathlib.Path | None = None
) -> Callable[[np.ndarray], jax.Array]:
  """Loads the network of a modality.

  Args:
    modality: its name, one of model.json's.
    folder: of the export; None: the one that this file is in.

  Returns:
    The function `images -> logits`.

  Raises:
    ValueError: an unknown modality, or a damaged file.
  """
  folder = pathlib.Path(folder or pathlib.Path(__file__).parent)
  model = json.loads((folder / 'model.json').read_text())
  found = [n for n in model['networks'] if modality in n['modalities']]
  if not found:
    known = ', '.join(model['modalities'])
    raise ValueError(f'no modality {modality!r} in {folder}: choose {known}')
  network = found[0]
  code = (folder / network['file']).read_bytes()
  if hashlib.sha256(code).hexdigest() != model['files'][network['file']]:
    raise ValueError(f'{folder / network["file"]} is damaged: copy it again')
  call = jax.jit(_exported(network, code, len(model['classes'])).call)
  index = network['modalities'].index(modality)

  def run(images: np.ndarray) -> jax.Array:
    modality = jnp.full(len(images), index, jnp.int32)
    return call(jnp.asarray(images, jnp.float32), modality)

  return run


def inputs() -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
  """Images `[b, 8h, 8w, 1]` and modality ids `[b]`, of any b, h and w."""
  b, h, w = export.symbolic_shape('b, h, w')
  images = jax.ShapeDtypeStruct((b, 8 * h, 8 * w, 1), jnp.float32)
  return images, jax.ShapeDtypeStruct((b,), jnp.int32)


def _exported(network: dict, code: bytes, classes: int) -> export.Exported:
  """The StableHLO with what jax wants to know of its inputs and outputs.

  The project writes no pickle and no flatbuffer: a function of the same inputs
  and outputs lends its description.
  """
  like = export.export(
    jax.jit(lambda images, ids: jnp.zeros((*images.shape[:3], classes))),
    platforms=network['platforms'],
  )(*inputs())
  return dataclasses.replace(
    like,
    mlir_module_serialized=code,
    calling_convention_version=network['calling_convention_version'],
    module_kept_var_idx=tuple(network['module_kept_var_idx']),
    uses_global_constants=network['uses_global_constants'],
  )
