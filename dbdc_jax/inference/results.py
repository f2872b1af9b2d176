"""The files of one scan's result: their names, contents, and writing them."""

import dataclasses
import functools
import hashlib
import pathlib
from typing import Any, NamedTuple

import numpy as np

from data.files import atomic, names
from data.formats import file_kinds, itk
from data.formats.nifti import Volume
from data.formats.scan_error import ScanError
from data.formats.scan_files import Source
from data.preprocessing import preprocess
from data.task import Modality
from dbdc_jax.evaluation import pictures
from dbdc_jax.inference import provenance, volumes
from dbdc_jax.inference.segmentation import Segmentation, Segmenter, crop
from dbdc_jax.workdir import run_record

VOLUMES = 'volumes.csv'
_SEG = '.dcm'
_ONE = Volume(np.zeros((1, 1, 1)), np.eye(4))


@dataclasses.dataclass(frozen=True)
class Job:
  """What is asked for.

  Attributes:
    segmenter: what segments the scans.
    output: the folder of the results.
    modality: one of the run's, or 'auto'.
    overwrite: also scans whose results are there, whoever made them.
    overlay: also overlays/NAME.png.
    volumes: also volumes.csv.
    format: of the label maps, one of `choices.FORMATS`; 'input' is that of the
      scan, a DICOM SEG object for a DICOM series.
  """

  segmenter: Segmenter
  output: pathlib.Path
  modality: str
  overwrite: bool = False
  overlay: bool = False
  volumes: bool = False
  format: str = 'nifti'

  @functools.cached_property
  def made_with(self) -> dict[str, Any]:
    """Everything that a label map depends on but the scan."""
    runs, auto = self.segmenter.runs, self.modality == 'auto'
    names = [m.name for m in runs[0].modalities] if auto else [self.modality]
    return {
      'runs': [run.identity for run in runs],
      'modality': self.modality,
      'format': self.format,
      'mirror': self.segmenter.mirror,
      'largest_component': {
        name: self.segmenter.names_of_kept(name) for name in names
      },
      'roi': self.segmenter.roi,
    }

  def files(self, source: Source) -> dict[str, str]:
    """Kind -> name of each file that is written for a scan."""
    own = file_kinds.scan_ending(source.path) if source.path.is_file() else ''
    endings = {'nifti': '.nii.gz', 'input': own or _SEG, 'dicom-seg': _SEG}
    ending = endings[self.format]
    out = {'label': names.on_disk(source.name, ending)}
    if self.segmenter.entropy:
      # A segmentation object holds no such values.
      grey = '.nii.gz' if ending == _SEG else ending
      out['entropy'] = names.on_disk(f'{source.name}_entropy', grey)
    if self.overlay:
      out['overlay'] = 'overlays/' + names.on_disk(source.name, '.png')
    return out

  def measured(self) -> set[str] | None:
    """The scans that volumes.csv has a line of; None if none is asked for.

    Raises:
      ScanError: the file there is another table.
    """
    if not self.volumes:
      return None
    return {row[volumes.SCAN] for row in volumes.read(self.output / VOLUMES)}

  def check(self, source: Source, volume: Volume) -> None:
    """Refuses, before it is segmented, a scan that the format cannot hold.

    Raises:
      ScanError: it is no DICOM series, or lacks what an object must say.
    """
    if self.files(source)['label'].endswith(_SEG):
      from dbdc_jax.inference.dicom import dicom_seg

      if not volume.files:
        raise ScanError(
          source.path,
          'no DICOM series, which a DICOM SEG object must refer to',
          'give a DICOM series, or --format nifti',
        )
      dicom_seg.check(volume)

  def written(self, source: Source) -> list[str]:
    """Every file that is written for a scan, both of a pair; a label last."""
    out = []
    for kind, file in reversed(self.files(source).items()):
      if kind == 'overlay' or file.endswith(_SEG):
        out.append(file)
      else:
        out += [name for name, _ in _encoded(_ONE.voxels, _ONE, file)]
    return out


def _encoded(
  voxels: np.ndarray, like: Volume, file: str
) -> list[tuple[str, bytes]]:
  """The files (name, content) that hold voxels on a scan's grid."""
  ending = file_kinds.scan_ending(pathlib.Path(file))
  return itk.encode(voxels, like, file[: -len(ending)], ending)


class SegmentedScan(NamedTuple):
  """A scan that was segmented, ready to be written.

  Attributes:
    source: the scan.
    volume: as it was read.
    found: in it.
    modality: that it was taken for.
    entry: of the output folder's record, without the files.
  """

  source: Source
  volume: Volume
  found: Segmentation
  modality: Modality
  entry: provenance.Result


def _label_files(
  job: Job, scan: SegmentedScan, file: str
) -> list[tuple[str, bytes]]:
  if not file.endswith(_SEG):
    return _encoded(scan.found.labels, scan.volume, file)
  from dbdc_jax.inference.dicom import dicom_seg

  run = job.segmenter.runs[0]
  data = dicom_seg.encode(
    scan.found.classes,
    scan.volume,
    run.task.classes,
    colours=pictures.COLOURS,
    model=f'{run.task.name}, {run.config.method}, {scan.modality.title}',
    version=run_record.version(),
  )
  return [(file, data)]


def write(job: Job, scan: SegmentedScan) -> None:
  """Writes a scan's results; last the entry that says what they are.

  Raises:
    ScanError: the format cannot hold it.
    OSError: the disk took no more.
  """
  files = job.files(scan.source)
  contents: list[tuple[str, bytes]] = []
  if 'overlay' in files:
    (job.output / 'overlays').mkdir(exist_ok=True)
    contents.append((files['overlay'], _picture(job, scan)))
  if scan.found.entropy is not None:
    contents += _encoded(scan.found.entropy, scan.volume, files['entropy'])
  contents += _label_files(job, scan, files['label'])
  for name, data in contents:
    atomic.write(job.output / name, data)
  if job.volumes:
    _write_volumes(job, scan)
  hashes = {n: hashlib.sha256(data).hexdigest() for n, data in contents}
  entry = scan.entry._replace(files=hashes)
  provenance.add(job.output, scan.source.name, entry)


def _write_volumes(job: Job, scan: SegmentedScan) -> None:
  path = job.output / VOLUMES
  now = volumes.rows(
    scan.source.name,
    scan.modality.name,
    scan.found.classes,
    scan.volume.affine,
    job.segmenter.runs[0].task.classes,
    set(scan.modality.codes.values()),
  )
  volumes.write(path, volumes.merge(volumes.read(path), now))


def _picture(job: Job, scan: SegmentedScan) -> bytes:
  """The overlay of the slice with most foreground, as PNG."""
  grid = scan.volume.affine, scan.modality.plane
  image = preprocess.reorient(scan.volume.voxels, *grid)
  labels = preprocess.reorient(scan.found.classes, *grid)
  spacing = preprocess.reoriented_spacing(*grid)
  index = pictures.choose_slices(labels, 1)[0]
  limits = preprocess.limits(
    image[crop(scan.found.box)], scan.modality.intensity
  )
  return pictures.overlay_png(
    preprocess.between(image[index], *limits),
    None,
    labels[index],
    job.segmenter.runs[0].task.classes,
    title=f'{scan.source.name}, slice {index}',
    spacing=(spacing[1], spacing[2]),
  )
