"""Which scans a folder holds, and reading one, whatever its format.

Everything that lies in a folder is used, or listed with the reason: a problem
where it looks like a scan, left out where it does not.

A subfolder that leads to one scan, however deep, is that scan, under its own
name; one that leads to several gives each, named by the way to it.
"""

import os
import pathlib
from typing import NamedTuple

from data.files import names
from data.formats import dicom_files, file_kinds, itk
from data.formats.scan_error import ScanError, closed_folder, dead_link, need
from data.formats.scan_source import Source as Source
from data.formats.scan_source import affine as affine
from data.formats.scan_source import read as read
from data.formats.scan_walk import RESULTS as RESULTS
from data.formats.scan_walk import Walk


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
      description (or a part of it), number or SeriesInstanceUID.
    without: folders that are not looked into (where results are written).

  Raises:
    ScanError: the place is not there, or cannot be looked into.
  """
  # '..' and '.' are no names.
  place = pathlib.Path(os.path.abspath(place))
  if place.is_symlink() and not place.exists():
    raise dead_link(place)
  remedy = 'give a file or folder of scans'
  need(place.exists(), place, 'is not there', remedy)
  walk = Walk(series, without)
  if place.is_dir():
    try:
      found = walk.folder(place)
    except OSError as error:
      raise closed_folder(place, error) from error
  else:
    found = _single(walk, place)
  walk.settle(found=False)
  scans, twice = _named(place, found)
  return Listing(scans, walk.problems + twice, walk.left_out)


def _single(walk, path):
  """The scan that a file is, or belongs to."""
  path = itk.header_of(path)
  found = walk.files(path.parent, [path])
  if found and not found[0][0]:  # One slice of a series: all of it is meant.
    uid = found[0][1].series
    every, _ = dicom_files.series_in(path.parent)
    members = next(s.files for s in every if s.uid == uid)
    source = found[0][1]._replace(members=members)
    found = [((path.parent.name,), source)]
  return found


def _named(place, found):
  """Scans by name, and those that would have one name."""
  groups: dict[str, list[Source]] = {}
  for parts, source in found:
    name = names.case_name('_'.join(parts) or file_kinds.stem(place.name))
    groups.setdefault(name, []).append(source._replace(name=name))
  twice = []
  for first, *others in groups.values():
    reason = f'has the same name as {first.path}: neither is used'
    remedy = 'rename one of them, or move it away'
    twice += [ScanError(other.path, reason, remedy) for other in others]
  scans = {n: group[0] for n, group in groups.items() if len(group) == 1}
  return dict(sorted(scans.items())), twice
