"""Checks and measures the project on a GPU within a budget of seconds.

  python benchmarks/gpu/check.py --out OUT --budget 480
  python benchmarks/gpu/check.py --out OUT --budget 480 --parts env,correct
  python benchmarks/gpu/check.py --out OUT --budget 900 --tiny   (on a CPU)

Parts run in order of their value (`plan.PARTS`); those that no longer fit the
budget are skipped. OUT/results.json has all numbers, also of a call that was
stopped; a table ends the output, which OUT/log.txt repeats together with what
the parts say. PyTorch is measured beside if it is installed here, or in the
environment of --torch-python. Without a GPU it stops after the first part.

OUT/work is large and may go afterwards; --keep uses it again. Another place for
it: GPU_CHECK_WORK=DIR. Exit codes: 0 nothing went wrong, 1 a part differs from
the CPU, failed or was killed, 2 a wrong command line.
"""

import argparse
from collections.abc import Sequence
import os
import pathlib
import sys

# `python benchmarks/gpu/check.py` puts this folder first, not the project.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from benchmarks.gpu import orchestrator, plan, worker, workspace


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--out', required=True, help='folder of the results')
  add('--budget', type=float, default=480, help='seconds in all')
  add('--tiny', action='store_true', help='small sizes, to rehearse on a CPU')
  add('--parts', default='', help='only these, comma-separated')
  add('--slow', type=float, default=1, help='parts may take so much longer')
  add('--keep', action='store_true', help='programs, data and other parts stay')
  add('--torch-python', default='', help='interpreter that has torch')
  # How the command starts itself again.
  add('--role', default='', help=argparse.SUPPRESS)
  add('--deadline', type=float, default=0, help=argparse.SUPPRESS)
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns its exit code."""
  parser = _parser()
  flags = parser.parse_args(argv)
  flags.out = str(pathlib.Path(flags.out).absolute())
  try:
    plan.chosen(flags.parts)
  except ValueError as error:
    parser.error(str(error))
  if flags.role == 'worker':
    worker.run(flags)
  elif flags.role == 'data':
    # With it comes jax, which the orchestrator does without.
    from benchmarks.gpu import training

    training.prepare(flags)
  else:
    os.environ.setdefault(workspace.WORK, os.path.join(flags.out, 'work'))
    try:
      check = orchestrator.Orchestrator(flags)
    except ValueError as error:
      parser.error(str(error))
    return 0 if check.run() else 1
  return 0


if __name__ == '__main__':
  sys.exit(main())
