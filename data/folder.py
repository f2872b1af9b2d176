"""Own scans: one subfolder per modality, described by a `dataset.json`.

DIR/dataset.json            see `task_file.py`; data.prepare --init writes one
DIR/ct/images/scan_a.nii.gz     .nii, .nii.gz, or a folder with a DICOM series
DIR/ct/labels/scan_a.nii.gz     of the same name; none: the scan is unlabelled
DIR/t2/imagesTr/case_1_0000.nii.gz      nnU-Net's raw folders work as they are
DIR/t2/labelsTr/case_1.nii.gz
DIR/t2/imagesTs/...                     (read where test scans are asked for)
"""

from collections.abc import Iterator, Sequence
import functools
import pathlib
import re

from data import scan_files, task_file
from data.scan_files import Source
from data.task import Case, Modality, Scan
from data.volume_io import ScanError, check_pair, map_codes

TASK_FILE = 'dataset.json'
_IMAGES = ('images', 'imagesTr')
_LABELS = ('labels', 'labelsTr')
_TEST = 'imagesTs'
# nnU-Net's number of an image's channel.
_CHANNEL = re.compile(r'_(\d{4})$')


def _read(image_source: Source, label_source: Source | None, codes) -> Scan:
  image = scan_files.read(image_source)
  classes, notes = None, image.notes
  if label_source is not None:
    label = scan_files.read(label_source, label=True)
    files = str(image_source.path), str(label_source.path)
    check_pair(image, label, *files)
    classes = map_codes(label.voxels, codes, files[1])
    notes += label.notes
  return Scan(image.voxels, classes, image.affine, notes, image.tags)


def _first(folder: pathlib.Path, names: Sequence[str]) -> pathlib.Path | None:
  return next((folder / n for n in names if (folder / n).is_dir()), None)


def _case_names(images: pathlib.Path) -> dict[str, Source]:
  """Case -> image; nnU-Net's channel number is no part of the name."""
  nnunet = images.name != _IMAGES[0]
  out: dict[str, Source] = {}
  for name, source in scan_files.find(images).scans.items():
    channel = _CHANNEL.search(name) if nnunet else None
    if channel and channel[1] != '0000':
      raise ScanError(
        source.path,
        f'channel {channel[1]} of a scan: a modality is one channel',
        'give each channel a modality folder of its own',
      )
    name = name[: channel.start()] if channel else name
    if name in out:
      raise ScanError(
        source.path, f'the same case as {out[name].path}', 'remove one of them'
      )
    out[name] = source
  return out


def labels_of(folder: pathlib.Path) -> dict[str, Source]:
  """Case -> label map of a modality's folder."""
  labels = _first(folder, _LABELS)
  return scan_files.find(labels).scans if labels else {}


def images_of(folder: pathlib.Path) -> dict[str, Source]:
  """Case -> image of a modality's folder.

  Raises:
    ScanError: there are none.
  """
  images = _first(folder, _IMAGES)
  found = _case_names(images) if images else {}
  if not found:
    raise ScanError(
      folder,
      'no scans found',
      f'expected {folder}/images/ with .nii or .nii.gz files, or a folder with'
      ' a DICOM series for each case',
    )
  return found


def cases(
  root: str, modalities: Sequence[Modality], include_unlabeled: bool = False
) -> Iterator[Case]:
  """The scans under `root`, by modality and name.

  Args:
    root: the folder that holds dataset.json and a folder per modality.
    modalities: those of this source.
    include_unlabeled: also nnU-Net's test scans (imagesTs).

  Raises:
    ScanError: a modality has no scans, or labels without a scan.
  """
  top = pathlib.Path(root)
  people = task_file.patients(top / TASK_FILE)
  for modality in modalities:
    folder = top / modality.series
    images, labels = images_of(folder), labels_of(folder)
    orphans = sorted(labels.keys() - images.keys())
    if orphans:
      raise ScanError(
        labels[orphans[0]].path,
        f'{len(orphans)} label maps without a scan of the same name',
        'name scans and label maps alike, or move the label maps away',
      )
    if include_unlabeled and (folder / _TEST).is_dir():
      images = _case_names(folder / _TEST) | images
    for name, image in sorted(images.items()):
      label = labels.get(name)
      clean = re.sub(r'[^A-Za-z0-9_-]', '_', name)
      yield Case(
        name=f'{modality.name}_{clean}',
        patient=people.get(f'{modality.name}/{name}', name),
        modality=modality.name,
        files=tuple(map(str, image.files() + (label.files() if label else ()))),
        labeled=label is not None,
        read=functools.partial(_read, image, label, modality.codes),
        affine=functools.partial(scan_files.affine, image),
      )
