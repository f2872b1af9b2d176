r"""Scores label maps against references, from this project or any other.

  python -m dbdc_jax.evaluate --prediction DIR --reference DIR --output DIR \
      [--classes 1=liver,2=kidney] [--tolerance MM] [--workers N]

matches NAME.nii or NAME.nii.gz of the two folders by name, prints a table, and
writes evaluation.json (every number, with its definition, unit and rule for
empty masks) and evaluation.csv. Whatever cannot be scored is listed with the
remedy; the exit code is then 1, and the scores are those of the other cases.
"""

import argparse
from collections.abc import Sequence
import functools
import pathlib
import sys

from data import progress, scan_error
from dbdc_jax.evaluation import case_pool, folders, label_codes, summary


def _positive(kind: type):
  def parse(text: str):
    value = kind(text)
    if not 0 < value < float('inf'):
      raise ValueError
    return value

  # argparse shows it: "invalid positive int value: '0'".
  parse.__name__ = f'positive {kind.__name__}'
  return parse


def _flags(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog='python -m dbdc_jax.evaluate',
    description='Scores label maps against references, matched by name.',
  )
  add = parser.add_argument
  add('--prediction', required=True, metavar='DIR', help='.nii or .nii.gz')
  add('--reference', required=True, metavar='DIR', help='.nii or .nii.gz')
  add('--output', required=True, metavar='DIR', help='made if missing')
  add(
    '--classes',
    default='',
    help="e.g. 1=liver,2=kidney, or a JSON file with 'labels'; default: every"
    ' code above 0 in the references, named by its number',
  )
  add(
    '--tolerance',
    type=_positive(float),
    metavar='MM',
    help="of the NSD; default: each case's largest voxel side",
  )
  add(
    '--workers',
    type=_positive(int),
    default=case_pool.count(),
    metavar='N',
    help='processes; default: one for each processor',
  )
  add(
    '--allow-missing',
    action='store_true',
    help='a file without its partner in the other folder is no error',
  )
  return parser.parse_args(argv)


def _evaluate(flags: argparse.Namespace) -> list[scan_error.ScanError]:
  """Scores, writes and prints; returns what could not be scored."""
  codes = label_codes.parse(flags.classes)
  found = folders.find(flags.prediction, flags.reference)
  output = pathlib.Path(flags.output)
  output.mkdir(parents=True, exist_ok=True)
  score = functools.partial(
    folders.score, codes=codes, tolerance=flags.tolerance
  )
  with progress.bar() as bar:
    job = bar.add_task('scoring cases', total=len(found.cases))
    outcomes = case_pool.run(
      score,
      found.cases,
      flags.workers,
      folders.too_large,
      lambda: bar.advance(job),
    )
  info = {'prediction': flags.prediction, 'reference': flags.reference}
  results = summary.summarize(found, outcomes, codes, flags.tolerance, info)
  summary.write(results, output)
  print(summary.table(results))
  problems = summary.problems(found, outcomes)
  return problems if flags.allow_missing else found.missing + problems


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns its exit code (1 if a case could not be scored)."""
  try:
    problems = _evaluate(_flags(argv))
  except (ValueError, OSError) as error:
    print(error, file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print('stopped: nothing was written', file=sys.stderr)
    return 130
  if problems:
    print('not scored:\n' + scan_error.table(problems), file=sys.stderr)
  return 1 if problems else 0


if __name__ == '__main__':
  sys.exit(main())
