"""MM-WHS: cardiac CT and MR with seven labelled structures.

ct_train/ct_train_1001_image.nii.gz   ct_train/ct_train_1001_label.nii.gz
mr_train/...   ct_test/ct_test_2001_image.nii.gz   mr_test/...   (no labels)
"""

from collections.abc import Iterator, Sequence
import pathlib

from data.formats.scan_error import need
from data.readers import image_and_label
from data.task import Case, Modality

# Some MR labels hold 421 where the left atrium's 420 is meant.
_STRAY, _MEANT = 421, 420


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
    for part in ('train', 'test')[: 1 + include_unlabeled]:
      folder = pathlib.Path(root) / f'{kind}_{part}'
      images = image_and_label.files(folder, f'{kind}_{part}_*_image.')
      need(
        images or part == 'test',
        root,
        f'no MM-WHS {modality.title} scans found',
        f'expected {kind}_train/{kind}_train_1001_image.nii.gz and'
        ' ..._label.nii.gz in this folder',
      )
      found += [(path, part, modality) for path in images]
  for image, part, modality in sorted(found, key=lambda f: f[0].name):
    name = image.name.split('_image.')[0]
    label = image.with_name(image.name.replace('_image.', '_label.'))
    codes = modality.codes
    if modality.series == 'mr' and _MEANT in codes:
      codes = codes | {_STRAY: codes[_MEANT]}
    patient = f'mmwhs_{modality.series}_{name.split("_")[-1]}'
    drawn = label if part == 'train' else None
    yield image_and_label.case(name, patient, modality, image, drawn, codes)
