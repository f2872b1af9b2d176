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

import numpy as np

from data import task_file
from data.dicom_io import dicom_files, read_dicom
from data.task import Case, Modality, Scan
from data.volume_io import (
  ScanError,
  Volume,
  check_pair,
  map_codes,
  read_nifti,
)

TASK_FILE = 'dataset.json'
_ENDINGS = ('.nii', '.nii.gz')
_IMAGES = ('images', 'imagesTr')
_LABELS = ('labels', 'labelsTr')
_TEST = 'imagesTs'
# nnU-Net's number of an image's channel.
_CHANNEL = re.compile(r'_(\d{4})$')


def scan_name(path: pathlib.Path) -> str:
  """A scan's name: its file's without ending, or its folder's."""
  for ending in reversed(_ENDINGS):
    if path.is_file() and path.name.endswith(ending):
      return path.name.removesuffix(ending)
  return path.name


def scans_in(folder: pathlib.Path) -> list[pathlib.Path]:
  """NIfTI files, and folders that hold files, sorted by name."""
  found = []
  for path in sorted(folder.iterdir()) if folder.is_dir() else []:
    if path.name.startswith('.'):
      continue
    series = path.is_dir() and dicom_files(path)
    if series or (path.is_file() and path.name.endswith(_ENDINGS)):
      found.append(path)
  return found


def read_volume(path: pathlib.Path, *, label: bool = False) -> Volume:
  """A NIfTI file, or the DICOM series of a folder.

  Args:
    path: of the file or folder.
    label: whether it is a label map.

  Raises:
    ScanError: it is not one sound 3-D volume.
  """
  if path.is_file():
    return read_nifti(path, label=label)
  volume, _ = read_dicom(path)
  if not label:
    return volume
  codes = np.round(volume.voxels)
  if not np.array_equal(codes, volume.voxels):
    raise ScanError(
      path, 'label voxels are not whole numbers', 'export the labels again'
    )
  return Volume(codes.astype(np.int32), volume.affine)


def _read(image_path, label_path, codes) -> Scan:
  image = read_volume(image_path)
  if label_path is None:
    return Scan(image.voxels, None, image.affine)
  label = read_volume(label_path, label=True)
  check_pair(image, label, str(image_path), str(label_path))
  classes = map_codes(label.voxels, codes, label_path)
  return Scan(image.voxels, classes, image.affine)


def _first(folder: pathlib.Path, names: Sequence[str]) -> pathlib.Path | None:
  return next((folder / n for n in names if (folder / n).is_dir()), None)


def _case_names(images: pathlib.Path) -> dict[str, pathlib.Path]:
  """Case -> image; nnU-Net's channel number is no part of the name."""
  nnunet = images.name != _IMAGES[0]
  out: dict[str, pathlib.Path] = {}
  for path in scans_in(images):
    name = scan_name(path)
    channel = _CHANNEL.search(name) if nnunet else None
    if channel and channel[1] != '0000':
      raise ScanError(
        path,
        f'channel {channel[1]} of a scan: a modality is one channel',
        'give each channel a modality folder of its own',
      )
    name = name[: channel.start()] if channel else name
    if name in out:
      raise ScanError(
        path, f'the same case as {out[name]}', 'remove one of them'
      )
    out[name] = path
  return out


def labels_of(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Case -> label map of a modality's folder."""
  labels = _first(folder, _LABELS)
  return {scan_name(p): p for p in scans_in(labels)} if labels else {}


def images_of(folder: pathlib.Path) -> dict[str, pathlib.Path]:
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


def _files(path: pathlib.Path | None) -> list[pathlib.Path]:
  if path is None:
    return []
  return dicom_files(path) if path.is_dir() else [path]


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
        labels[orphans[0]],
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
        files=tuple(map(str, _files(image) + _files(label))),
        labeled=label is not None,
        read=functools.partial(_read, image, label, modality.codes),
      )
