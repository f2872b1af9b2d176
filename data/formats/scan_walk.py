"""A walk through a folder: what is a scan there, a problem, or nothing.

Only headers are read.
"""

from collections.abc import Iterable
import os
import pathlib
import stat

from data.formats import dicom_files, file_kinds, itk
from data.formats.scan_error import ScanError, closed_folder, dead_link, need
from data.formats.scan_source import Source

# What a folder of this program's own results holds.
RESULTS = 'predictions.json'
# Nobody's scans lie deeper, or in more folders: what does is another disk.
_DEEPEST = 16
_MOST_FOLDERS = 20_000
# Endings of files that name others, which hold the voxels.
_HEADERS = ('.hdr', '.mhd', '.nhdr')


class Walk:
  """One look through a folder and all that is below it.

  Attributes:
    problems: what looks like a scan and cannot be used.
    left_out: what is no scan.
  """

  def __init__(self, series: str, without: Iterable[pathlib.Path]):
    """Makes one; see `scan_files.find`."""
    self._series = series
    self._without = {
      (s.st_dev, s.st_ino) for p in without if p.exists() for s in [p.stat()]
    }
    self._folders = 0
    self._foreign: list[ScanError] = []  # DICOM folders of other series.
    self.problems: list[ScanError] = []
    self.left_out: list[ScanError] = []

  def _problem(self, path, reason: str, remedy: str) -> None:
    self.problems.append(ScanError(path, reason, remedy))

  def _leave(self, path, reason: str) -> None:
    self.left_out.append(ScanError(path, reason))

  def folder(
    self, place: pathlib.Path, above: tuple[tuple[int, int], ...] = ()
  ) -> list[tuple[tuple[str, ...], Source]]:
    """The scans below a folder, each with the parts of its name.

    The parts of loose DICOM files are none: they are named like the folder.
    """
    self._folders += 1
    words = f'more than {_MOST_FOLDERS} folders to look into'
    remedy = 'give the folder that holds the scans'
    need(self._folders <= _MOST_FOLDERS, place, words, remedy)
    facts = place.stat()
    above = (*above, (facts.st_dev, facts.st_ino))
    files, folders = self._entries(place)
    found = self.files(place, files)
    for path in folders:
      inner = self._subfolder(path, above)
      if len(above) == 1:
        self.settle(bool(inner))
      stem = file_kinds.stem(path.name)
      if len(inner) == 1:
        found.append(((stem,), inner[0][1]))
      else:
        found += [((stem, *parts), source) for parts, source in inner]
    return found

  def settle(self, found: bool) -> None:
    """Series that were not asked for are no problem beside one that was."""
    (self.left_out if found else self.problems).extend(self._foreign)
    self._foreign.clear()

  def _entries(self, place):
    """Files and folders of a folder, sorted, hidden ones left out."""
    files, folders = [], []
    for path in sorted(place.iterdir()):
      if path.name.startswith('.'):
        continue
      try:
        mode = path.stat().st_mode
      except OSError as error:
        if path.is_symlink() and file_kinds.other(path):
          self._leave(path, f'a link to {os.readlink(path)}: not there')
        elif path.is_symlink():
          self.problems.append(dead_link(path))
        else:
          self._problem(path, str(error.strerror), 'make it readable')
        continue
      if stat.S_ISDIR(mode):
        folders.append(path)
      elif stat.S_ISREG(mode):
        files.append(path)
      else:
        self._leave(path, 'neither a file nor a folder')
    return files, folders

  def _subfolder(self, path, above):
    """The scans below a subfolder, if it is one to look into."""
    try:
      why_not = self._closed(path, above)
      if why_not:
        self._leave(path, why_not)
        return []
      if len(above) >= _DEEPEST:
        self._problem(path, f'more than {_DEEPEST} folders deep', 'move it up')
        return []
      problems, left = len(self.problems), len(self.left_out)
      found = self.folder(path, above)
    except OSError as error:
      remedy = 'make it readable, or move it away'
      self.problems.append(closed_folder(path, error, remedy))
      return []
    if not (found or self._foreign or len(self.problems) > problems):
      count = len(self.left_out) - left
      del self.left_out[left:]
      text = f'holds no scan ({count} other files)' if count else 'is empty'
      self._leave(path, text)
    return found

  def _closed(self, path, above) -> str:
    """Why a folder is not looked into; '' if it is."""
    facts = path.stat()
    here = facts.st_dev, facts.st_ino
    if here in self._without:
      return 'where results are written'
    if here in above:
      return 'a link to a folder that it lies in'
    return 'results of this program' if (path / RESULTS).is_file() else ''

  def files(self, place, files):
    """The scans among the files of one folder."""
    found, rest = [], []
    data = {
      member for path in files if file_kinds.scan_ending(path) in _HEADERS
      for member in self._members(path)[1:]
    }  # fmt: skip
    for path in files:
      if path in data:
        continue
      ending = file_kinds.scan_ending(path)
      unread = file_kinds.unread(path)
      other = file_kinds.other(path)
      if ending == '.img':
        self._problem(path, 'its .hdr is missing', 'put the header beside it')
      elif ending:
        members = self._members(path)
        if ending == '.hdr' and len(members) == 1:
          self._problem(path, 'its .img is missing', 'put the voxels beside it')
          continue
        source = Source(file_kinds.stem(path.name), path, members=members)
        found.append(((source.name,), source))
      elif unread:
        self._problem(path, *unread)
      elif other:
        self._leave(path, other)
      else:
        rest.append(path)
    return found + (self._dicom(place, rest) if rest else [])

  def _members(self, path: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """The files of a scan, its own first."""
    ending = file_kinds.scan_ending(path)
    return (path, *(itk.companions(path) if ending in _HEADERS else ()))

  def _dicom(self, place, files):
    """The series among files that are nothing else."""
    series, left = dicom_files.series_in(place, files)
    self.left_out += left
    if series and self._series:
      fitting = dicom_files.fitting(series, self._series)
      if not fitting:
        reason = f'no series {self._series!r}: {"; ".join(map(str, series))}'
        remedy = 'choose one that is there: --series ("series" in dataset.json)'
        self._foreign.append(ScanError(place, reason, remedy))
        return []
      series = fitting
    found: list[tuple[tuple[str, ...], Source]] = []
    loose = []
    for one in series:
      if len(one.files) == 1 and one.images > 1:
        name = file_kinds.stem(one.files[0].name)
        found.append(((name,), Source(name, place, one.uid, one.files)))
      else:
        loose.append(one)
    if len(loose) > 1:
      told = '; '.join(map(str, loose))
      remedy = 'choose one with --series DESCRIPTION ("series" in dataset.json)'
      remedy += ', or give each a folder of its own'
      self._problem(place, f'{len(loose)} series: {told}', remedy)
    elif loose:
      found.append(((), Source('', place, loose[0].uid, loose[0].files)))
    return found
