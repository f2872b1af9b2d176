"""BTCV "Beyond the Cranial Vault": abdominal CT with 13 labelled organs.

RawData/Training/img/img0001.nii.gz   RawData/Training/label/label0001.nii.gz
RawData/Testing/img/img0061.nii.gz    (no labels; some copies say Test)
"""

from collections.abc import Iterator, Sequence
import pathlib

from data.formats.scan_error import need
from data.readers import image_and_label
from data.task import Case, Modality

_LAYOUT = 'RawData/Training/img/img0001.nii.gz and label/label0001.nii.gz'
_IMAGES = 'img[0-9]*.'


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
  training = image_and_label.files(top / 'Training' / 'img', _IMAGES)
  remedy = f'expected {_LAYOUT} in this folder'
  need(training, root, 'no BTCV scans found', remedy)
  pairs: list[tuple[pathlib.Path, pathlib.Path | None]] = [
    (p, p.parents[1] / 'label' / f'label{p.name[3:]}') for p in training
  ]
  for name in ('Testing', 'Test') if include_unlabeled else ():
    more = image_and_label.files(top / name / 'img', _IMAGES)
    pairs += [(path, None) for path in more]
  for image, label in sorted(pairs, key=lambda pair: pair[0].name):
    number = image.name.split('.')[0].removeprefix('img')
    yield image_and_label.case(
      f'img{number}', f'btcv_{number}', modality, image, label, modality.codes
    )
