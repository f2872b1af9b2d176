"""Which DICOM series the files of a folder make up, from their headers alone.

Every file is used, or left out with the reason. A file that is damaged is never
left out: it belongs to its series, which cannot be read without it.
"""

from collections.abc import Iterable, Sequence
import contextlib
import os
import pathlib
import re
from typing import NamedTuple

from pydicom import uid as uids

from data.files import names
from data.formats.dicom_header import (
  LOST_PIXELS,
  Header,
  damaged,
  frame_count,
  object_class,
  read_header,
  unsaid,
)
from data.formats.scan_error import AGAIN, ScanError, cannot_read

# What has pixels and is no scan.
_NO_SCAN = {
  uids.SegmentationStorage: 'a segmentation (SEG)',
  uids.UID('1.2.840.10008.5.1.4.1.1.66.7'): 'a segmentation (SEG)',
  uids.RTDoseStorage: 'a radiotherapy dose',
  uids.RTImageStorage: 'a radiotherapy image',
}
_CONTENTS = 'a DICOMDIR, a table of contents'
_COLOURS = ('RGB', 'YBR')
_ENDINGS = ('.dcm', '.dicom', '.dic', '.ima')


class Series(NamedTuple):
  """A series of images.

  Attributes:
    uid: its SeriesInstanceUID; '' if the files have none.
    files: sorted by name; damaged ones too.
    description: its SeriesDescription, or ''.
    number: its SeriesNumber, or ''.
    modality: 'CT', 'MR', ..., or ''.
    images: how many slices; a file of many frames counts its frames.
  """

  uid: str
  files: tuple[pathlib.Path, ...]
  description: str
  number: str
  modality: str
  images: int = 0

  def __str__(self) -> str:
    count = self.images or len(self.files)
    number = f'series {self.number}' if self.number else ''
    facts = (number, self.modality, f'{count} image{"s" * (count != 1)}')
    told = ', '.join(filter(None, facts))
    return f'{self.description or "no description"} ({told})'


def _no_scan(header: Header) -> str:
  """Why a sound DICOM file is no image of a scan; '' if it may be one."""
  kind = object_class(header.found)
  if kind == uids.MediaStorageDirectoryStorage:
    return _CONTENTS
  if kind in _NO_SCAN:
    return f'{_NO_SCAN[kind]}, no scan'
  if header.pixels is None:
    name = kind.name.removesuffix(' Storage') or 'unknown'
    return f'a DICOM object without pixels ({name})'
  return ''


def _of_no_kind(header: Header) -> bool:
  """Whether its kind of object does not exist, though not a vendor's own.

  What is so, and lies among slices, is one of them, cut and scrambled.
  """
  kind = object_class(header.found)
  standard = not kind.is_valid or kind.startswith('1.2.840.10008.')
  return standard and not kind.name.endswith(' Storage')


def _pattern(path: pathlib.Path) -> str:
  """A file's name without what counts files up."""
  return re.sub(r'\d+', '#', path.name.lower())


def files_in(folder: pathlib.Path) -> list[pathlib.Path]:
  """The files directly in a folder, hidden ones left out, sorted by name."""
  return sorted(
    f
    for f in folder.iterdir()
    if not f.name.startswith('.') and (f.is_file() or f.is_symlink())
    if not f.is_dir()
  )


@unsaid()
def read_headers(
  folder: str | os.PathLike, files: Sequence[pathlib.Path] | None = None
) -> tuple[dict[Series, list[Header]], list[ScanError]]:
  """Every series of a folder with its files' headers; what was left out.

  Args:
    folder: its files are looked at, not those of folders inside.
    files: only these of them.

  Raises:
    ScanError: the folder cannot be read.
  """
  if files is None:
    try:
      files = files_in(pathlib.Path(folder))
    except OSError as error:
      raise cannot_read(folder, error) from error
  headers: list[Header] = []
  pixelless: list[tuple[Header, ScanError]] = []
  # Of each what it is, and what it is if it was a slice once.
  strangers: list[tuple[pathlib.Path, ScanError, ScanError]] = []
  left_out: list[ScanError] = []
  for path in sorted(files):
    try:
      header = read_header(path)
    except OSError as error:
      told = cannot_read(path, error)
      strangers.append((path, told, told))
      continue
    if header is None:
      empty = '' if path.stat().st_size else ': it is empty'
      lost = ScanError(path, f'not a readable DICOM file{empty}', AGAIN)
      strangers.append((path, ScanError(path, 'no DICOM file'), lost))
    elif header.damage and path.name.upper() == 'DICOMDIR':
      left_out.append(ScanError(path, _CONTENTS))
    elif header.damage is None and (reason := _no_scan(header)):
      if header.pixels:
        left_out.append(ScanError(path, reason))
      else:
        pixelless.append((header, ScanError(path, reason)))
    else:
      headers.append(header)
  patterns = {_pattern(header.path) for header in headers}
  series = {header.text('SeriesInstanceUID') for header in headers}
  for header, finding in pixelless:
    if _of_no_kind(header) and (
      header.text('SeriesInstanceUID') in series
      or _pattern(header.path) in patterns
    ):
      damage = ScanError(header.path, LOST_PIXELS, AGAIN)
      headers.append(header._replace(damage=damage))
    else:
      left_out.append(finding)
  for path, finding, damage in strangers:
    # By its name a slice once: a download's error page, or a file that the disk
    # lost, would otherwise leave a volume that ends early.
    if path.suffix.lower() in _ENDINGS or _pattern(path) in patterns:
      headers.append(damaged(damage))
    else:
      left_out.append(finding)
  found = _grouped(headers, left_out)
  return found, sorted(left_out, key=lambda error: error.file)


