"""What training costs: counted, and measured on the device at hand.

  python -m dbdc_jax.benchmark --count
  python -m dbdc_jax.benchmark --steps --methods dbdc,supervised --widths 8,32
  python -m dbdc_jax.benchmark --parts --waiting --json benchmark.json
  python -m dbdc_jax.benchmark --collectives 8,64
  python -m dbdc_jax.benchmark --compare 2,4 --widths 8 --patch 48
  python -m dbdc_jax.benchmark --metrics --predict --width 32
  python -m dbdc_jax.benchmark --recognition abdomen:ct,t2 --scans DIR
  python -m dbdc_jax.benchmark --compile-for h100 --methods dbdc --modalities 2

Several can be asked for at once. Images are random and made here, except for
--waiting, which trains on the phantom, and --recognition: no scans are needed.
"""

import argparse
from collections.abc import Sequence

from data.files import command


def _list(kind: type):
  return lambda text: [kind(part) for part in text.split(',')]


def _flags() -> argparse.ArgumentParser:
  from dbdc_jax.benchmarking import choices

  parser = command.parser('dbdc_jax.benchmark', __doc__)
  add = parser.add_argument
  asked = parser.add_argument_group('what to measure (at least one)')
  what = asked.add_argument
  what('--count', action='store_true', help="networks' sizes; nothing is run")
  what('--steps', action='store_true', help='train steps')
  what('--parts', action='store_true', help='the step by leaving parts out')
  what('--waiting', action='store_true', help='time spent waiting for data')
  what(
    '--collectives',
    type=_list(int),
    metavar='N,N',
    help='what a step sends on so many devices (none of them is needed)',
  )
  what(
    '--compare',
    type=_list(int),
    metavar='K,K',
    help=f'time of 2K over K modalities; fails above {choices.COMPARE_LIMIT}',
  )
  what('--metrics', action='store_true', help="scores of one volume's test")
  what('--predict', action='store_true', help='one volume, from file to file')
  what(
    '--recognition',
    metavar='TASK[:M,M]',
    help='--modality auto, by cross-validation on heart or abdomen (and these'
    ' modalities); nothing is trained',
  )
  what(
    '--compile-for',
    choices=choices.cards(),
    help='kernels and bytes of a step on a GPU that is not needed (but'
    f' {choices.REQUIREMENTS} is); --dtype auto is bfloat16',
  )
  told = parser.add_argument_group('with --recognition').add_argument
  told(
    '--scans',
    metavar='DIR',
    help="holds the archives' folders (btcv, chaos, mmwhs); default: a phantom",
  )
  told('--known', type=int, metavar='N', help='patients of a modality, at most')
  told('--no-tags', action='store_true', help='as if no scan had DICOM tags')
  told('--changed', action='store_true', help='also scans cropped, padded, ...')
  add('--methods', type=_list(str), metavar='NAME,NAME', help='default: all')
  add('--modalities', type=_list(int), metavar='K,K', default=[1])
  widths = ('--width', '--widths')
  add(*widths, dest='widths', type=_list(int), metavar='W,W', default=[32])
  add('--patch', type=int, default=96, help='pixels, default 96')
  add('--batch', type=int, default=8, help='slices per modality, default 8')
  add('--classes', type=int, default=8, help='default 8')
  add('--stride', type=int, default=1, help='of the embeddings, default 1')
  add('--dtype', default='auto', choices=('auto', 'float32', 'bfloat16'))
  add('--devices', type=int, metavar='N', help='split the CPU into N devices')
  add('--rounds', type=int, default=10, help='timed steps of each, default 10')
  add('--cache', default='', help="folder of the phantom, default: the user's")
  add('--json', metavar='FILE', help='all numbers, as a file')
  return parser


def _measure(flags: argparse.Namespace) -> int:
  from dbdc_jax.benchmarking import suite

  return suite.run(flags)


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns its exit code (1 if a limit is not kept)."""
  return command.run(_flags, _measure, argv)


if __name__ == '__main__':
  command.leave(main())
