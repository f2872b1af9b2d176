"""One scan on disk, whatever its format, and reading it."""

import pathlib
from typing import NamedTuple

import numpy as np

from data.formats import dicom, file_kinds, itk, nifti
from data.formats.label_maps import label_codes
from data.formats.nifti import Volume
from data.formats.scan_error import ScanError

# What stands for a file under version control has no more bytes.
_POINTER = 1024


class Source(NamedTuple):
  """One scan on disk; nothing of its voxels has been read.

  Attributes:
    name: unique in its listing, as `names.case_name` writes it.
    path: its file, or the folder of its DICOM series.
    series: the SeriesInstanceUID of DICOM files.
    members: every file that it is read from, sorted; empty: `path` alone.
  """

  name: str
  path: pathlib.Path
  series: str = ''
  members: tuple[pathlib.Path, ...] = ()

  def files(self) -> tuple[pathlib.Path, ...]:
    """Every file that the scan is read from, sorted."""
    return self.members or (self.path,)


def _check_whole(path: pathlib.Path) -> None:
  """Refuses a text that a version control left where a scan should be."""
  try:
    if path.stat().st_size > _POINTER:
      return
    head = path.read_bytes()
  except OSError:  # Reading it will say so.
    return
  if head.startswith(b'version https://git-lfs') or b'/annex/objects/' in head:
    raise ScanError(
      path,
      'a text that stands for the scan (git-lfs or git-annex), not the scan',
      'fetch it: git lfs pull, or datalad get',
    )


def _is_itk(path: pathlib.Path) -> bool:
  """Whether a file, which is a whole one, is for `itk` to read."""
  _check_whole(path)
  return file_kinds.scan_ending(path) in itk.ENDINGS


def read(source: Source, *, label: bool = False) -> Volume:
  """Reads and checks a scan, or a label map.

  Args:
    source: the scan.
    label: whether it is a label map: int32 codes instead of float32 values.

  Raises:
    ScanError: it is not one sound 3-D volume.
  """
  if source.path.is_file():
    read_file = itk.read_itk if _is_itk(source.path) else nifti.read_nifti
    return read_file(source.path, label=label)
  volume = dicom.read_dicom(source.path, source.series, source.members)
  if not label:
    return volume
  codes, notes = label_codes(volume.voxels, str(source.path))
  return volume._replace(voxels=codes, notes=volume.notes + notes)


def affine(source: Source) -> np.ndarray:
  """Where a scan's voxels lie, `[4, 4]`, from its headers alone.

  Raises:
    ScanError: as `read`, as far as the headers say.
  """
  if not source.path.is_file():
    return dicom.read_affine(source.path, source.series, source.members)
  return (itk if _is_itk(source.path) else nifti).read_affine(source.path)
