r"""Scores label maps against references, from this project or any other.

  python -m dbdc_jax.evaluate --prediction DIR --reference DIR --output DIR \
      [--classes 1=liver,2=kidney] [--tolerance MM] [--workers N]

matches the label maps of the two folders by name (NIfTI, MetaImage, NRRD or
DICOM), prints a table, and writes evaluation.json (every number, with its
definition, unit and rule for empty masks) and evaluation.csv. Both replace what
an earlier evaluation wrote, and nothing else. Whatever cannot be scored is
listed with the remedy; the exit code is then 1, and the scores are those of the
other cases.
"""

import argparse
from collections.abc import Sequence
import functools
import pathlib
import sys
from typing import TextIO

from data.files import names, progress
from data.formats import scan_error
from dbdc_jax.evaluation import (
  case_pool,
  case_scores,
  evaluation_files,
  label_codes,
  matching,
  summary,
)


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
  add('--prediction', required=True, metavar='DIR', help='label maps')
  add('--reference', required=True, metavar='DIR', help='label maps')
  add('--output', required=True, metavar='DIR', help='made if missing')
  add(
    '--classes',
    default='',
    help="e.g. 1=liver,2=kidney, or a JSON file: nnU-Net's or a folder's"
    " dataset.json, a run's task.json (FILE:MODALITY where modalities differ);"
    ' voxels of a reference whose code is named ignore are left out; default:'
    ' every code above 0 but 255 in the references, named by its number',
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
  classes = label_codes.parse(flags.classes)
  output = pathlib.Path(flags.output)
  found = matching.find(flags.prediction, flags.reference, output)
  evaluation_files.check(output)
  score = functools.partial(
    case_scores.score, classes=classes, tolerance=flags.tolerance
  )
  with progress.bar() as bar:
    job = bar.add_task('scoring cases', total=len(found.cases))
    outcomes = case_pool.run(
      score,
      found.cases,
      flags.workers,
      case_scores.too_large,
      lambda: bar.advance(job),
    )
  info = {'prediction': flags.prediction, 'reference': flags.reference}
  results = summary.summarize(found, outcomes, classes, flags.tolerance, info)
  evaluation_files.write(results, output)
  _say(summary.table(results), sys.stdout)
  problems = summary.problems(found, outcomes)
  problems += summary.nothing_scored(results)
  return problems if flags.allow_missing else found.missing + problems


def _say(text: str, stream: TextIO) -> None:
  """Prints what the stream has letters for, and the others by their codes."""
  kind = stream.encoding or 'utf-8'
  for line in map(names.printable, text.split('\n')):
    print(line.encode(kind, 'backslashreplace').decode(kind), file=stream)


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns its exit code (1 if a case could not be scored)."""
  try:
    problems = _evaluate(_flags(argv))
  except scan_error.ScanError as error:
    _say(scan_error.table([error]), sys.stderr)
    return 1
  except (ValueError, OSError) as error:
    _say(str(error), sys.stderr)
    return 1
  except KeyboardInterrupt:
    print('stopped: nothing was written', file=sys.stderr)
    return 130
  if problems:
    _say('not scored:\n' + scan_error.table(problems), sys.stderr)
  return 1 if problems else 0


if __name__ == '__main__':
  sys.exit(main())
