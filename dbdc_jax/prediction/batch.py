"""Many scans, one after another; reading and writing overlap with computing."""

from collections.abc import Callable, Mapping
from concurrent import futures
import dataclasses
import pathlib

import numpy as np

from data import atomic, preprocess, progress, scan_files, volume_io
from data.scan_error import ScanError
from data.scan_files import Source
from data.volume_io import Volume
from dbdc_jax import pictures
from dbdc_jax.prediction import recognition
from dbdc_jax.segmentation import Segmentation, Segmenter


@dataclasses.dataclass
class Outcome:
  """What became of the scans.

  Attributes:
    done: names of those that were segmented.
    skipped: names of those whose label map was there.
    errors: what was wrong with the others.
  """

  done: list[str] = dataclasses.field(default_factory=list)
  skipped: list[str] = dataclasses.field(default_factory=list)
  errors: list[ScanError] = dataclasses.field(default_factory=list)


def _write(
  output: pathlib.Path,
  name: str,
  volume: Volume,
  found: Segmentation,
  picture: Callable[[pathlib.Path], None] | None,
) -> None:
  """Writes a scan's outputs; last the label map, which says: done."""
  if found.entropy is not None:
    data = volume_io.nifti_bytes(found.entropy, volume)
    atomic.write(output / f'{name}_entropy.nii.gz', data)
  if picture:
    picture(output / 'overlays' / f'{name}.png')
  data = volume_io.nifti_bytes(found.labels, volume)
  atomic.write(output / f'{name}.nii.gz', data)


def _picture(name, volume, found, modality, classes):
  """Makes the overlay of the slice with most foreground."""
  grid = volume.affine, modality.plane
  image = preprocess.reorient(volume.voxels, *grid)
  labels = preprocess.reorient(found.classes, *grid)
  spacing = preprocess.reoriented_spacing(*grid)
  index = pictures.choose_slices(labels, 1)[0]
  inside = image[tuple(slice(*part) for part in found.box)]
  shown = preprocess.between(
    image[index], *preprocess.limits(inside, modality.intensity)
  )
  label = labels[index].copy()

  def write(path: pathlib.Path) -> None:
    pictures.overlay(
      path,
      shown,
      None,
      label,
      classes,
      title=f'{name}, slice {index}',
      spacing=(spacing[1], spacing[2]),
    )

  return write


def _segment_one(segmenter, name, path, volume, modality, say):
  """One scan: the modality that it was taken for, and what was found."""
  if modality == 'auto':
    fit = recognition.recognize(segmenter, volume)
    say(f'{name}: {fit}')
    if fit.modality is None:
      raise ScanError(
        path,
        f'no modality of the run fits: {fit}',
        'name it with --modality, if it is one that the run was trained on',
      )
    modality = fit.modality
  spacing = np.linalg.norm(volume.affine[:3, :3], axis=0)
  return modality, segmenter.segment(
    volume.voxels, spacing, modality, volume.affine
  )


def run(
  segmenter: Segmenter,
  scans: Mapping[str, Source],
  output: pathlib.Path,
  *,
  modality: str,
  overwrite: bool = False,
  overlay: bool = False,
  quiet: bool = False,
) -> Outcome:
  """Segments scans into a folder.

  While one is computed, the next is read and the one before is written.

  Args:
    segmenter: what segments them.
    scans: name -> scan.
    output: where NAME.nii.gz goes; exists.
    modality: one of the run's, or 'auto'.
    overwrite: also scans whose label map is there.
    overlay: also write overlays/NAME.png.
    quiet: no progress bar, no messages.

  Raises:
    OSError: the disk took no more.
  """
  outcome = Outcome()
  todo = []
  for name, path in scans.items():
    there = (output / f'{name}.nii.gz').exists() and not overwrite
    if there:
      outcome.skipped.append(name)
    else:
      todo.append((name, path))
  classes = segmenter.runs[0].task.classes
  with (
    futures.ThreadPoolExecutor(1) as reader,
    futures.ThreadPoolExecutor(1) as writer,
    progress.bar(quiet) as bar,
  ):
    say = (lambda text: None) if quiet else bar.console.print
    job = bar.add_task('segmenting', total=len(todo))
    read = lambda index: (
      reader.submit(scan_files.read, todo[index][1])
      if index < len(todo)
      else None
    )
    following, writing = read(0), None
    for index, (name, path) in enumerate(todo):
      reading, following = following, read(index + 1)
      try:
        volume = reading.result()
        chosen, found = _segment_one(
          segmenter, name, path, volume, modality, say
        )
      except ScanError as error:
        outcome.errors.append(error)
        bar.advance(job)
        continue
      picture = None
      if overlay:
        kind = segmenter.runs[0].modality(chosen)
        picture = _picture(name, volume, found, kind, classes)
      if writing is not None:
        writing.result()
      writing = writer.submit(_write, output, name, volume, found, picture)
      outcome.done.append(name)
      bar.advance(job)
    if writing is not None:
      writing.result()
  return outcome
