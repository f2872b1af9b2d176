"""The scans that a prediction is asked for, by name."""

import os
import pathlib

from data import folder
from data.dicom_io import dicom_files
from data.scan_error import ScanError


def find(place: pathlib.Path) -> dict[str, pathlib.Path]:
  """Name -> file or DICOM folder of every scan at a place, sorted.

  Args:
    place: a NIfTI file, a folder of NIfTI files and DICOM series (a subfolder
      each), or the folder of one DICOM series.

  Raises:
    ScanError: there is no scan, or two have one name.
  """
  if not place.exists():
    raise ScanError(place, 'is not there', 'give a file or folder of scans')
  if place.is_file():
    paths = [place]
  else:
    paths = folder.scans_in(place)
    if not paths and dicom_files(place):
      # '..' and '.' are no names.
      paths = [pathlib.Path(os.path.abspath(place))]
  found: dict[str, pathlib.Path] = {}
  for path in paths:
    name = folder.scan_name(path)
    if name in found:
      raise ScanError(
        path,
        f'has the same name as {found[name]}: both would be written to'
        f' {name}.nii.gz',
        'rename one of them',
      )
    found[name] = path
  if not found:
    raise ScanError(
      place,
      'no scan in it',
      'expected .nii or .nii.gz files, or folders with DICOM series',
    )
  return found
