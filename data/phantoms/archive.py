"""Writes the phantom's scans the way the official archives lay theirs out.

With the archives' known quirks, so that readers meet them: see each function.
"""

import pathlib
import warnings

import numpy as np
from PIL import Image
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from data.formats import affines
from data.formats.nifti import write_nifti

# The MR cases whose scanner used the other slice axis.
MMWHS_SAGITTAL = (1001, 1002, 1009, 1012, 1013, 1014)
CHAOS_IDS = (
  1, 2, 3, 5, 8, 10, 13, 15, 19, 20, 21, 22, 31, 32, 33, 34, 36, 37, 38, 39
)  # fmt: skip
# BTCV code -> grey value in CHAOS.
_GREY = {6: 63, 2: 126, 3: 189, 1: 252}
# Folder, description, and the series (folder, number) of each MR sequence.
_CHAOS = {
  't2': ('T2SPIR', 'T2_SPIR', [('', 1)]),
  't1': ('T1DUAL', 'T1_DUAL', [('InPhase', 2), ('OutPhase', 3)]),
}
_ROOT_UID = '1.2.826.0.1.3680043.8.498.7'


def chaos_id(index: int) -> int:
  """The archive's id of the n-th patient with labels."""
  if index < len(CHAOS_IDS):
    return CHAOS_IDS[index]
  return CHAOS_IDS[-1] + 1 + index - len(CHAOS_IDS)


