"""Which scans a folder holds, and reading one, whatever its format.

Everything that lies in a folder is used, or listed with the reason.
"""

import os
import pathlib
from typing import NamedTuple

import numpy as np

from data import dicom_files, dicom_io
from data.scan_error import ScanError
from data.volume_io import Volume, read_nifti

_ENDINGS = ('.nii.gz', '.nii')


class Source(NamedTuple):
  """One scan on disk; nothing of its voxels has been read.

  Attributes:
    name: unique in its listing.
    path: its file, or the folder of its DICOM series.
    series: the SeriesInstanceUID, where the folder holds several.
  """

  name: str
  path: pathlib.Path
  series: str = ''

  def files(self) -> tuple[pathlib.Path, ...]:
    """Every file that the scan is read from, sorted."""
    if self.path.is_dir():
      return tuple(dicom_files.files_in(self.path))
    return (self.path,)


class Listing(NamedTuple):
  """What a place holds.

  Attributes:
    scans: name -> scan, sorted by name.
    problems: what looks like a scan and cannot be used: a run goes on without
      them, and its exit code is 1.
    left_out: what is no scan (text, DICOMDIR, a folder of our own results):
      told, and no error.
  """

  scans: dict[str, Source]
  problems: list[ScanError]
  left_out: list[ScanError]


def _name(path: pathlib.Path) -> str:
  """A scan's name: its file's without ending, or its folder's."""
  for ending in _ENDINGS:
    if path.is_file() and path.name.endswith(ending):
      return path.name.removesuffix(ending)
  return path.name


def find(
  place: pathlib.Path,
  *,
  series: str = '',
  without: tuple[pathlib.Path, ...] = (),
) -> Listing:
  """The scans at a place.

  Args:
    place: a file, or a folder of files and of folders.
    series: of a DICOM folder that holds several series, the one to take: its
      description, number or SeriesInstanceUID.
    without: folders that are not looked into (where results are written).

  Raises:
    ScanError: the place is not there, or two scans have one name.
  """
  del series, without
  if not place.exists():
    raise ScanError(place, 'is not there', 'give a file or folder of scans')
  if place.is_file():
    return Listing({_name(place): Source(_name(place), place)}, [], [])
  found: dict[str, Source] = {}
  for path in sorted(place.iterdir()):
    if path.name.startswith('.'):
      continue
    folder = path.is_dir() and dicom_files.files_in(path)
    if folder or (path.is_file() and path.name.endswith(_ENDINGS)):
      name = _name(path)
      if name in found:
        raise ScanError(
          path, f'has the same name as {found[name].path}', 'rename one of them'
        )
      found[name] = Source(name, path)
  if not found and dicom_files.files_in(place):
    # '..' and '.' are no names.
    place = pathlib.Path(os.path.abspath(place))
    found[place.name] = Source(place.name, place)
  return Listing(found, [], [])


def read(source: Source, *, label: bool = False) -> Volume:
  """Reads and checks a scan, or a label map.

  Args:
    source: the scan.
    label: whether it is a label map: int32 codes instead of float32 values.

  Raises:
    ScanError: it is not one sound 3-D volume.
  """
  if source.path.is_file():
    return read_nifti(source.path, label=label)
  volume = dicom_io.read_dicom(source.path, source.series)
  if not label:
    return volume
  codes = np.round(volume.voxels)
  if not np.array_equal(codes, volume.voxels):
    raise ScanError(
      source.path,
      'label voxels are not whole numbers',
      'export the labels again',
    )
  return volume._replace(voxels=codes.astype(np.int32))


def affine(source: Source) -> np.ndarray:
  """Where a scan's voxels lie, `[4, 4]`, from its headers alone.

  Raises:
    ScanError: as `read`, as far as the headers say.
  """
  return read(source).affine
