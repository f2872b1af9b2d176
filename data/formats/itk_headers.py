"""What the text headers of MetaImage and NRRD files say of their voxels.

ITK fills what is missing with zeros or with whatever is in memory, and opens
any file that a header names. Here a header is checked before it is believed.
"""

import os
import pathlib
import re
from typing import NamedTuple

import numpy as np

from data.formats.affines import SIZES
from data.formats.nifti_bytes import check_voxels, read_start
from data.formats.scan_error import AGAIN, DAMAGED, ScanError

_MAX_HEADER = 1 << 20
_ANEW = 'save it again as one .mha, .nrrd or .nii.gz file'
_ASSUMED = 'left and right are assumed: its header has no orientation'
_TRUE = ('t', 'y', '1')

_META_TYPES = {
  'CHAR': 'i1', 'UCHAR': 'u1', 'SHORT': 'i2', 'USHORT': 'u2', 'INT': 'i4',
  'UINT': 'u4', 'LONG': 'i4', 'ULONG': 'u4', 'LONG_LONG': 'i8',
  'ULONG_LONG': 'u8', 'FLOAT': 'f4', 'DOUBLE': 'f8',
}  # fmt: skip
# Fields with numbers, and how many of them: of each axis 0, 1 or its square.
_META_NUMBERS = {
  'DimSize': 1, 'ElementSpacing': 1, 'ElementSize': 1, 'Offset': 1,
  'Position': 1, 'Origin': 1, 'CenterOfRotation': 1, 'TransformMatrix': 2,
  'Rotation': 2, 'Orientation': 2, 'NDims': 0, 'HeaderSize': 0,
  'ElementNumberOfChannels': 0, 'CompressedDataSize': 0,
  'ElementToIntensityFunctionSlope': 0, 'ElementToIntensityFunctionOffset': 0,
}  # fmt: skip
_NRRD_TYPES = {
  'i1': 'signed char,int8,int8_t',
  'u1': 'uchar,unsigned char,uint8,uint8_t',
  'i2': 'short,short int,signed short,signed short int,int16,int16_t',
  'u2': 'ushort,unsigned short,unsigned short int,uint16,uint16_t',
  'i4': 'int,signed int,int32,int32_t',
  'u4': 'uint,unsigned int,uint32,uint32_t',
  'i8': 'longlong,long long,long long int,signed long long,'
  'signed long long int,int64,int64_t',
  'u8': 'ulonglong,unsigned long long,unsigned long long int,uint64,uint64_t',
  'f4': 'float',
  'f8': 'double',
}
_NRRD_CODES = {
  name: code for code, names in _NRRD_TYPES.items() for name in names.split(',')
}
# Kinds of an axis along which a scan extends.
_SPATIAL = ('domain', 'space', '???', 'none')
# Spaces with a patient's left and right.
_SPACES = (
  'right-anterior-superior', 'left-anterior-superior',
  'left-posterior-superior', 'ras', 'las', 'lps',
)  # fmt: skip