def write_mmwhs(
  root: pathlib.Path, kind: str, index: int, subjects: int, image, label, affine
) -> None:
  """One MM-WHS case.

  Quirks: code 421 for some left-atrium voxels in the first MR label, stray
  foreground at the volume's border in the second, and one CT whose label
  affine differs slightly from the image's.

  Args:
    root: of the archive.
    kind: 'ct' or 'mr'.
    index: of the case.
    subjects: how many cases there are.
    image: `[X, Y, Z]`.
    label: `[X, Y, Z]`, MM-WHS codes.
    affine: `[4, 4]`, RAS mm.
  """
  folder = root / f'{kind}_train'
  folder.mkdir(parents=True, exist_ok=True)
  label, label_affine = label.copy(), affine.copy()
  if kind == 'mr' and index == 0:
    atrium = np.flatnonzero(label.ravel() == 420)
    label.ravel()[atrium[:: max(len(atrium) // 5, 1)]] = 421
  if kind == 'mr' and index == min(1, subjects - 1):
    label[:2, :1, :2] = 500
  if kind == 'ct' and index == min(3, subjects - 1):
    label_affine[:3, 3] += 0.06
  stem = f'{kind}_train_{1001 + index}'
  image = image.astype(np.int16)
  write_nifti(folder / f'{stem}_image.nii.gz', image, affine)
  write_nifti(folder / f'{stem}_label.nii.gz', label, label_affine)


def write_btcv(root: pathlib.Path, index: int, image, label, affine) -> None:
  """One BTCV case; arguments as in `write_mmwhs`, with BTCV codes."""
  # The archive's ids are 1-10, then go on from 21.
  number = index + 1 if index < 10 else index + 11
  for kind, voxels in (('img', image), ('label', label.astype(np.uint8))):
    folder = root / 'RawData' / 'Training' / kind
    folder.mkdir(parents=True, exist_ok=True)
    write_nifti(folder / f'{kind}{number:04d}.nii.gz', voxels, affine)


def _slice_file(patient: int, series: int, protocol: str) -> FileDataset:
  """A DICOM header without what differs between slices."""
  meta = FileMetaDataset()
  meta.MediaStorageSOPClassUID = MRImageStorage
  meta.MediaStorageSOPInstanceUID = UID(f'{_ROOT_UID}.0')
  meta.TransferSyntaxUID = ExplicitVRLittleEndian
  meta.ImplementationClassUID = UID(f'{_ROOT_UID}.1')
  file = FileDataset('', {}, file_meta=meta, preamble=b'\0' * 128)
  file.SOPClassUID = MRImageStorage
  file.Modality = 'MR'
  file.PatientName = f'PHANTOM^{patient}'
  file.PatientID = str(patient)
  file.SeriesDescription = protocol
  file.SeriesNumber = series
  file.StudyInstanceUID = f'{_ROOT_UID}.{patient}'
  file.SeriesInstanceUID = f'{_ROOT_UID}.{patient}.{series}'
  file.FrameOfReferenceUID = f'{_ROOT_UID}.{patient}.0.1'
  file.SamplesPerPixel, file.PhotometricInterpretation = 1, 'MONOCHROME2'
  file.BitsAllocated, file.BitsStored, file.HighBit = 16, 12, 11
  file.PixelRepresentation = 0
  return file


def _numbers(*values: float) -> list[str]:
  """Decimal strings that DICOM's 16 characters can hold."""
  return [f'{value:.6f}' for value in values]


def write_dicom(
  folder: pathlib.Path,
  voxels: np.ndarray,
  affine: np.ndarray,
  numbers: list[int],
  *,
  patient: int,
  series: int,
  protocol: str,
) -> None:
  """Writes a series, one file per slice along the last axis.

  Args:
    folder: made if missing.
    voxels: `[columns, rows, slices]` uint16.
    affine: `[4, 4]`, RAS mm.
    numbers: file number of every slice.
    patient: id.
    series: number, unique within the patient.
    protocol: shown as the series' description.
  """
  folder.mkdir(parents=True, exist_ok=True)
  lps = affines.LPS @ affine
  sizes = np.linalg.norm(lps[:3, :3], axis=0)
  directions = (lps[:3, :3] / sizes).T
  file = _slice_file(patient, series, protocol)
  file.Columns, file.Rows = voxels.shape[:2]
  columns_apart, rows_apart, slices_apart = _numbers(*sizes)
  file.PixelSpacing = [rows_apart, columns_apart]
  file.SliceThickness = file.SpacingBetweenSlices = slices_apart
  file.ImageOrientationPatient = _numbers(*directions[:2].ravel())
  for index, number in enumerate(numbers):
    place = lps[:3, 3] + index * lps[:3, 2]
    file.ImagePositionPatient = _numbers(*place)
    (file.SliceLocation,) = _numbers(place @ directions[2])
    file.InstanceNumber = number
    uid = UID(f'{_ROOT_UID}.{patient}.{series}.{number}')
    file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = uid
    file.PixelData = np.ascontiguousarray(voxels[:, :, index].T).tobytes()
    with warnings.catch_warnings():
      warnings.simplefilter('error')
      pydicom.dcmwrite(
        folder / f'IMG-{series:04d}-{number:05d}.dcm',
        file,
        enforce_file_format=True,
      )


def _write_ground(folder, label, numbers, series) -> None:
  folder.mkdir(parents=True, exist_ok=True)
  grey = np.zeros(label.shape, np.uint8)
  for code, value in _GREY.items():
    grey[label == code] = value
  for index, number in enumerate(numbers):
    picture = Image.fromarray(np.ascontiguousarray(grey[:, :, index].T))
    picture.save(folder / f'IMG-{series:04d}-{number:05d}.png')


def write_chaos(
  root: pathlib.Path, index: int, sequence: str, images, label, affine
) -> None:
  """An acquisition of a patient: one series, or T1's two and their labels.

  One acquisition numbers both phases of T1: out-phase files are odd, in-phase
  files even, and the labels are named like the in-phase files.

  Args:
    root: of the archive.
    index: of the patient.
    sequence: 't2' or 't1'.
    images: a series each, `[columns, rows, slices]`; of T1 in- and out-phase.
    label: of all of them, BTCV codes.
    affine: `[4, 4]`, RAS mm.
  """
  patient, (place, protocol, all_series) = chaos_id(index), _CHAOS[sequence]
  folder = root / 'Train_Sets' / 'MR' / str(patient) / place
  steps = len(all_series)
  numbers = [steps * (n + 1) for n in range(label.shape[2])]
  if index % 2:
    numbers.reverse()
  for (name, series), image, before in zip(
    all_series, images, range(steps), strict=True
  ):
    write_dicom(
      folder / 'DICOM_anon' / name,
      image,
      affine,
      [n - before for n in numbers],
      patient=patient,
      series=series,
      protocol=protocol,
    )
  _write_ground(folder / 'Ground', label, numbers, all_series[0][1])
