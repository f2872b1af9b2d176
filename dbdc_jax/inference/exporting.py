"""Exports: a whole model, or one modality's rows of the banks."""

from collections.abc import Sequence
import io
import os
import pathlib
from typing import Any

import numpy as np

from data.files import atomic
from dbdc_jax.inference import exported_model, trained_run
from dbdc_jax.inference.exported_model import ExportedModel
from dbdc_jax.models import bank_rows
from dbdc_jax.workdir import export_folder

_ROWS_FILE = 'rows.npz'


def export(
  run: str | os.PathLike[str],
  output: str | os.PathLike[str],
  *,
  modality: str | None = None,
  add: Sequence[str | os.PathLike[str]] = (),
  overwrite: bool = False,
) -> ExportedModel:
  """Exports a run; the folder appears whole or not at all.

  Args:
    run: a workdir, or an export.
    output: the folder to make.
    modality: whose rows alone are exported.
    add: folders of exported rows that the model gets before.
    overwrite: replace an export that is there.

  Returns:
    What was exported, or what the rows were taken from.

  Raises:
    ValueError: there is no such run, `output` must not be replaced, or the
      rows do not fit.
    OSError: the disk is full.
  """
  folder = pathlib.Path(output)
  # Before anything is computed; and again when it is written.
  export_folder.check(folder, overwrite, [run, *add])
  loaded = trained_run.load(run)
  if modality:
    loaded.modality(modality)
  model = exported_model.of_run(loaded)
  if modality:
    _write_rows(model, modality, folder, overwrite)
    return model
  for rows in add:
    model = add_rows(model, pathlib.Path(rows))
  with export_folder.making(folder, overwrite, [model.source]) as partial:
    export_folder.describe(
      partial, export_folder.MODEL, exported_model.write(model, partial)
    )
  return model


def _write_rows(
  model: ExportedModel, modality: str, output: pathlib.Path, overwrite: bool
) -> None:
  """Exports one modality's rows of both banks."""
  index = _names(model, 'without banks it has no rows').index(modality)
  learnt = model.networks[0].weights
  said = exported_model.of_modality(model, modality)
  said['shared'] = bank_rows.shared_fingerprint(learnt)
  data, taken = io.BytesIO(), dict[str, Any](bank_rows.take(learnt, index))
  np.savez(data, **taken)
  with export_folder.making(output, overwrite, [model.source]) as folder:
    atomic.write(folder / _ROWS_FILE, data.getvalue())
    export_folder.describe(folder, export_folder.ROWS, said)


def add_rows(model: ExportedModel, rows: pathlib.Path) -> ExportedModel:
  """A model with one more modality.

  Args:
    model: whose shared weights the rows were trained with.
    rows: a folder of exported rows.

  Raises:
    ValueError: the rows are damaged, or of another network.
  """
  said = export_folder.read(rows, export_folder.ROWS)
  names = _names(model, 'without banks it takes no rows')
  name = said['modality']
  if name in names:
    raise ValueError(f'{rows}: the model has {name} already')
  learnt = model.networks[0].weights
  shared = bank_rows.shared_fingerprint(learnt)
  if said['shared'] != shared or said['classes'] != list(model.classes):
    raise ValueError(
      f'{rows}: {name} was trained with other shared weights'
      f' ({said["shared"][:12]}) than {model.source} has ({shared[:12]}):'
      ' train it with --config.train_only=banks and'
      f' --config.init_from={model.source}'
    )
  with np.load(rows / _ROWS_FILE) as file:
    learnt = bank_rows.append(learnt, dict(file))
  return exported_model.with_modality(model, said, learnt)


def _names(model: ExportedModel, otherwise: str) -> list[str]:
  """Modalities of the one network with banks."""
  if not model.joint:
    raise ValueError(
      f'{model.source}: {model.config.method} has a network per modality;'
      f' {otherwise}'
    )
  bank_rows.check(model.config.model.modulation, str(model.source))
  bank_rows.check_rows(
    model.networks[0].weights.memory, len(model.names), str(model.source)
  )
  return model.names
