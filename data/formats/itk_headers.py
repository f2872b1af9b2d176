"""What the text headers of MetaImage and NRRD files say of their voxels.

ITK fills what is missing with zeros or with whatever is in memory, and opens
any file that a header names. Here a header is checked before it is believed.
"""

from collections.abc import Sequence
import os
import pathlib
import re
from typing import NamedTuple

import numpy as np

from data.formats.affines import SIZES
from data.formats.nifti_bytes import check_voxels, read_start
from data.formats.scan_error import AGAIN, DAMAGED, GREY, ScanError, need

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
  one = name.split(' ')[0].upper() != 'LIST' and '%' not in name
  need(one, path, 'its voxels are in several files', _ANEW)
  plain = name not in ('', '.', '..', path.name)
  need(
    plain and not any(char in name for char in '\0/\\'),
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
  sound = found and np.isfinite(found).all()
  need(sound, file, f'{field} is {text[:40]!r}: no numbers', DAMAGED)
  return found


def _whole(values: list[float], field: str, file: str) -> tuple[int, ...]:
  """Sides of a volume."""
  sides = tuple(map(int, values))
  sound = min(values) >= 1 and sides == tuple(values)
  need(sound, file, f'impossible {field} {values}', DAMAGED)
  check_voxels(sides, file)
  return sides


def _need_fields(
  fields: dict[str, str], names: Sequence[str], file: str
) -> None:
  for name in names:
    need(name in fields, file, f'its header has no {name}', DAMAGED)


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
    need(key not in fields, path, f'its header has {key} twice', DAMAGED)
    fields[key] = value[0]
    if key == 'ElementDataFile':
      return fields, place
  known = {'NDims', 'ObjectType'} & fields.keys()
  need(known, path, 'not a MetaImage file', _ANEW)
  reason = 'its header ends without ElementDataFile: truncated'
  raise ScanError(path, reason, AGAIN)


def _meta_numbers(fields, file: str) -> dict[str, list[float]]:
  """Every field of numbers, as many of them as the dimensions ask for."""
  out = {}
  for field in ('NDims', *(k for k in _META_NUMBERS if k in fields)):
    out[field] = _numbers(fields.get(field, ''), field, file)
    dims, count = out['NDims'][0], len(out[field])
    sound = 1 <= dims <= 10 and dims == int(dims)
    need(sound, file, f'impossible NDims {dims:g}', DAMAGED)
    fits = count == int(dims) ** _META_NUMBERS[field]
    need(fits, file, f'{field} has {count} numbers, NDims {dims:g}', DAMAGED)
  return out


def _check_meta(fields, numbers, file: str) -> None:
  """Checks what makes voxels something else than one grey value each."""
  _need_fields(fields, ('DimSize', 'ElementType'), file)
  channels = numbers.get('ElementNumberOfChannels', [1])[0]
  grey = channels == 1 and not fields['ElementType'].endswith('_ARRAY')
  need(grey, file, f'{channels:g} values a voxel', GREY)
  binary = fields.get('BinaryData', '1')[:1].lower() in _TRUE
  need(binary, file, 'its voxels are written as text', _ANEW)
  slope = numbers.get('ElementToIntensityFunctionSlope', [1])[0]
  inter = numbers.get('ElementToIntensityFunctionOffset', [0])[0]
  reason = f'its values are to be scaled by {slope:g} and shifted by {inter:g}'
  reason += ': no reader does so'
  need((slope, inter) == (1, 0), file, reason, 'save the scaled values')


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
    alike = all(values == said[0] for values in said)
    need(alike, file, f'{names[0]} is given twice', DAMAGED)
    found.append(np.array(said[0] if said else plain))
  sizes = numbers.get('ElementSpacing', numbers.get('ElementSize', []))
  need(sizes, file, 'its header has no ElementSpacing', SIZES)
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
  need(kind in _META_TYPES, file, f'unknown ElementType {kind}', DAMAGED)
  yes = lambda name: fields.get(name, '')[:1].lower() in _TRUE
  big = yes('BinaryDataByteOrderMSB') or yes('ElementByteOrderMSB')
  compressed = yes('CompressedData')
  name, data = fields['ElementDataFile'], path
  if name.upper() != 'LOCAL':
    data, end = _beside(path, name), 0
  skipped = int(numbers.get('HeaderSize', [0])[0])
  # A negative one says that the voxels end the file.
  sound = not skipped or skipped >= end or (skipped < 0 and not compressed)
  need(sound, file, f'impossible HeaderSize {skipped}', DAMAGED)
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
  need(re.match(rb'NRRD000\d\r?\n', data), path, 'not an NRRD file', _ANEW)
  ended = re.search(rb'\n\r?\n', data)
  whole = ended or len(data) < _MAX_HEADER
  need(whole, path, 'its header does not end', DAMAGED)
  end = ended.end() if ended else len(data)
  fields = {}
  for line in os.fsdecode(data[:end]).splitlines()[1:]:
    key, mark, value = line.partition(':')
    if line.startswith('#') or not mark or value.startswith('='):
      continue
    key = key.strip().lower().replace('datafile', 'data file')
    key = re.sub('^(line|byte)skip$', r'\1 skip', key)
    need(key not in fields, path, f'its header has {key} twice', DAMAGED)
    fields[key] = value.strip()
  whole = ended or 'data file' in fields
  need(whole, path, 'its header does not end: truncated', AGAIN)
  return fields, end


def _check_nrrd(fields, shape, file: str) -> None:
  """Checks what makes voxels something else than one grey value each."""
  kinds = fields.get('kinds', '').lower().split()
  other = [
    kind
    for kind, side in zip(kinds, shape, strict=False)
    if kind not in _SPATIAL and side > 1
  ]
  first = other[0] if other else ''
  need(
    not other,
    file,
    f'has an axis of kind {first}: several layers, colours or times',
    'save one 3-D volume of grey values, or one label map without overlaps',
  )
  encoding = fields.get('encoding', '')
  known = encoding.lower() in ('raw', 'gzip', 'gz')
  remedy = 'save it raw or gzip-compressed'
  need(known, file, f'unknown encoding {encoding!r}', remedy)
  sized = {'spacings', 'space directions'} & fields.keys()
  need(sized, file, 'its header has no voxel sizes', SIZES)


def nrrd(path: pathlib.Path) -> Stored:
  """What a `.nrrd` or `.nhdr` file says.

  Raises:
    ScanError: it is no header, or one that makes no sense.
  """
  file = str(path)
  fields, end = _nrrd_fields(path)
  _need_fields(fields, ('type', 'dimension', 'sizes'), file)
  number = lambda field: _numbers(fields.get(field, '0'), field, file)
  shape = _whole(number('sizes'), 'sizes', file)
  reason = f'dimension {fields["dimension"]}, sizes {shape}'
  need(number('dimension') == [len(shape)], file, reason, DAMAGED)
  _check_nrrd(fields, shape, file)
  code = _NRRD_CODES.get(' '.join(fields['type'].lower().split()), '')
  endian = fields.get('endian', 'none').lower()
  known = code and (endian in ('little', 'big') or code in ('i1', 'u1'))
  reason = f'unknown type {fields["type"]!r}, endian {endian}'
  need(known, file, reason, DAMAGED)
  compressed = fields['encoding'].lower() != 'raw'
  lines, skipped = number('line skip')[0], number('byte skip')[0]
  whole = not lines and not (compressed and skipped)
  need(whole, file, 'skips a part of its data', _ANEW)
  data = path
  if 'data file' in fields:
    data, end = _beside(path, fields['data file']), 0
  space = fields.get('space', '').lower()
  return Stored(
    shape,
    np.dtype(('>' if endian == 'big' else '<') + code),
    data,
    -1 if skipped < 0 else end + int(skipped),
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
