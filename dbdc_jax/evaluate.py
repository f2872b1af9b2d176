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

from data.files import command, names
from data.formats.scan_error import headed


def _positive(kind: type):
  def parse(text: str):
    value = kind(text)
    if not 0 < value < float('inf'):
      raise ValueError
    return value

  # argparse shows it: "invalid positive int value: '0'".
  parse.__name__ = f'positive {kind.__name__}'
  return parse


def _flags() -> argparse.ArgumentParser:
  parser = command.parser('dbdc_jax.evaluate', __doc__)
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
    metavar='N',
    help='processes; default: one for each processor',
  )
  add(
    '--allow-missing',
    action='store_true',
    help='a file without its partner in the other folder is no error',
  )
  return parser


def _evaluate(flags: argparse.Namespace) -> int:
  from dbdc_jax.evaluation import case_pool, folders, summary

  found = folders.score(
    flags.prediction,
    flags.reference,
    flags.output,
    classes=flags.classes,
    tolerance=flags.tolerance,
    workers=flags.workers or case_pool.count(),
  )
  for line in summary.table(found.results).split('\n'):
    print(names.printable(line))
  missing = [] if flags.allow_missing else found.missing
  if problems := missing + found.problems:
    command.tell(headed(problems, 'not scored'))
  return int(bool(problems))


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns its exit code (1 if a case could not be scored)."""
  return command.run(_flags, _evaluate, argv)


if __name__ == '__main__':
  command.leave(main())
