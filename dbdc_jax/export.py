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

from data.files import command


def _flags() -> argparse.ArgumentParser:
  parser = command.parser('dbdc_jax.export', __doc__)
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
  return parser


def _export(flags: argparse.Namespace) -> None:
  from dbdc_jax.inference import exporting

  model = exporting.export(
    flags.run,
    flags.output,
    modality=flags.modality,
    add=flags.add,
    overwrite=flags.overwrite,
  )
  for doubt in model.doubts:
    command.tell(f'warning: {doubt}; model.json says so')
  whole = f'model of {", ".join(model.names)}'
  what = f'rows of {flags.modality}' if flags.modality else whole
  print(f'{what}: {flags.output}')


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns its exit code."""
  return command.run(_flags, _export, argv)


if __name__ == '__main__':
  command.leave(main())
