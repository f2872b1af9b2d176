r"""Segments scans with a trained run.

  python -m dbdc_jax.predict --run runs/abdomen --modality ct \
      --input scan.nii.gz --output segmented
  python -m dbdc_jax.predict --run runs/a --run runs/b --modality t2 \
      --input FOLDER --output segmented --keep-largest --overlay

The input is a scan, or a folder of scans: NIfTI, MetaImage, NRRD or Analyze
files and DICOM series, in subfolders of any depth. For each, NAME.nii.gz
appears in the output folder: the task's original label codes on the scan's own
grid. A scan whose result was made before, from the same scan with the same runs
and options, is skipped (predictions.json there says what each was made from). A
bad scan is reported and the rest is done.

In a program:

  from dbdc_jax import predict
  segmenter = predict.load('runs/abdomen')
  found = segmenter.segment(volume, spacing, 'ct')   # found.labels

Exit codes: 0 done, 1 something could not be segmented, 2 a wrong command line.
"""

import argparse
from collections.abc import Sequence
import io
import os
import pathlib
import sys

from absl import logging

from data import preparation
from data.files import atomic, names
from data.formats import nnunet, scan_files
from data.formats.scan_error import ScanError, table
from dbdc_jax.inference import (
  folder_of_scans,
  provenance,
  results,
  segmentation,
  trained_run,
)
from dbdc_jax.runtime import compilation_cache, memory


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
    [trained_run.load(workdir) for workdir in workdirs],
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
  add(
    '--overwrite',
    action='store_true',
    help='also scans that are done, and files that somebody else put there;'
    ' never a scan',
  )
  add(
    '--series',
    default='',
    help='of DICOM folders with several series, the one to take: its'
    ' description, number or UID',
  )
  add(
    '--format',
    default='nifti',
    choices=results.FORMATS,
    help="of the label maps; input: the scan's own; dicom-seg: a DICOM SEG"
    ' object for each DICOM series',
  )
  add(
    '--volumes',
    action='store_true',
    help='also volumes.csv: mL of each class in each scan',
  )
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


def _find(flags: argparse.Namespace, output: pathlib.Path):
  """What the input holds, the output folder left out; and all of its files.

  Raises:
    ScanError: there is no scan.
    ValueError: results would lie among the scans.
  """
  place = pathlib.Path(flags.input)
  found = scan_files.find(place, series=flags.series, without=(output,))
  if place.is_dir():
    cases, problems = nnunet.channels(found.scans)
    found = found._replace(scans=cases, problems=found.problems + problems)
  files = [file for scan in found.scans.values() for file in scan.files()]
  provenance.check_output(output, place, files)
  if not found.scans and not found.problems:
    _tell(found.left_out)
    raise ScanError(
      place,
      'no scan in it',
      'expected NIfTI, MetaImage, NRRD or Analyze files, or DICOM series',
    )
  return found


def _tell(left_out: Sequence[ScanError]) -> None:
  for one in left_out:
    print(names.printable(f'left out: {one.file} ({one.reason})'))


def _check_names(output: pathlib.Path, found: scan_files.Listing) -> None:
  """Refuses results that this disk would take for one file.

  Raises:
    ScanError: naming both scans.
  """
  pairs = names.same_on_disk(found.scans)
  if not pairs or atomic.tells_capitals_apart(output):
    return
  one, other = pairs[0]
  raise ScanError(
    found.scans[other].path,
    f'the disk of {output} cannot tell {other} from {one}',
    'rename one of them, or give an --output on another disk',
  )


def _segment(flags: argparse.Namespace) -> int:
  """Everything behind the command line."""
  output = pathlib.Path(flags.output)
  found = _find(flags, output)
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
  output.mkdir(parents=True, exist_ok=True)
  _check_names(output, found)
  _notes(segmenter, flags)
  _tell(found.left_out)
  job = results.Job(
    segmenter,
    output,
    modality=flags.modality,
    overwrite=flags.overwrite,
    overlay=flags.overlay,
    volumes=flags.volumes,
    format=flags.format,
  )
  outcome = folder_of_scans.run(job, found.scans)
  for name, note in outcome.notes:
    print(names.printable(f'{name}: {note}'))
  print(
    f'{len(outcome.done)} scans segmented into {output.absolute()},'
    f' {len(outcome.skipped)} were there already'
    + (' (--overwrite does them again)' if outcome.skipped else '')
  )
  errors = found.problems + outcome.errors
  if errors:
    print(
      f'{len(errors)} could not be segmented:\n' + table(errors),
      file=sys.stderr,
    )
  return int(bool(errors))


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns its exit code."""
  flags = _flags(argv)
  for stream in (sys.stdout, sys.stderr):
    # Names are of any language; a terminal need not have its letters.
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='backslashreplace')
  logging.set_verbosity(logging.FATAL)
  memory.keep()
  compilation_cache.use(preparation.cache_folder(flags.cache))
  try:
    return _segment(flags)
  except ScanError as error:
    print(table([error]), file=sys.stderr)
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
  return 1


if __name__ == '__main__':
  sys.exit(main())
