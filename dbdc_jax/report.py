"""A page about one or several finished runs, in one file that opens offline.

  python -m dbdc_jax.report runs/heart
      writes runs/heart/report.html

  python -m dbdc_jax.report runs/heart runs/lower_bound --output report.html
      compares them, with a tab for each

Tables, training curves, box plots, the best, median and worst test scans as
overlays and surfaces, features and prototypes by t-SNE, and how right the
network is on the unlabelled training scans. The scans and the checkpoints are
read again; where they are gone, the page says so and shows the rest.

A report replaces a report, and nothing else.

The page holds slices of the scans: with real ones, share it as you may share
them.
"""

import argparse
from collections.abc import Sequence

from data.files import command


def _flags() -> argparse.ArgumentParser:
  parser = command.parser('dbdc_jax.report', __doc__)
  add = parser.add_argument
  add('workdir', nargs='+', help='folder of a finished run')
  add('--output', metavar='FILE', help='default: WORKDIR/report.html')
  add(
    '--pseudo-labels',
    type=int,
    default=4,
    metavar='N',
    help='unlabelled scans of each modality to score, default 4',
  )
  return parser


def _report(flags: argparse.Namespace) -> None:
  if flags.pseudo_labels < 1:
    raise command.WrongFlags('--pseudo-labels: at least 1')
  if len(flags.workdir) > 1 and flags.output is None:
    raise command.WrongFlags('several runs need --output FILE')
  from dbdc_jax.reporting import report

  output = report.write(flags.workdir, flags.output, flags.pseudo_labels)
  print(f'report: {output}')


def main(argv: Sequence[str] | None = None) -> int:
  """Writes a report; returns the process's exit code."""
  return command.run(_flags, _report, argv)


if __name__ == '__main__':
  command.leave(main())
