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
import pathlib
import sys

from absl import logging

from data import preparation
from dbdc_jax.reporting import curves, page, runs, sections
from dbdc_jax.runtime import compilation_cache, parallel


def _flags() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m dbdc_jax.report',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add('workdir', nargs='+', help='folder of a finished run')
  add('--output', metavar='FILE', help='default: WORKDIR/report.html')
  add(
    '--pseudo_labels',
    type=int,
    default=4,
    metavar='N',
    help='unlabelled scans of each modality to score, default 4',
  )
  return parser


def _names(found: Sequence[runs.Run]) -> list[str]:
  """The folders' names, with as much of their path as tells them apart."""
  for depth in range(1, 32):
    names = ['/'.join(run.workdir.parts[-depth:]) for run in found]
    if len(set(names)) == len(names):
      return names
  raise ValueError('a run is named twice')


def main(argv: Sequence[str] | None = None) -> int:
  """Writes a report; returns the process's exit code."""
  parser = _flags()
  args = parser.parse_args(argv)
  if args.pseudo_labels < 1:
    parser.error('--pseudo_labels: at least 1')
  if len(args.workdir) > 1 and args.output is None:
    parser.error('several runs need --output FILE')
  logging.set_verbosity(logging.FATAL)
  output = args.output or str(pathlib.Path(args.workdir[0], 'report.html'))
  try:
    found = [runs.read(workdir) for workdir in args.workdir]
    page.check(output)
    names = _names(found)
    compilation_cache.use(preparation.cache_folder(found[0].config.data.cache))
    tabs = []
    for name, run in zip(names, found, strict=True):
      print(f'{name} ({parallel.describe()})', flush=True)
      tabs.append(sections.tab(name, run, args.pseudo_labels))
    if len(found) > 1:
      both = curves.comparison(list(zip(names, found, strict=True)))
      tabs.insert(0, page.Tab('Comparison', [both]))
    colours: dict[str, str] = {}
    for run in found:
      colours |= curves.class_colours(run.classes)
    tasks = dict.fromkeys(run.results['run']['task'] for run in found)
    title = f'{", ".join(tasks)}: report'
    html = page.build(
      title[:1].upper() + title[1:], tabs, list(colours.items())
    )
    page.write(html, output)
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  print(f'report: {output}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