class Stored(NamedTuple):
  """Where voxels are stored, and how.

  Attributes:
    shape: with every axis that the header has, the fastest first.
    dtype: with its byte order.
    data: the file that holds them; the header itself, or one beside it.
    offset: of their first byte there; -1: they are at the end of the file.
    compressed: by gzip or zlib.
    size: bytes that they take, where the header says so; else -1.
    notes: what people should know of it.
    place: `[4, 4]`, voxel index to millimetres to the left, to the back and
      upwards; None where ITK is to tell (NRRD, of many spaces).
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  data: pathlib.Path
  offset: int
  compressed: bool
  size: int
  notes: tuple[str, ...]
  place: np.ndarray | None = None


def _beside(path: pathlib.Path, name: str) -> pathlib.Path:
  """The data file of a header: a plain name in the header's own folder.

  Raises:
    ScanError: another folder, several files, or the header itself.
  """
  name = name.removeprefix('./')
  if name.split(' ')[0].upper() == 'LIST' or '%' in name:
    raise ScanError(path, 'its voxels are in several files', _ANEW)
  plain = name not in ('', '.', '..', path.name) and '\0' not in name
  if not plain or '/' in name or '\\' in name:
    raise ScanError(
      path,
      f'names {name!r} as its data file, which is no file beside it',
      'put the data file beside it and its plain name into the header',
    )
  return path.with_name(name)


def _numbers(text: str, field: str, file: str) -> list[float]:
  try:
    found = [float(word) for word in text.split()]
  except ValueError:
    found = []
  if not found or not np.isfinite(found).all():
    raise ScanError(file, f'{field} is {text[:40]!r}: no numbers', DAMAGED)
  return found


def _whole(values: list[float], field: str, file: str) -> tuple[int, ...]:
  """Sides of a volume."""
  if min(values) < 1 or any(value != int(value) for value in values):
    raise ScanError(file, f'impossible {field} {values}', DAMAGED)
  sides = tuple(int(value) for value in values)
  check_voxels(sides, file)
  return sides


def _meta_fields(path: pathlib.Path) -> tuple[dict[str, str], int]:
  """Fields of a MetaImage header, and where it ends."""
  data, place = read_start(path, _MAX_HEADER), 0
  fields: dict[str, str] = {}
  while place < len(data):
    end = data.find(b'\n', place)
    end = len(data) if end < 0 else end
    line = os.fsdecode(data[place:end])
    place = end + 1
    key, *value = map(str.strip, re.split('[=:]', line, maxsplit=1))
    if not value:
      if not key:
        continue
      break
    if key in fields:
      raise ScanError(path, f'its header has {key} twice', DAMAGED)
    fields[key] = value[0]
    if key == 'ElementDataFile':
      return fields, place
  if 'NDims' in fields or 'ObjectType' in fields:
    raise ScanError(
      path, 'its header ends without ElementDataFile: truncated', AGAIN
    )
  raise ScanError(path, 'not a MetaImage file', _ANEW)


def _meta_numbers(fields, file: str) -> dict[str, list[float]]:
  """Every field of numbers, as many of them as the dimensions ask for."""
  out = {}
  for field in ('NDims', *(k for k in _META_NUMBERS if k in fields)):
    out[field] = _numbers(fields.get(field, ''), field, file)
    dims = out['NDims'][0]
    if not 1 <= dims <= 10 or dims != int(dims):
      raise ScanError(file, f'impossible NDims {dims:g}', DAMAGED)
    if len(out[field]) != int(dims) ** _META_NUMBERS[field]:
      raise ScanError(
        file, f'{field} has {len(out[field])} numbers, NDims {dims:g}', DAMAGED
      )
  return out


def _check_meta(fields, numbers, file: str) -> None:
  """Checks what makes voxels something else than one grey value each."""
  for field in ('DimSize', 'ElementType'):
    if field not in fields:
      raise ScanError(file, f'its header has no {field}', DAMAGED)
  channels = numbers.get('ElementNumberOfChannels', [1])[0]
  if channels != 1 or fields['ElementType'].endswith('_ARRAY'):
    raise ScanError(
      file, f'{channels:g} values a voxel', 'export the scan as grey values'
    )
  if fields.get('BinaryData', '1')[:1].lower() not in _TRUE:
    raise ScanError(file, 'its voxels are written as text', _ANEW)
  slope = numbers.get('ElementToIntensityFunctionSlope', [1])[0]
  inter = numbers.get('ElementToIntensityFunctionOffset', [0])[0]
  if (slope, inter) != (1, 0):
    raise ScanError(
      file,
      f'its values are to be scaled by {slope:g} and shifted by {inter:g}: no'
      ' reader does so',
      'save the scaled values',
    )


def _meta_place(numbers, file: str) -> np.ndarray:
  """The affine: a row of the matrix is an axis of the volume, a unit long.

  Raises:
    ScanError: no voxel sizes, or two different answers.
  """
  found = []
  for names, plain in (
    (('TransformMatrix', 'Rotation', 'Orientation'), np.eye(4)[:3, :3].ravel()),
    (('Offset', 'Position', 'Origin'), np.zeros(3)),
  ):
    said = [numbers[name] for name in names if name in numbers]
    if any(values != said[0] for values in said):
      raise ScanError(file, f'{names[0]} is given twice', DAMAGED)
    found.append(np.array(said[0] if said else plain))
  sizes = numbers.get('ElementSpacing', numbers.get('ElementSize'))
  if sizes is None:
    raise ScanError(file, 'its header has no ElementSpacing', SIZES)
  dims = int(np.sqrt(found[0].size))
  place = np.eye(4)
  axes = found[0].reshape(dims, dims)[:3, :3].T
  with np.errstate(all='ignore'):  # `check_regular` finds what overflows.
    place[:3, :3] = axes * sizes[:3]
  place[:3, 3] = found[1][:3]
  return place


def metaimage(path: pathlib.Path) -> Stored:
  """What a `.mha` or `.mhd` file says.

  Raises:
    ScanError: it is no header, or one that makes no sense.
  """
  file = str(path)
  fields, end = _meta_fields(path)
  numbers = _meta_numbers(fields, file)
  _check_meta(fields, numbers, file)
  shape = _whole(numbers['DimSize'], 'DimSize', file)
  kind = fields['ElementType'].removeprefix('MET_')
  if kind not in _META_TYPES:
    raise ScanError(file, f'unknown ElementType {kind}', DAMAGED)
  yes = lambda name: fields.get(name, '')[:1].lower() in _TRUE
  big = yes('BinaryDataByteOrderMSB') or yes('ElementByteOrderMSB')
  compressed = yes('CompressedData')
  name, data = fields['ElementDataFile'], path
  if name.upper() != 'LOCAL':
    data, end = _beside(path, name), 0
  skipped = int(numbers.get('HeaderSize', [0])[0])
  if 0 < skipped < end or (skipped < 0 and compressed):
    raise ScanError(file, f'impossible HeaderSize {skipped}', DAMAGED)
  size = int(numbers.get('CompressedDataSize', [-1])[0])
  turned = {'TransformMatrix', 'Rotation', 'Orientation'} & fields.keys()
  return Stored(
    shape,
    np.dtype(('>' if big else '<') + _META_TYPES[kind]),
    data,
    -1 if skipped < 0 else skipped or end,
    compressed,
    size if size > 0 else -1,
    () if turned else (_ASSUMED,),
    _meta_place(numbers, file) if len(shape) > 2 else None,
  )


def _nrrd_fields(path: pathlib.Path) -> tuple[dict[str, str], int]:
  """Fields of an NRRD header in lower case, and where it ends."""
  data = read_start(path, _MAX_HEADER)
  if not re.match(rb'NRRD000\d\r?\n', data):
    raise ScanError(path, 'not an NRRD file', _ANEW)
  ended = re.search(rb'\n\r?\n', data)
  if not ended and len(data) == _MAX_HEADER:
    raise ScanError(path, 'its header does not end', DAMAGED)
  end = ended.end() if ended else len(data)
  fields = {}
  for line in os.fsdecode(data[:end]).splitlines()[1:]:
    key, mark, value = line.partition(':')
    if line.startswith('#') or not mark or value.startswith('='):
      continue
    key = key.strip().lower().replace('datafile', 'data file')
    key = re.sub('^(line|byte)skip$', r'\1 skip', key)
    if key in fields:
      raise ScanError(path, f'its header has {key} twice', DAMAGED)
    fields[key] = value.strip()
  if not ended and 'data file' not in fields:
    raise ScanError(path, 'its header does not end: truncated', AGAIN)
  return fields, end


def _check_nrrd(fields, shape, file: str) -> None:
  """Checks what makes voxels something else than one grey value each."""
  kinds = fields.get('kinds', '').lower().split()
  other = [
    kind
    for kind, side in zip(kinds, shape, strict=False)
    if kind not in _SPATIAL and side > 1
  ]
  if other:
    raise ScanError(
      file,
      f'has an axis of kind {other[0]}: several layers, colours or times',
      'save one 3-D volume of grey values, or one label map without overlaps',
    )
  if fields.get('encoding', '').lower() not in ('raw', 'gzip', 'gz'):
    raise ScanError(
      file,
      f'unknown encoding {fields.get("encoding", "")!r}',
      'save it raw or gzip-compressed',
    )
  if not {'spacings', 'space directions'} & fields.keys():
    raise ScanError(file, 'its header has no voxel sizes', SIZES)


def nrrd(path: pathlib.Path) -> Stored:
  """What a `.nrrd` or `.nhdr` file says.

  Raises:
    ScanError: it is no header, or one that makes no sense.
  """
  file = str(path)
  fields, end = _nrrd_fields(path)
  missing = [n for n in ('type', 'dimension', 'sizes') if n not in fields]
  if missing:
    raise ScanError(file, f'its header has no {missing[0]}', DAMAGED)
  shape = _whole(_numbers(fields['sizes'], 'sizes', file), 'sizes', file)
  if _numbers(fields['dimension'], 'dimension', file) != [len(shape)]:
    raise ScanError(
      file, f'dimension {fields["dimension"]}, sizes {shape}', DAMAGED
    )
  _check_nrrd(fields, shape, file)
  code = _NRRD_CODES.get(' '.join(fields['type'].lower().split()))
  endian = fields.get('endian', 'none').lower()
  if not code or (endian not in ('little', 'big') and code not in ('i1', 'u1')):
    raise ScanError(
      file, f'unknown type {fields["type"]!r}, endian {endian}', DAMAGED
    )
  compressed = fields['encoding'].lower() != 'raw'
  skips = [
    _numbers(fields.get(f'{what} skip', '0'), f'{what} skip', file)[0]
    for what in ('line', 'byte')
  ]
  if skips[0] or (compressed and skips[1]):
    raise ScanError(file, 'skips a part of its data', _ANEW)
  data = path
  if 'data file' in fields:
    data, end = _beside(path, fields['data file']), 0
  space = fields.get('space', '').lower()
  return Stored(
    shape,
    np.dtype(('>' if endian == 'big' else '<') + code),
    data,
    -1 if skips[1] < 0 else end + int(skips[1]),
    compressed,
    -1,
    () if space in _SPACES else (_ASSUMED,),
  )


_FORMATS = {'.mha': metaimage, '.mhd': metaimage, '.nrrd': nrrd, '.nhdr': nrrd}


def read(path: pathlib.Path) -> Stored:
  """What a text header says, by the ending of its file's name.

  Raises:
    ScanError: it is no header, or one that makes no sense.
  """
  return _FORMATS[path.suffix.lower()](path)
