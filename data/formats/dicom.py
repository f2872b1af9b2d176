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
from data.formats.scan_error import AGAIN, ScanError

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
  kept: list[Header] = []
  copies: list[Header] = []
  for first, *others in alike.values():
    kept.append(first)
    digest = lambda h: hashlib.sha256(h.path.read_bytes()).digest()
    digests = {digest(first)} if others else set()
    for header in others:
      (copies if digest(header) in digests else kept).append(header)
      digests.add(digest(header))
  kept.sort(key=lambda header: header.path)
  if not copies:
    return kept, ()
  some = names.few([header.path.name for header in copies], 3)
  many = 's' * (len(copies) > 1)
  return kept, (f'{len(copies)} file{many} left out, copied twice: {some}',)


def _check_rescaling(frames: Sequence[Frame], folder: str) -> tuple[str, ...]:
  """Checks that all slices are scaled, or none; notes on unequal scales.

  Raises:
    ScanError: some lack what the others have.
  """
  for frame in frames:
    if frame.slope == 0:
      raise frame.header.error('RescaleSlope is 0')
  for name, value in (
    ('RescaleIntercept', lambda f: f.intercept),
    ('RescaleSlope', lambda f: f.slope),
    ('RescaleType', lambda f: f.unit or None),
  ):
    with_it = [f for f in frames if value(f) is not None]
    without = [f for f in frames if value(f) is None]
    if with_it and without:
      has = value(with_it[0])
      has = has if isinstance(has, str) else f'{has:g}'
      words = f'{name} is missing in {listed(without)}, the others have {has}'
      if len(with_it) <= len(without):
        words = f'{name} is only there in {listed(with_it)} ({has})'
      raise ScanError(folder, words, EXPORT)
  same_unit = lambda a, b: a.unit == b.unit
  check_alike(frames, 'RescaleType', same_unit, lambda f: f.unit, folder)
  scales = {(f.slope, f.intercept) for f in frames}
  if len(scales) > 1 and _is_ct(frames[0]):
    return (
      f'{len(scales)} rescalings in one CT series: each slice has its own',
    )
  return ()


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
  if count > MAX_VOXELS:
    raise ScanError(
      folder,
      f'its headers announce {count} voxels, more than any scan has',
      AGAIN + ', or resample it if it is that large',
    )
  frames = [frame for header in headers for frame in frames_of(header)]
  laid = stack(frames, folder)
  return laid, notes + _check_rescaling(laid.frames, folder)


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
  with unsaid():
    return _laid_out(str(folder), series, files)[0].affine


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
  with unsaid():
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
  padded: np.ndarray | None = None
  notes: dict[str, None] = {}
  places: dict[pathlib.Path, list[tuple[int, Frame]]] = {}
  for place, frame in enumerate(frames):
    places.setdefault(frame.header.path, []).append((place, frame))
  for own in places.values():
    stored = dicom_pixels.read_stored(own[0][1].header)
    notes.update(dict.fromkeys(stored.notes))
    for place, frame in own:
      slope = 1.0 if frame.slope is None else frame.slope
      intercept = 0.0 if frame.intercept is None else frame.intercept
      with np.errstate(all='ignore'):  # `check_image` finds what overflows.
        slice_ = stored.values[frame.number].astype(np.float32)
        slice_ *= np.float32(slope)
        slice_ += np.float32(intercept)
      voxels[place] = slice_
      if stored.padded is not None:
        padded = np.zeros(voxels.shape, bool) if padded is None else padded
        padded[place] = stored.padded[frame.number]
  if padded is not None:
    notes.update(dict.fromkeys(_unpad(voxels, padded, frames[0])))
  return voxels, tuple(notes)


def _unpad(
  voxels: np.ndarray, padded: np.ndarray, first: Frame
) -> tuple[str, ...]:
  """Gives padded voxels the lowest value of the others, in place.

  A padding value that is also what air measures, or what nothing gives in MR,
  says nothing, and so does one that is no more frequent than its neighbours:
  these voxels show the patient.
  """
  count, others = int(padded.sum()), ~padded
  if count == padded.size:
    return ()
  low, high = (
    float(f(voxels, where=padded, initial=start))
    for f, start in ((np.min, np.inf), (np.max, -np.inf))
  )
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
  step = 1.01 * abs(1.0 if first.slope is None else first.slope)
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
