"""MM-WHS: cardiac CT and MR with seven labelled structures.

ct_train/ct_train_1001_image.nii.gz   ct_train/ct_train_1001_label.nii.gz
mr_train/...   ct_test/ct_test_2001_image.nii.gz   mr_test/...   (no labels)
"""

from collections.abc import Iterator, Sequence
import functools
import pathlib

import numpy as np

from data.formats.label_maps import map_codes
from data.formats.nifti import check_pair, read_nifti
from data.formats.scan_error import ScanError
from data.task import Case, Modality, Scan

# Some MR labels hold 421 where the left atrium's 420 is meant.
_STRAY, _MEANT = 421, 420


def _read(image_file, label_file, modality: Modality) -> Scan:
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
  codes = label.voxels
  if modality.series == 'mr':
    codes = np.where(codes == _STRAY, _MEANT, codes)
  # Codes exceed 255: they go through the table before any cast to 8 bit.
  classes = map_codes(codes, modality.codes, label_file)
  return Scan(image.voxels, classes, image.affine, image.notes + label.notes)


def cases(
  root: str, modalities: Sequence[Modality], include_unlabeled: bool = False
) -> Iterator[Case]:
  """The scans under `root`, sorted by name.

  Args:
    root: the folder that holds ct_train/ and mr_train/.
    modalities: those of this source.
    include_unlabeled: also the archive's test scans.

  Raises:
    ScanError: a modality has no scan there.
  """
  found = []
  for modality in modalities:
    kind = modality.series
    parts = ['train', 'test'] if include_unlabeled else ['train']
    for part in parts:
      folder = pathlib.Path(root) / f'{kind}_{part}'
      images = [
        path
        for ending in ('nii', 'nii.gz')
        for path in folder.glob(f'{kind}_{part}_*_image.{ending}')
      ]
      if part == 'train' and not images:
        raise ScanError(
          root,
          f'no MM-WHS {modality.title} scans found',
          f'expected {kind}_train/{kind}_train_1001_image.nii.gz and'
          ' ..._label.nii.gz in this folder',
        )
      found += [(path, part, modality) for path in images]
  for image, part, modality in sorted(found, key=lambda f: f[0].name):
    name = image.name.split('_image.')[0]
    label = image.with_name(image.name.replace('_image.', '_label.'))
    label = label if part == 'train' else None
    files = [image] + ([label] if label and label.exists() else [])
    number = name.split('_')[-1]
    yield Case(
      name=name,
      patient=f'mmwhs_{modality.series}_{number}',
      modality=modality.name,
      files=tuple(str(f) for f in files),
      labeled=label is not None,
      read=functools.partial(_read, image, label, modality),
    )
