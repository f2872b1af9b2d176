"""CHAOS: abdominal MR, DICOM series with labels as grey-value PNG files.

[CHAOS_Train_Sets/]Train_Sets/MR/<id>/T2SPIR/DICOM_anon/*.dcm
                                     /T2SPIR/Ground/*.png
                                     /T1DUAL/DICOM_anon/{InPhase,OutPhase}/
                                     /T1DUAL/Ground/*.png    (of both phases)
[CHAOS_Test_Sets/]Test_Sets/MR/<id>/...                      (no labels)
"""

from collections.abc import Iterator, Sequence
import functools
import pathlib
import re
import warnings

import numpy as np
from PIL import Image

from data.formats.dicom import read_dicom
from data.formats.dicom_files import files_in
from data.formats.label_maps import map_codes
from data.formats.scan_error import AGAIN, ScanError, need
from data.task import Case, Modality, Scan

# Grey values (above, up to) of each organ, and the middle that stands for it.
_GREY = ((55, 70, 63), (110, 135, 126), (175, 200, 189), (240, 255, 252))


def grey_codes(grey: np.ndarray) -> np.ndarray:
  """Grey values to one code per organ; values outside all ranges stay."""
  out = grey.astype(np.int32)
  for above, up_to, middle in _GREY:
    out[(grey > above) & (grey <= up_to)] = middle
  return out


def _number(path: pathlib.Path) -> int:
  """The integer after the last '-' of a file's name."""
  match = re.search(r'(\d+)$', path.stem.rsplit('-', 1)[-1])
  if match is None:
    reason = 'no slice number behind the last "-"'
    raise ScanError(path, reason, 'keep the official names')
  return int(match.group(1))


def _read_png(path: pathlib.Path, size: tuple[int, int]) -> np.ndarray:
  """The grey values of a picture of `size` (columns, rows), `[H, W]`."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('error')  # Of absurdly large pictures.
      picture = Image.open(path)
    with picture:
      # Before the pixels are unpacked: a small file may hold a huge picture.
      words = f'label slice of {picture.size} pixels, image slices of {size}'
      remedy = 'give the labels that were drawn on this series'
      need(picture.size == size, path, words, remedy)
      # A palette's indices, or colours, are not the archive's grey values.
      grey = picture.mode in ('L', 'I', 'I;16')
      words = f'a picture of mode {picture.mode}, not of grey values'
      need(grey, path, words, 'export the labels as grey-value PNG')
      return np.asarray(picture)
  except ScanError:
    raise
  except Exception as error:
    raise ScanError(path, f'not a readable PNG ({error})', AGAIN) from error


def _read_label(
  ground: pathlib.Path, files: Sequence[pathlib.Path], shape, codes
) -> np.ndarray:
  """Label volume `[X, Y, Z]` on the series' grid.

  The n-th PNG by number belongs to the n-th DICOM by number; that file's
  position says which slice of the volume it is.

  Args:
    ground: the folder of PNG files.
    files: the DICOM files in slice order.
    shape: of the volume.
    codes: of the modality.
  """
  pngs = sorted(
    (p for p in ground.glob('*.png') if not p.name.startswith('.')), key=_number
  )
  words = f'{len(pngs)} label slices for {len(files)} image slices'
  remedy = 'copy both folders again from their source'
  need(len(pngs) == len(files), ground, words, remedy)
  by_number = sorted(range(len(files)), key=lambda i: _number(files[i]))
  label = np.zeros(shape, np.int32)
  for png, index in zip(pngs, by_number, strict=True):
    label[:, :, index] = grey_codes(_read_png(png, shape[:2])).T
  return map_codes(label, codes, ground)


def _read(folder: pathlib.Path, ground: pathlib.Path | None, codes) -> Scan:
  volume = read_dicom(folder)
  label = None
  if ground is not None:
    remedy = f'put the labels into {ground}'
    need(ground.is_dir(), folder, 'its Ground folder is missing', remedy)
    label = _read_label(ground, volume.files, volume.voxels.shape, codes)
  return Scan(volume.voxels, label, volume.affine, volume.notes, volume.tags)


def _patients(root: str, which: str) -> list[pathlib.Path]:
  places = [f'CHAOS_{which}_Sets/{which}_Sets/MR', f'{which}_Sets/MR']
  places += ['MR'] if which == 'Train' else []
  for folder in map(pathlib.Path(root).joinpath, places):
    if folder.is_dir():
      found = (p for p in folder.iterdir() if p.is_dir() and p.name.isdigit())
      return sorted(found, key=lambda p: int(p.name))
  return []


def cases(
  root: str, modalities: Sequence[Modality], include_unlabeled: bool = False
) -> Iterator[Case]:
  """The scans under `root`, sorted by patient.

  Args:
    root: the folder that holds CHAOS_Train_Sets/ or Train_Sets/.
    modalities: those of this source.
    include_unlabeled: also the archive's test scans.

  Raises:
    ScanError: a modality has no scan there.
  """
  sets = [('Train', p) for p in _patients(root, 'Train')]
  if include_unlabeled:
    sets += [('Test', p) for p in _patients(root, 'Test')]
  for modality in modalities:
    sequence, _, phase = modality.series.partition('/')
    count = 0
    for which, patient in sets:
      folder = patient / sequence / 'DICOM_anon' / phase
      if not folder.is_dir():
        continue  # This patient was not scanned with this sequence.
      count += which == 'Train'
      ground = patient / sequence / 'Ground' if which == 'Train' else None
      files = files_in(folder)
      if ground is not None:
        files += sorted(ground.glob('*.png'))
      yield Case(
        name=f'{patient.name}_{modality.name}',
        patient=f'chaos_{patient.name}',
        modality=modality.name,
        files=tuple(map(str, files)),
        labeled=ground is not None,
        read=functools.partial(_read, folder, ground, modality.codes),
      )
    need(
      count,
      root,
      f'no CHAOS {modality.title} scans found',
      f'expected Train_Sets/MR/<id>/{sequence}/DICOM_anon'
      f'{"/" + phase if phase else ""}/*.dcm and {sequence}/Ground/*.png',
    )
