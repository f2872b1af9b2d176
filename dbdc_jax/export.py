r"""Gives a trained network away: weights, StableHLO and what it needs to know.

  python -m dbdc_jax.export --run runs/abdomen --output exported
      the whole model: Orbax weights (for python -m dbdc_jax.predict --run
      exported), a StableHLO file for CPU, CUDA and TPU that runs with jax
      alone (load_network.py), and model.json

  python -m dbdc_jax.export --run runs/with_t2 --modality t2 --output t2_rows
      what belongs to T2 alone: its rows of both banks, a few thousand numbers

  python -m dbdc_jax.export --run runs/ct --add t2_rows --output with_t2
      a model (a run or an export) and such rows of another modality, which must
      have been trained with the very same shared weights

Exit codes: 0 done, 1 it could not be done, 2 a wrong command line.
"""

import argparse
from collections.abc import Sequence
import io
import pathlib
import sys

from absl import logging
import numpy as np

from data.files import atomic
from dbdc_jax.inference import exported_model, trained_run
from dbdc_jax.inference.exported_model import Model
from dbdc_jax.models import bank_rows
from dbdc_jax.workdir import export_folder

_ROWS_FILE = 'rows.npz'


def write_model(model: Model, output: pathlib.Path, overwrite: bool) -> None:
  """Exports a whole model.

  Args:
    model: what is exported.
    output: the folder to make.
    overwrite: replace an export that is there.

  Raises:
    ValueError: `output` is there and must not be replaced.
    OSError: the disk is full.
  """
  with export_folder.making(output, overwrite, [model.source]) as folder:
    export_folder.describe(
      folder, export_folder.MODEL, exported_model.write(model, folder)
    )


def write_rows(
  model: Model, modality: str, output: pathlib.Path, overwrite: bool
) -> None:
  """Exports one modality's rows of both banks.

  Args:
    model: that has the modality.
    modality: its name.
    output: the folder to make.
    overwrite: replace an export that is there.

  Raises:
    ValueError: the model has no such rows, or see `write_model`.
    OSError: the disk is full.
  """
  index = _names(model, 'without banks it has no rows').index(modality)
  learnt = model.networks[0].weights
  said = exported_model.of_modality(model, modality)
  said['shared'] = bank_rows.shared_fingerprint(learnt)
  data = io.BytesIO()
  np.savez(data, **bank_rows.take(learnt, index))
  with export_folder.making(output, overwrite, [model.source]) as folder:
    atomic.write(folder / _ROWS_FILE, data.getvalue())
    export_folder.describe(folder, export_folder.ROWS, said)


def add_rows(model: Model, rows: pathlib.Path) -> Model:
  """A model with one more modality.

  Args:
    model: whose shared weights the rows were trained with.
    rows: a folder that `write_rows` made.

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


def _names(model: Model, otherwise: str) -> list[str]:
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


def _flags(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog='python -m dbdc_jax.export',
    formatter_class=argparse.RawDescriptionHelpFormatter,
    description=__doc__,
  )
  add = parser.add_argument
  add(
    '--run',
    required=True,
    metavar='WORKDIR',
    help='a run, or an export of one',
  )
  add('--output', required=True, metavar='DIR', help='the folder to make')
  choice = parser.add_mutually_exclusive_group()
  choice.add_argument(
    '--modality', metavar='NAME', help="export this modality's rows alone"
  )
  choice.add_argument(
    '--add',
    action='append',
    default=[],
    metavar='ROWS_DIR',
    help='add exported rows (several: several times)',
  )
  add(
    '--overwrite',
    action='store_true',
    help='replace what was exported there before',
  )
  return parser.parse_args(argv)


def _run(flags: argparse.Namespace) -> None:
  output = pathlib.Path(flags.output)
  # Before anything is computed; and again when it is written.
  export_folder.check(output, flags.overwrite, [flags.run, *flags.add])
  run = trained_run.load(flags.run)
  if flags.modality:
    run.modality(flags.modality)
  model = exported_model.of_run(run)
  if flags.modality:
    write_rows(model, flags.modality, output, flags.overwrite)
    print(f'rows of {flags.modality}: {output}')
    return
  for rows in flags.add:
    model = add_rows(model, pathlib.Path(rows))
  write_model(model, output, flags.overwrite)
  print(f'model of {", ".join(model.names)}: {output}')


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns its exit code."""
  flags = _flags(argv)
  # What Orbax has to say is not for this command's reader.
  logging.set_verbosity(logging.FATAL)
  try:
    _run(flags)
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())
