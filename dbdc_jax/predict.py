r"""Segments scans with a trained run.

  python -m dbdc_jax.predict --run runs/abdomen --modality ct \
      --input scan.nii.gz --output segmented
  python -m dbdc_jax.predict --run runs/a --run runs/b --modality t2 \
      --input FOLDER --output segmented --components largest --overlay

The input is a scan, or a folder of scans: NIfTI, MetaImage, NRRD or Analyze
files and DICOM series, in subfolders of any depth. For each, NAME.nii.gz
appears in the output folder: the task's original label codes on the scan's own
grid. A scan whose result was made before, from the same scan with the same runs
and options, is skipped (predictions.json there says what each was made from). A
bad scan is reported and the rest is done.

In a program:

  import dbdc_jax, nibabel
  segmenter = dbdc_jax.load('runs/abdomen')
  found = segmenter.segment(nibabel.load('scan.nii.gz'), 'ct')   # found.labels

Exit codes: 0 done, 1 something could not be segmented, 2 a wrong command line.
"""

import argparse
from collections.abc import Sequence
import pathlib
from typing import TYPE_CHECKING

from data.files import command, names
from data.formats.scan_error import ScanError, headed
from dbdc_jax.inference import choices

if TYPE_CHECKING:
  from dbdc_jax.inference.segmentation import Segmenter


def _flags() -> argparse.ArgumentParser:
  parser = command.parser('dbdc_jax.predict', __doc__)
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
    choices=choices.FORMATS,
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
    '--components',
    default='run',
    choices=choices.COMPONENTS,
    help='whose largest connected component alone is kept; run: as the results'
    ' of the run have it; validation: of the classes that its validation scans'
    ' chose; largest: of all',
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
    choices=choices.ROI,
    help='auto: a run that was trained on cropped scans finds the region first',
  )
  add(
    '--cache', default='', help='of compiled programs, default: the user cache'
  )
  return parser


def _notes(segmenter: 'Segmenter', mirror: bool) -> None:
  """Prints what is done, and warns of what was not trained for."""
  for run in segmenter.runs:
    names = ', '.join(
      f'{m.name} at {run.mm_per_pixel[m.name]:.2f} mm' for m in run.modalities
    )
    classes = ', '.join(run.task.classes[1:])
    print(f'{run.folder}: {run.config.method}, {names}; {classes}')
    for doubt in run.doubts:
      command.tell(f'warning: {doubt}')
    if mirror and not run.config.augment.flips:
      command.tell(
        'warning: this run was not trained on mirror images (augment.flips);'
        ' organs that have a side will be mixed up'
      )
    wanted = segmenter.components, run.config.evaluation.components
    if wanted == ('run', 'validation') and not run.components:
      command.tell(
        'warning: its validation scans have not chosen whose largest component'
        ' is kept: none is'
      )
  for modality in segmenter.runs[0].modalities:
    if kept := segmenter.names_of_kept(modality.name):
      print(f'{modality.name}: largest component alone of {", ".join(kept)}')


def _left_out(found: Sequence[ScanError]) -> None:
  for one in found:
    print(names.printable(f'left out: {one.file} ({one.reason})'))


def _segment(flags: argparse.Namespace) -> int:
  """Everything behind the command line."""
  from dbdc_jax.runtime import memory

  memory.keep()
  from data import preparation
  from dbdc_jax.inference import folder_of_scans, results, segmentation
  from dbdc_jax.runtime import compilation_cache

  compilation_cache.use(preparation.cache_folder(flags.cache))
  output = pathlib.Path(flags.output)
  found = folder_of_scans.find(flags.input, output, flags.series)
  if not found.scans and not found.problems:
    _left_out(found.left_out)
    raise ScanError(
      flags.input,
      'no scan in it',
      'expected NIfTI, MetaImage, NRRD or Analyze files, or DICOM series',
    )
  segmenter = segmentation.load(
    *flags.run,
    mirror=flags.mirror,
    components=flags.components,
    entropy=flags.uncertainty,
    roi=flags.roi,
  )
  if flags.modality != 'auto':
    for run in segmenter.runs:
      run.modality(flags.modality)
  output.mkdir(parents=True, exist_ok=True)
  folder_of_scans.check_names(output, found)
  _notes(segmenter, flags.mirror)
  _left_out(found.left_out)
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
    command.tell(headed(errors, f'{len(errors)} could not be segmented'))
  return int(bool(errors))


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns its exit code."""
  return command.run(_flags, _segment, argv)


if __name__ == '__main__':
  command.leave(main())
