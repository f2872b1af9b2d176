"""Strict reading of a DICOM series: one folder, one volume.

Everything that the headers tell is checked before a pixel is decoded, so that
where a series lies is known, or why it cannot be used, at the cost of its
headers.
"""

from collections.abc import Sequence
import contextlib
import hashlib
import os
import pathlib

import numpy as np

from data.files import names
from data.formats import dicom_codec, dicom_files, dicom_pixels
from data.formats.dicom_frames import Frame, frames_of
from data.formats.dicom_header import EXPORT, TOLD, Header, unsaid
from data.formats.dicom_stack import Stack, check_alike, listed, stack
from data.formats.nifti import Volume, check_image
from data.formats.nifti_bytes import MAX_VOXELS
from data.formats.scan_error import AGAIN, ScanError, need

# What air measures on a CT scanner, and what none measures (HU).
_AIR = (-1100.0, -900.0)
# What an enhanced file calls some of what a classic one says.
_ENHANCED = {
  'EchoTime': 'EffectiveEchoTime',
  'InversionTime': 'InversionTimes',
  'SequenceName': 'PulseSequenceName',
}


def _without_copies(
  headers: list[Header],
) -> tuple[list[Header], tuple[str, ...]]:
  """Leaves out files that are, byte for byte, a copy of another one."""
  alike: dict[tuple[int, str, str], list[Header]] = {}
  for header in headers:
    uid, place = map(header.text, ('SOPInstanceUID', 'ImagePositionPatient'))
    alike.setdefault((header.size, uid, place), []).append(header)
  copies: list[pathlib.Path] = []
  for group in alike.values():
    seen = set()
    for header in group if len(group) > 1 else ():
      digest = hashlib.sha256(header.path.read_bytes()).digest()
      if digest in seen:
        copies.append(header.path)
      seen.add(digest)
  if not copies:
    return headers, ()
  some = names.listed([path.name for path in copies], 3)
  many = 's' * (len(copies) > 1)
  note = f'{len(copies)} file{many} left out, copied twice: {some}'
  return [h for h in headers if h.path not in copies], (note,)


def _check_rescaling(frames: Sequence[Frame], folder: str) -> tuple[str, ...]:
  """Checks that all slices are scaled, or none; notes on unequal scales.

  Raises:
    ScanError: some lack what the others have.
  """
  for frame in frames:
    frame.header.need(frame.slope != 0, 'RescaleSlope is 0')
  for name in ('RescaleIntercept', 'RescaleSlope', 'RescaleType'):
    with_it = [frame for frame in frames if frame.said(name)]
    without = [frame for frame in frames if not frame.said(name)]
    if with_it and without:
      has = with_it[0].said(name)
      words = f'{name} is missing in {listed(without)}, the others have {has}'
      if len(with_it) <= len(without):
        words = f'{name} is only there in {listed(with_it)} ({has})'
      raise ScanError(folder, words, EXPORT)
  same_unit = lambda a, b: a.unit == b.unit
  check_alike(frames, 'RescaleType', same_unit, lambda f: f.unit, folder)
  scales = {(f.slope, f.intercept) for f in frames}
  note = f'{len(scales)} rescalings in one CT series: each slice has its own'
  return (note,) if len(scales) > 1 and _is_ct(frames[0]) else ()


def _is_ct(frame: Frame) -> bool:
  return frame.header.text('Modality') == 'CT' or frame.unit == 'HU'


def _laid_out(
  folder: str, series: str, files: Sequence[pathlib.Path]
) -> tuple[Stack, tuple[str, ...]]:
  """The frames of a series in order, all that its headers tell checked."""
  found, _ = dicom_files.read_headers(folder, files or None)
  headers = dicom_files.choose(found, series, folder)
  for header in headers:
    if header.damage:
      raise header.damage
  headers, notes = _without_copies(headers)
  count = 0
  for header in headers:
    dicom_pixels.check_meaning(header)
    dicom_pixels.check_layout(header)
    dicom_codec.check_decoder(header)
    count += dicom_pixels.voxel_count(header)
  words = f'its headers announce {count} voxels, more than any scan has'
  remedy = AGAIN + ', or resample it if it is that large'
  need(count <= MAX_VOXELS, folder, words, remedy)
  frames = [frame for header in headers for frame in frames_of(header)]
  laid = stack(frames, folder)
  return laid, notes + _check_rescaling(laid.frames, folder)


