"""NIfTI and Analyze 7.5 volumes in two files: a .hdr and its .img.

A pair becomes the bytes of a single NIfTI file, so that one set of rules reads
both. Analyze headers have no reliable orientation: voxels run from right to
left, from back to front and upwards, as SPM, FSL and nibabel assume.
"""

import pathlib

import nibabel as nib
import numpy as np

from data.formats.nifti import Volume, nifti_affine, nifti_volume
from data.formats.nifti_bytes import layout, raw_header, read_all, read_head
from data.formats.scan_error import EXPORT, need, without_voxels

_MAX_HEADER = 1 << 20
_ASSUMED = 'left and right are assumed: Analyze headers do not tell them'


def sibling(path: pathlib.Path, *endings: str) -> pathlib.Path | None:
  """The file beside `path` of the same name and one of these endings.

  Endings are tried in their order, each in the case of `path` first; None if
  none is there.
  """
  for ending in endings:
    forms = (ending, ending.upper())
    for form in forms[::-1] if path.suffix.isupper() else forms:
      found = path.with_name(path.stem + form)
      if found.is_file() or found.is_symlink():
        return found
  return None


def image_of(header: pathlib.Path) -> pathlib.Path | None:
  """The file with a header's voxels; None if it is not there."""
  return sibling(header, '.img', '.img.gz')


def _from_analyze(head: bytes, order: str) -> nib.Nifti1Header:
  """An Analyze header as that of a NIfTI file, in its own byte order."""
  old = nib.Spm2AnalyzeHeader(head[:348], endianness=order, check=False)
  new = nib.Nifti1Header(endianness=order)
  for field in ('dim', 'datatype', 'bitpix', 'pixdim', 'vox_offset'):
    new[field] = old[field]
  new['pixdim'][0] = 1
  sides = np.asarray(old['pixdim'][1:4], np.float64)
  if np.isfinite(sides).all() and sides.all() and 3 <= old['dim'][0] <= 7:
    new['pixdim'][1:4] = np.abs(sides)
    old['pixdim'][1:4] = np.abs(sides)
    new.set_sform(old.get_best_affine(), 1)
  with np.errstate(all='ignore'):
    slope, inter = old.get_slope_inter()
  new['scl_slope'] = 1 if slope is None else slope
  new['scl_inter'] = 0 if inter is None else inter
  return new


def _single_header(path: pathlib.Path) -> tuple[bytes, int, bool]:
  """A pair's header as that of a single file.

  Returns:
    Its bytes up to the first voxel; where voxels begin in the .img; whether it
    is an Analyze header.
  """
  head, file = read_head(path), str(path)
  header = raw_header(head, file)
  kind, size = type(header), header.sizeof_hdr
  magic = header['magic'].item()
  analyze = size == 348 and magic not in (kind.pair_magic, kind.single_magic)
  if analyze:
    header = _from_analyze(head, header.endianness)
  remedy = 'name it .nii if it holds voxels too; else ' + EXPORT
  words = f'its magic is {magic!r}, not that of a pair of files'
  need(analyze or magic == kind.pair_magic, file, words, remedy)
  start = float(header['vox_offset'])
  sound, remedy = 0 <= start <= _MAX_HEADER, EXPORT + ' as .nii.gz'
  need(sound, file, f'impossible voxel offset {start}', remedy)
  header['vox_offset'] = size + 4
  header['magic'] = b'n+1' if size == 348 else nib.Nifti2Header.single_magic
  return header.binaryblock + bytes(4), int(start), analyze


def _notes(path: pathlib.Path, analyze: bool) -> tuple[str, ...]:
  if not analyze:
    return ()
  notes = [_ASSUMED]
  if orient := read_head(path)[252]:
    notes.append(f'its orientation field ({orient}) is not used')
  if sibling(path, '.mat'):
    notes.append('its .mat file is not used')
  return tuple(notes)


def read(path: pathlib.Path, *, label: bool = False) -> Volume:
  """Reads and checks a pair.

  Args:
    path: the .hdr file.
    label: whether it is a label map.

  Raises:
    ScanError: for anything that is not a sound 3-D volume.
  """
  head, start, analyze = _single_header(path)
  found = layout(head, str(path))
  image = image_of(path)
  if image is None:
    raise without_voxels(path, f'{path.stem}.img')
  count = found.length - found.offset
  voxels = read_all(image, start + count)[start : start + count]
  volume = nifti_volume(head + voxels, str(path), label=label)
  if analyze:
    volume = volume._replace(header=None)
  return volume._replace(notes=volume.notes + _notes(path, analyze))


def affine(path: pathlib.Path) -> np.ndarray:
  """Where a pair's voxels lie, from its .hdr alone.

  Raises:
    ScanError: as `read`, as far as the header says.
  """
  return nifti_affine(_single_header(path)[0], str(path))


def split(data: bytes) -> tuple[bytes, bytes]:
  """A single NIfTI file's bytes as those of a pair: .hdr and .img."""
  found = layout(data, '')
  size = found.header.sizeof_hdr
  header = found.header.copy()
  header['vox_offset'] = 0
  header['magic'] = b'ni1' if size == 348 else nib.Nifti2Header.pair_magic
  return header.binaryblock + data[size : found.offset], data[found.offset :]
