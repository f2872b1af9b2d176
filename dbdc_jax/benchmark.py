"""What the networks cost.

  python -m dbdc_jax.benchmark --count

counts parameters and multiply-accumulates of the paper's networks, on one
training patch, in the paper's form and as this project computes them.
"""

import argparse
from collections.abc import Sequence
import sys

from dbdc_jax import counting
from dbdc_jax.models.projector import Projector
from dbdc_jax.models.unet import UNet

_TASKS = (('heart', 8, 96), ('abdomen', 5, 128))


def count_table(width: int = 32) -> str:
  """Parameters and multiply-accumulates as a table for the terminal."""
  lines = [
    f'{"task":10s}{"patch":>6s}{"network":>28s}{"K":>3s}{"parameters":>12s}'
    f'{"GMAC, paper":>13s}{"GMAC, here":>12s}'
  ]
  for task, classes, patch in _TASKS:
    rows = [('plain U-Net', UNet(classes, 1, width), None, 1)]
    for modalities in (1, 2, 4):
      net = UNet(classes, modalities, width, extra_head=True)
      rows.append(('with modulation bank', net, None, modalities))
      rows.append(('with both banks', net, Projector(), modalities))
    for name, net, projector, modalities in rows:
      count = counting.parameters(net, projector)
      paper, here = (
        counting.macs(net, patch, projector, paper=form) / 1e9
        for form in (True, False)
      )
      lines.append(
        f'{task:10s}{patch:6d}{name:>28s}{modalities:3d}{count:12,d}'
        f'{paper:13.3f}{here:12.3f}'
      )
  return '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns its exit code."""
  parser = argparse.ArgumentParser(
    prog='python -m dbdc_jax.benchmark',
    description='Counts what the networks cost.',
  )
  parser.add_argument(
    '--count',
    action='store_true',
    required=True,
    help='parameters and multiply-accumulates',
  )
  parser.add_argument('--width', type=int, default=32, help='default: 32')
  print(count_table(parser.parse_args(argv).width))
  return 0


if __name__ == '__main__':
  sys.exit(main())