@unsaid()
def read_affine(
  folder: str | os.PathLike,
  series: str = '',
  files: Sequence[pathlib.Path] = (),
) -> np.ndarray:
  """Where a series lies, from its headers alone.

  Args:
    folder: as of `read_dicom`.
    series: as of `read_dicom`.
    files: as of `read_dicom`.

  Returns:
    `[4, 4]`, of `[columns, rows, slices]`, to RAS mm.

  Raises:
    ScanError: as `read_dicom`, but for what the pixels would tell.
  """
  return _laid_out(str(folder), series, files)[0].affine


@unsaid()
def read_dicom(
  folder: str | os.PathLike,
  series: str = '',
  files: Sequence[pathlib.Path] = (),
) -> Volume:
  """Reads a series, sorted by position along the slice normal.

  Args:
    folder: holds the files of the series.
    series: the one to take where the folder holds several: its
      SeriesInstanceUID, SeriesNumber or SeriesDescription.
    files: only these of the folder's files are looked at; none: all of them.

  Returns:
    The volume `[columns, rows, slices]` (so that its first axis is the
    patient's left-right in an axial scan), float32, in scanner units, with its
    files in slice order and what the series says of itself.

  Raises:
    ScanError: for anything that is not one complete series.
  """
  folder = str(folder)
  laid, notes = _laid_out(folder, series, files)
  voxels, more = _voxels(laid.frames)
  check_image(voxels, folder)
  paths = dict.fromkeys(frame.header.path for frame in laid.frames)
  return Volume(
    np.transpose(voxels, (2, 1, 0)),
    laid.affine,
    notes=notes + more,
    files=tuple(paths),
    tags=_tags(laid.frames[0]),
  )


def _voxels(frames: Sequence[Frame]) -> tuple[np.ndarray, tuple[str, ...]]:
  """`[slices, rows, columns]` float32 in scanner units, and notes."""
  voxels = np.empty((len(frames), *frames[0].shape), np.float32)
  padded = np.zeros(voxels.shape, bool)
  notes: list[str] = []
  places: dict[pathlib.Path, list[int]] = {}
  for place, frame in enumerate(frames):
    places.setdefault(frame.header.path, []).append(place)
  for own in places.values():
    stored = dicom_pixels.read_stored(frames[own[0]].header)
    notes += stored.notes
    for place in own:
      frame = frames[place]
      with np.errstate(all='ignore'):  # `check_image` finds what overflows.
        voxels[place] = stored.values[frame.number]
        voxels[place] *= np.float32(frame.scale)
        voxels[place] += np.float32(frame.intercept or 0)
      if stored.padded is not None:
        padded[place] = stored.padded[frame.number]
  notes += _unpad(voxels, padded, frames[0])
  return voxels, tuple(dict.fromkeys(notes))


def _unpad(
  voxels: np.ndarray, padded: np.ndarray, first: Frame
) -> tuple[str, ...]:
  """Gives padded voxels the lowest value of the others, in place.

  A padding value that is also what air measures, or what nothing gives in MR,
  says nothing, and so does one that is no more frequent than its neighbours:
  these voxels show the patient.
  """
  count = int(padded.sum())
  if count in (0, padded.size):
    return ()
  others = ~padded
  low = float(np.min(voxels, where=padded, initial=np.inf))
  high = float(np.max(voxels, where=padded, initial=-np.inf))
  lowest = float(np.min(voxels, where=others, initial=np.inf))
  if _is_ct(first):
    usual = low >= _AIR[0] and (high <= _AIR[1] or high <= lowest)
  else:
    usual = low == high == 0
  if usual or (
    lowest < low
    and high < np.max(voxels, where=others, initial=-np.inf)
    and count <= _beside(voxels, others, (low, high), first)
  ):
    return ()
  voxels[padded] = lowest
  share = 100 * count / padded.size
  return (
    f'{share:.2g} % of its voxels are padding ({low:g}): they count as'
    f' {lowest:g}',
  )


def _beside(voxels, others, values, first: Frame) -> int:
  """How many voxels have the stored values next to these."""
  step = 1.01 * abs(first.scale)
  near = lambda v: (voxels >= v - step) & (voxels <= v + step) & others
  return max(int(near(value).sum()) for value in values)


def _tags(first: Frame) -> dict[str, str | float]:
  """What a series says of itself, numbers as such."""
  out: dict[str, str | float] = {}
  for name in TOLD:
    said = first.header.text(name) or first.said(name)
    said = said or first.said(_ENHANCED.get(name, name))
    if not said:
      continue
    out[name] = said
    if not name.endswith(('UID', 'Description', 'Number')):
      with contextlib.suppress(ValueError):
        out[name] = float(said)
  return out
