"""Writes a phantom: made-up scans of heart and abdomen, with exact labels.

  python -m data.phantom --task heart --layout mmwhs --out scans/heart
  python -m data.phantom --task abdomen --layout btcv+chaos --out scans/abdomen

CT and MR scans in the official archives' layouts, to try the project without a
download. They say nothing about patients.
"""

import argparse
from collections.abc import Sequence

from data.files import command


def _flags() -> argparse.ArgumentParser:
  from data.phantoms.phantom import LAYOUTS, SIZES

  parser = command.parser('data.phantom', __doc__)
  add = parser.add_argument
  add('--task', choices=list(LAYOUTS), required=True, help='what is shown')
  layouts = 'mmwhs (heart) or btcv+chaos (abdomen); follows from --task'
  add('--layout', choices=list(LAYOUTS.values()), help=layouts)
  add('--out', required=True, help='folder to make; must not exist yet')
  people = 'people per archive (default: %(default)s)'
  add('--subjects', type=int, default=20, help=people)
  add('--seed', type=int, default=0, help='other people (default: %(default)s)')
  voxels = 'voxels per scan (default: %(default)s; tiny is for tests)'
  add('--size', choices=list(SIZES), default='quick', help=voxels)
  add('--quiet', action='store_true', help='no progress bar')
  return parser


def _write(flags: argparse.Namespace) -> None:
  from data.phantoms import phantom

  layout = phantom.LAYOUTS[flags.task]
  if flags.layout not in (None, layout):
    raise command.WrongFlags(f'--layout of --task {flags.task} is {layout}')
  roots = phantom.write(
    flags.task,
    flags.out,
    subjects=flags.subjects,
    seed=flags.seed,
    size=flags.size,
    quiet=flags.quiet,
  )
  for name, folder in roots.items():
    print(f'{name}: {folder}')


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns its exit code."""
  return command.run(_flags, _write, argv)


if __name__ == '__main__':
  command.leave(main())
