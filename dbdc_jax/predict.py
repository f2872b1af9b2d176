r"""Segments scans with a trained run.

  python -m dbdc_jax.predict --run runs/abdomen --modality ct \
      --input scan.nii.gz --output segmented
  python -m dbdc_jax.predict --run runs/a --run runs/b --modality t2 \
      --input FOLDER --output segmented --keep-largest --overlay

A FOLDER may hold .nii and .nii.gz files, subfolders with a DICOM series each,
or one DICOM series. For each scan NAME.nii.gz appears in the output folder: the
task's original label codes on the scan's own grid. Scans that are done are
skipped. A bad scan is reported and the rest is done.

In a program:

  from dbdc_jax import predict
  segmenter = predict.load('runs/abdomen')
  found = segmenter.segment(volume, spacing, 'ct')   # found.labels

Exit codes: 0 done, 1 something could not be segmented, 2 a wrong command line.
"""

import argparse
from collections.abc import Sequence
import os
import pathlib
import sys

from absl import logging

from data import prepare, scan_files
from data.scan_error import ScanError, table
from dbdc_jax import compilation_cache, deployed, memory, segmentation
from dbdc_jax.prediction import batch


def load(
  *workdirs: str | os.PathLike,
  mirror: bool = False,
  keep_largest: bool = False,
  entropy: bool = False,
  roi: str = 'auto',
) -> segmentation.Segmenter:
  """Loads what runs have learnt.

  Args:
    *workdirs: workdirs (or exports) of one or several runs of one task; the
      probabilities of several are averaged.
    mirror: average over mirror images, too.
    keep_largest: keep each class's largest connected component only.
    entropy: also return the entropy map.
    roi: 'auto' or 'none', see `segmentation.Segmenter`.

  Raises:
    ValueError: a folder holds no sound run; says what is wrong.
  """
  return segmentation.Segmenter(
    [deployed.load(workdir) for workdir in workdirs],
    mirror=mirror,
    keep_largest=keep_largest,
    entropy=entropy,
    roi=roi,
  )


def _flags(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog='python -m dbdc_jax.predict',
    formatter_class=argparse.RawDescriptionHelpFormatter,
    description=__doc__,
  )
  add = parser.add_argument
  add(
    '--run',
    action='append',
    required=True,
    metavar='WORKDIR',
    help='a run or an export of one; several are averaged',
  )
  add(
    '--modality',
    required=True,
    help="one of the run's, or auto: the one that fits each scan best",
  )
  add('--input', required=True, metavar='FILE|FOLDER')
  add('--output', required=True, metavar='FOLDER')
  add('--overwrite', action='store_true', help='also scans that are done')
  add(
    '--mirror',
    action='store_true',
    help='average over mirror images of each window (four times the time)',
  )
  add(
    '--keep-largest',
    action='store_true',
    help="keep each class's largest connected component",
  )
  add(
    '--uncertainty',
    action='store_true',
    help='also NAME_entropy.nii.gz: 0 certain, 1 a guess between all classes',
  )
  add('--overlay', action='store_true', help='also overlays/NAME.png')
  add(
    '--roi',
    default='auto',
    choices=segmentation.ROI_CHOICES,
    help='auto: a run that was trained on cropped scans finds the region first',
  )
  add(
    '--cache', default='', help='of compiled programs, default: the user cache'
  )
  return parser.parse_args(argv)


def _notes(segmenter: segmentation.Segmenter, flags) -> None:
  """Prints what is done, and warns of what was not trained for."""
  for run in segmenter.runs:
    names = ', '.join(
      f'{m.name} at {run.mm_per_pixel[m.name]:.2f} mm' for m in run.modalities
    )
    classes = ', '.join(run.task.classes[1:])
    print(f'{run.folder}: {run.config.method}, {names}; {classes}')
    if flags.mirror and not run.config.augment.flips:
      print(
        'warning: this run was not trained on mirror images (augment.flips);'
        ' organs that have a side will be mixed up',
        file=sys.stderr,
      )


def _scans(place: pathlib.Path) -> dict[str, scan_files.Source]:
  """The scans that are asked for."""
  found = scan_files.find(place).scans
  if not found:
    raise ScanError(
      place,
      'no scan in it',
      'expected .nii or .nii.gz files, or folders with DICOM series',
    )
  return found


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns its exit code."""
  flags = _flags(argv)
  logging.set_verbosity(logging.FATAL)
  memory.keep()
  compilation_cache.use(prepare.cache_folder(flags.cache))
  output = pathlib.Path(flags.output)
  try:
    segmenter = load(
      *flags.run,
      mirror=flags.mirror,
      keep_largest=flags.keep_largest,
      entropy=flags.uncertainty,
      roi=flags.roi,
    )
    if flags.modality != 'auto':
      for run in segmenter.runs:
        run.modality(flags.modality)
    found = _scans(pathlib.Path(flags.input))
    output.mkdir(parents=True, exist_ok=True)
    _notes(segmenter, flags)
    outcome = batch.run(
      segmenter,
      found,
      output,
      modality=flags.modality,
      overwrite=flags.overwrite,
      overlay=flags.overlay,
    )
  except ScanError as error:
    print(table([error]), file=sys.stderr)
    return 1
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  print(
    f'{len(outcome.done)} scans segmented into {output.absolute()},'
    f' {len(outcome.skipped)} were there already'
    + (' (--overwrite does them again)' if outcome.skipped else '')
  )
  if outcome.errors:
    print(
      f'{len(outcome.errors)} could not be segmented:\n'
      + table(outcome.errors),
      file=sys.stderr,
    )
  return int(bool(outcome.errors))


if __name__ == '__main__':
  sys.exit(main())