def _grouped(
  headers: list[Header], left_out: list[ScanError]
) -> dict[Series, list[Header]]:
  """The headers of every series; a damaged one of no series goes with all."""
  groups: dict[str, list[Header]] = {}
  for header in headers:
    groups.setdefault(header.text('SeriesInstanceUID'), []).append(header)
  broken = [uid for uid, all_ in groups.items() if all(h.damage for h in all_)]
  lost = [header for uid in broken for header in groups.pop(uid)]
  groups = _scans_only(groups, left_out)
  if lost and not groups:
    groups[''] = []
  out = {}
  for uid, members in groups.items():
    members = sorted([*members, *lost], key=lambda header: header.path)
    out[_series(uid, members)] = members
  return out


def _coloured(header: Header) -> bool:
  kind = header.text('PhotometricInterpretation')
  return kind.startswith(_COLOURS) and header.text('SamplesPerPixel') != '1'


def _without_place(header: Header) -> bool:
  """Whether it is a picture that was taken of a screen."""
  return 'Secondary Capture' in object_class(header.found).name and not (
    header.text('ImagePositionPatient')
    or header.items('PerFrameFunctionalGroupsSequence')
  )


def _scans_only(groups, left_out):
  """The groups without what only goes with a scan, if there is a scan."""
  every = lambda what: {
    uid for uid, members in groups.items() if all(map(what, members))
  }
  pictures, screen_shots = every(_coloured), every(_without_place)
  localizer = lambda h: 'LOCALIZER' in h.text('ImageType').upper()
  scans = [h for uid in groups.keys() - pictures for h in groups[uid]]
  if all(localizer(h) for h in scans if not _without_place(h)):
    return groups
  kept: dict[str, list[Header]] = {}
  for uid, members in groups.items():
    for header in members:
      if uid in pictures:
        reason = 'a colour picture, no slice of a scan'
      elif uid in screen_shots:
        reason = 'a picture without a place (Secondary Capture), no slice'
      elif localizer(header):
        reason = 'a localizer, no slice of a scan'
      else:
        kept.setdefault(uid, []).append(header)
        continue
      left_out.append(ScanError(header.path, reason))
  return kept


def _series(uid: str, members: list[Header]) -> Series:
  first = next((h for h in members if h.found), members[0])
  count = len(members)
  for header in members:
    with contextlib.suppress(ScanError):  # Reading it says so.
      count += frame_count(header) - 1
  return Series(
    uid,
    tuple(header.path for header in members),
    first.text('SeriesDescription'),
    first.text('SeriesNumber'),
    first.text('Modality'),
    count,
  )


def series_in(
  folder: str | os.PathLike, files: Sequence[pathlib.Path] | None = None
) -> tuple[list[Series], list[ScanError]]:
  """The series of images in a folder, and what was left out with the reason.

  Left out are files that are no DICOM, objects without pixels, segmentations,
  and, beside a scan, its localizers and colour pictures. No pixel is read.

  Args:
    folder: its files are looked at, not those of folders inside.
    files: only these of them.
  """
  found, left_out = read_headers(folder, files)
  return list(found), left_out


def fitting(found: Iterable[Series], wanted: str) -> list[Series]:
  """The series that a UID, a number or a description (or its part) means."""
  plain = lambda text: ' '.join(names.normal(text).casefold().split())
  for key in ('uid', 'number', 'description'):
    exact = [s for s in found if plain(getattr(s, key)) == plain(wanted)]
    if exact:
      return exact
  return [s for s in found if plain(wanted) in plain(s.description)]


def choose(
  found: dict[Series, list[Header]], wanted: str, folder: str
) -> list[Header]:
  """The headers of the one series that is wanted.

  Args:
    found: of `read_headers`.
    wanted: as of `fitting`; '' where there must be only one.
    folder: shown in errors.

  Raises:
    ScanError: none or several match.
  """
  if not found:
    raise ScanError(folder, 'no DICOM images in it', 'copy the series there')
  matching = fitting(found, wanted) if wanted else list(found)
  if len(matching) == 1:
    return found[matching[0]]
  if len(matching) > 2 and all(series.images == 1 for series in matching):
    raise ScanError(
      folder,
      f'{len(matching)} series of one image each: every slice has a'
      ' SeriesInstanceUID of its own',
      'export them as one series',
    )
  told = '; '.join(map(str, (matching or list(found))[:8]))
  if not matching:
    reason = f'no series "{wanted}" in it, but {told}'
    raise ScanError(folder, reason, '--series DESCRIPTION')
  more = f' and {len(matching) - 8} more' if len(matching) > 8 else ''
  key = 'NUMBER' if wanted else 'DESCRIPTION'
  raise ScanError(
    folder,
    f'{len(matching)} series in one folder: {told}{more}',
    f'--series {key}, or a folder per series',
  )
