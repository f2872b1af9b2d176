"""BTCV "Beyond the Cranial Vault": abdominal CT with 13 labelled organs.

RawData/Training/img/img0001.nii.gz   RawData/Training/label/label0001.nii.gz
RawData/Testing/img/img0061.nii.gz    (no labels; some copies say Test)
"""

from collections.abc import Iterator, Sequence
import functools
import pathlib

from data.formats.label_maps import map_codes
from data.formats.nifti import check_pair, read_nifti
from data.formats.scan_error import ScanError
from data.task import Case, Modality, Scan

_LAYOUT = 'RawData/Training/img/img0001.nii.gz and label/label0001.nii.gz'


def _read(image_file, label_file, codes) -> Scan:
  image = read_nifti(image_file)
  if label_file is None:
    return Scan(image.voxels, None, image.affine, image.notes)
  if not label_file.exists():
    raise ScanError(
      image_file,
      f'its label {label_file.name} is missing',
      f'put it at {label_file}, or move the image away',
    )
  label = read_nifti(label_file, label=True)
  check_pair(image, label, label_file)
  classes = map_codes(label.voxels, codes, label_file)
  return Scan(image.voxels, classes, image.affine, image.notes + label.notes)


def _images(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(
    p for e in ('nii', 'nii.gz') for p in folder.glob(f'img[0-9]*.{e}')
  )


def cases(
  root: str, modalities: Sequence[Modality], include_unlabeled: bool = False
) -> Iterator[Case]:
  """The scans under `root`, sorted by name.

  Args:
    root: the folder that holds RawData/, or RawData itself.
    modalities: those of this source.
    include_unlabeled: also the archive's test scans.

  Raises:
    ScanError: no scan is there.
  """
  (modality,) = modalities
  top = pathlib.Path(root)
  if (top / 'RawData').is_dir():
    top = top / 'RawData'
  training = _images(top / 'Training' / 'img')
  if not training:
    raise ScanError(
      root, 'no BTCV scans found', f'expected {_LAYOUT} in this folder'
    )
  pairs = [(p, p.parents[1] / 'label' / f'label{p.name[3:]}') for p in training]
  if include_unlabeled:
    for name in ('Testing', 'Test'):
      pairs += [(p, None) for p in _images(top / name / 'img')]
  for image, label in sorted(pairs, key=lambda pair: pair[0].name):
    number = image.name.split('.')[0].removeprefix('img')
    files = [image] + ([label] if label and label.exists() else [])
    yield Case(
      name=f'img{number}',
      patient=f'btcv_{number}',
      modality=modality.name,
      files=tuple(str(f) for f in files),
      labeled=label is not None,
      read=functools.partial(_read, image, label, modality.codes),
    )
