"""Cases of archives with one NIfTI file of the image and one of the label."""

from collections.abc import Mapping
import functools
import pathlib

from data.formats.label_maps import map_codes
from data.formats.nifti import check_pair, read_nifti
from data.formats.scan_error import need
from data.task import Case, Modality, Scan


def files(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
  """The files of a pattern, compressed or not, sorted."""
  plain, packed = (folder.glob(pattern + end) for end in ('nii', 'nii.gz'))
  return sorted([*plain, *packed])


def _read(
  image_file: pathlib.Path,
  label_file: pathlib.Path | None,
  codes: Mapping[int, int],
) -> Scan:
  image = read_nifti(image_file)
  if label_file is None:
    return Scan(image.voxels, None, image.affine, image.notes)
  remedy = f'put it at {label_file}, or move the image away'
  words = f'its label {label_file.name} is missing'
  need(label_file.exists(), image_file, words, remedy)
  label = read_nifti(label_file, label=True)
  check_pair(image, label, label_file)
  # Codes exceed 255: they go through the table before any cast to 8 bit.
  classes = map_codes(label.voxels, codes, label_file)
  return Scan(image.voxels, classes, image.affine, image.notes + label.notes)


def case(
  name: str,
  patient: str,
  modality: Modality,
  image: pathlib.Path,
  label: pathlib.Path | None,
  codes: Mapping[int, int],
) -> Case:
  """The case of an image, and of its label if it should have one.

  Args:
    name: of the case.
    patient: of all archives.
    modality: of the scan.
    image: its file.
    label: the file of its label; reading tells if that is not there.
    codes: code in that file -> class index.
  """
  there = [image, label] if label and label.exists() else [image]
  return Case(
    name=name,
    patient=patient,
    modality=modality.name,
    files=tuple(map(str, there)),
    labeled=label is not None,
    read=functools.partial(_read, image, label, codes),
  )
