"""Every fault a scan may have, and what its row in the table says of it."""

import gzip
import pathlib
import re
import struct
import tracemalloc
import zlib

import nibabel as nib
import numpy as np
from PIL import Image
import pydicom
import pytest

from data import preparation, prepare
from data.formats.nifti import ScanError, read_nifti, write_nifti
from data.phantoms import archive
from data.preprocessing import preprocess
from data.task import ABDOMEN

CT, T2 = ABDOMEN.modalities[:2]
# Three prepared pixels a voxel: voxel centres fall on pixel centres.
SHAPE, SIZE = (6, 6, 4), 18
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
_AGAIN = 'copy the file again'
_ANEW = 'export the scan again'
_EXPORT = 'export the whole series again'
_HEADERS = 'export the series with full headers'


def _image(shape=SHAPE, dtype=np.int16):
  """Values inside the CT window, no two alike."""
  return (np.arange(np.prod(shape)) - 100).reshape(shape).astype(dtype)


def _label(shape=SHAPE, dtype=np.uint8):
  """All four organs, an organ of no interest and background."""
  codes = np.array([0, 1, 2, 3, 6, 9])
  return codes[np.arange(np.prod(shape)) % 6].reshape(shape).astype(dtype)


def _nifti(voxels=None, affine=AFFINE, kind=nib.Nifti1Image, order='<'):
  voxels = _image() if voxels is None else voxels
  header = kind.header_class(endianness=order)
  header.set_data_dtype(voxels.dtype)
  return kind(voxels, affine, header).to_bytes()


def _patched(offset, code, *values):
  """A sound file but for the header's bytes at `offset`."""
  data = bytearray(_nifti())
  struct.pack_into('<' + code, data, offset, *values)
  return bytes(data)


def _forms(sform, qform, quaternion=None):
  """A file with the two affines; None leaves one out."""
  image = nib.Nifti1Image(_image(), AFFINE)
  image.set_sform(sform, int(sform is not None))
  image.set_qform(qform, int(qform is not None))
  data = bytearray(image.to_bytes())
  if quaternion:
    struct.pack_into('<3f', data, 256, *quaternion)
  return bytes(data)


def _units(affine, unit):
  image = nib.Nifti1Image(_image(), affine)
  image.header.set_xyzt_units(unit)
  return image.to_bytes()


def _scaled(values, dtype):
  """What nibabel makes of floating point values under an integer header."""
  header = nib.Nifti1Header()
  header.set_data_dtype(dtype)
  return nib.Nifti1Image(values, AFFINE, header).to_bytes()


def _with(value, dtype=np.float32, make=_image):
  voxels = make(dtype=dtype)
  voxels[1, 1, 1] = value
  return _nifti(voxels)


def _flipped(data):
  data = bytearray(data)
  data[len(data) // 2] ^= 4
  return bytes(data)


def _bomb(head, megabytes, kind=31):
  """`head` and then zeros; a thousandth of its size when compressed.

  Blocks behind a full flush stand alone, so that one can be repeated; only the
  checksum at the end is not what it should be, and nobody gets there.
  """
  deflate = zlib.compressobj(9, zlib.DEFLATED, kind)
  start = deflate.compress(head) + deflate.flush(zlib.Z_FULL_FLUSH)
  zeros = deflate.compress(bytes(1 << 20)) + deflate.flush(zlib.Z_FULL_FLUSH)
  return start + zeros * megabytes + deflate.flush()


_GZ = gzip.compress(_nifti(), mtime=0)
_RGB = np.zeros(SHAPE, [('R', 'u1'), ('G', 'u1'), ('B', 'u1')])
_MIRRORED = AFFINE @ np.diag([1.0, -1.0, 1.0, 1.0])
_SINGULAR = _patched(280, '12f', *[1, 0, 0, 0] * 2, *[0, 0, 3, 0])
_HUGE = _patched(42, '3h', 30000, 30000, 30000)
_LARGE = _patched(42, '3h', 1000, 1000, 1000)  # 2 GB.
_MOVED = AFFINE + np.eye(4)[:, 3:] * [0, 0, 0, 1] + np.eye(4, k=3) * 9

# Fault -> which file, its ending, its bytes, reason, remedy.
BAD_NIFTI = {
  'zero bytes': ('image', 'nii', b'', 'is empty', _AGAIN),
  'zero bytes gz': ('image', 'nii.gz', b'', 'is empty', _AGAIN),
  'text': ('image', 'nii', b'Dear all, ' * 40, 'not a NIfTI', 'as NIfTI'),
  'text gz': (
    'image', 'nii.gz', gzip.compress(b'Dear all, ' * 40), 'not a NIfTI',
    'as NIfTI',
  ),
  'short': ('image', 'nii', _nifti()[:4], 'no NIfTI header', _AGAIN),
  'short second version': (
    'image', 'nii', _nifti(kind=nib.Nifti2Image)[:400], 'no NIfTI header',
    _AGAIN,
  ),
  'not gzip': ('image', 'nii.gz', _nifti(), 'not gzip', 'take .gz off'),
  'truncated': ('image', 'nii', _nifti()[:-8], 'truncated', _AGAIN),
  'truncated gz': ('image', 'nii.gz', _GZ[:-30], 'truncated', _AGAIN),
  'truncated label': (
    'label', 'nii.gz', gzip.compress(_nifti(_label()))[:-30], 'truncated',
    _AGAIN,
  ),
  'no trailer': ('image', 'nii.gz', _GZ[:-8], 'trailer', _AGAIN),
  'wrong CRC': (
    'image', 'nii.gz', _GZ[:-8] + bytes(4) + _GZ[-4:], 'damaged', _AGAIN
  ),
  'wrong length': ('image', 'nii.gz', _GZ[:-4] + bytes(4), 'damaged', _AGAIN),
  'flipped bit': (
    'image', 'nii.gz', _flipped(_GZ), 'damaged|truncated|holds', _AGAIN
  ),
  'bytes behind': ('image', 'nii.gz', _GZ + b'more', 'behind', _AGAIN),
  '30000^3 voxels': (
    'image', 'nii', _HUGE, '30000 x 30000 x 30000 voxels', _ANEW
  ),
  '30000^3 voxels gz': (
    'image', 'nii.gz', gzip.compress(_HUGE), '30000 x 30000 x 30000 voxels',
    _ANEW,
  ),
  '1000^3 voxels': (
    'image', 'nii', _LARGE, 'announces 2000000352 bytes', _AGAIN
  ),
  '1000^3 voxels gz': (
    'image', 'nii.gz', gzip.compress(_LARGE), 'cannot come out of', _AGAIN
  ),
  'gzip bomb': (
    'image', 'nii.gz', _bomb(_nifti(), 4), 'more than the .* bytes', _ANEW
  ),
  'no dimension': ('image', 'nii', _patched(42, 'h', 0), 'dimensions', _ANEW),
  'unknown type': (
    'image', 'nii', _patched(70, 'h', 77), 'unknown data type 77', _ANEW
  ),
  'far voxels': ('image', 'nii', _patched(108, 'f', 9e9), 'offset', _ANEW),
  'magic': ('image', 'nii', _patched(344, '4s', b'no'), 'magic', _ANEW),
  'NaN': ('image', 'nii', _with(np.nan), '1 voxels are NaN', 'export the scan'),
  'Inf': (
    'image', 'nii', _with(np.inf), '1 voxels are NaN or infinite',
    'export the scan',
  ),
  'beyond single precision': (
    'image', 'nii', _with(1e300, np.float64), '1 voxels are NaN or infinite',
    'export the scan',
  ),
  'constant': (
    'image', 'nii', _nifti(np.full(SHAPE, 7, np.int16)),
    'constant: every voxel is 7', _AGAIN,
  ),
  '4-D': (
    'image', 'nii', _nifti(_image((*SHAPE, 2))), '4-dimensional',
    'one 3-D volume',
  ),
  '2-D': ('image', 'nii', _nifti(_image((6, 6))), '2-dim', 'one 3-D volume'),
  'RGB': ('image', 'nii', _nifti(_RGB), 'RGB', 'grey values'),
  'complex': (
    'image', 'nii', _nifti(_image(dtype=np.complex64)), 'complex',
    'grey values',
  ),
  'singular affine': (
    'image', 'nii', _SINGULAR, 'singular', 'repair sform and qform'
  ),
  'NaN affine': (
    'image', 'nii', _patched(280, 'f', np.nan), 'not finite',
    'repair sform and qform',
  ),
  'singular sform beside a qform': (
    'image', 'nii', _forms(np.diag([2.0, 2, 0, 1]), AFFINE), 'sform .*singular',
    'set sform_code to 0: the qform',
  ),
  'far away': (
    'image', 'nii', _patched(292, 'f', -3e9), 'sform is 3e[+]09 mm away',
    'repair sform',
  ),
  'qform that is no rotation': (
    'image', 'nii', _forms(None, AFFINE, quaternion=(0, 0, 1.01)),
    'no rotation', 'repair the qform',
  ),
  'NaN qform': (
    'image', 'nii', _forms(None, AFFINE, quaternion=(0, np.nan, 0)),
    'qform', 'repair',
  ),
  'sform unlike qform': (
    'image', 'nii', _forms(AFFINE, _MIRRORED), 'disagree.* RAS and RPS',
    r'which one is right.*set_qform\(image.affine\).*set_sform',
  ),
  'axes in another order': (
    'image', 'nii', _forms(AFFINE, AFFINE[:, [1, 2, 0, 3]]),
    'disagree.* RAS and ASR', 'which one is right',
  ),
  'header of a pair': (
    'image', 'nii', _patched(344, '4s', b'ni1'), 'pair', 'name it .hdr'
  ),
  'a whole volume behind the last': (
    'image', 'nii', _nifti() + bytes(1 << 21), 'more than the', _ANEW
  ),
  'unknown sform': (
    'image', 'nii', _patched(254, 'h', 99), 'sform_code 99', 'set sform_code'
  ),
  'lengths in metres': (
    'image', 'nii', _nifti(affine=np.diag([0.002, 0.002, 0.003, 1])),
    'voxels of 0.002 x 0.002 x 0.003 mm', 'in mm',
  ),
  'lengths that are said to be in metres': (
    'image', 'nii', _units(np.diag([0.002, 0.002, 0.003, 1]), 'meter'),
    'voxels of 0.002 x 0.002 x 0.003 mm', r'in mm.*\(it says metres\)',
  ),
  'lengths in micrometres': (
    'image', 'nii', _units(np.diag([700.0, 700, 900, 1]), 'micron'),
    'voxels of 700 x', r'in mm.*\(it says micrometres\)',
  ),
  'zero pixdim': (
    'image', 'nii', _patched(80, 'f', 0), 'not all positive', 'true voxel sizes'
  ),
  'NaN intercept': (
    'image', 'nii', _patched(112, '2f', 2, np.nan), 'scaling 2.0, nan',
    'scl_slope to 1',
  ),
  'float labels': (
    'label', 'nii', _nifti(_label(dtype=np.float32) + 0.3), 'not whole numbers',
    'nearest neighbour',
  ),
  'NaN label': (
    'label', 'nii', _with(np.nan, make=_label), '1 voxels are NaN',
    'set them to 0',
  ),
  'labels saved with a coarse scaling': (
    'label', 'nii', _scaled(_label() * 100.0, np.uint8),
    r'intensity scaling \(scl_slope 3.53\)', 'save it as integers',
  ),
  'fractional labels saved with a fine scaling': (
    'label', 'nii', _scaled(_label() + 0.3, np.uint8),
    r'intensity scaling \(scl_slope 0.035', 'save it as integers',
  ),
  'fractional labels saved with a very fine scaling': (
    'label', 'nii', _scaled(_label() + 0.3, np.int16), 'not whole numbers',
    'nearest neighbour',
  ),
  'unknown codes': (
    'label', 'nii', _with(77, np.int16, _label), r'77 \(1 voxels\)',
    r'expected \[0, 1, .*correct.*"background"',
  ),
  'negative code': (
    'label', 'nii', _with(-1, np.int16, _label), r'-1 \(1 voxels\)', 'expected'
  ),
  'code that a cast would turn into 6': (
    'label', 'nii', _with(2**32 + 6, np.int64, _label), 'as large as 4.29',
    'correct the label map',
  ),
  'all background': (
    'label', 'nii', _nifti(np.zeros(SHAPE, np.uint8)), 'all background',
    'give the label map of this scan, or move',
  ),
  'label of another shape': (
    'label', 'nii', _nifti(_label((6, 6, 3))),
    r'shape \(6, 6, 3\) is not the image shape \(6, 6, 4\)',
    'drawn on this image',
  ),
  'label elsewhere': (
    'label', 'nii', _nifti(_label(), _MOVED), 'affines differ', 'resample'
  ),
}  # fmt: skip


@pytest.fixture
def archives(tmp_path):
  """A sound case of BTCV; a second one is added by each test."""
  archive.write_btcv(tmp_path / 'btcv', 0, _image(), _label(), AFFINE)
  return tmp_path


@pytest.fixture
def patient(tmp_path):
  """The first of two patients of CHAOS, to be damaged."""
  for index in (0, 1):
    image = (_image() + 200 + index).astype(np.uint16)
    affine = np.diag([-2.0, -2.0, 3.0, 1.0])
    scan = [image], _label(), affine
    archive.write_chaos(tmp_path / 'chaos', index, 't2', *scan)
  return tmp_path / 'chaos' / 'Train_Sets' / 'MR' / '1'


def _second_ct(archives, ending, image=None, label=None):
  """Writes BTCV's second case and returns its two files."""
  top = archives / 'btcv' / 'RawData' / 'Training'
  paths = {
    'image': top / 'img' / f'img0002.{ending}',
    'label': top / 'label' / f'label0002.{ending}',
  }
  for name, data, plain in (
    ('image', image, _image()),
    ('label', label, _label()),
  ):
    if data is None:
      write_nifti(paths[name], plain, AFFINE)
    else:
      paths[name].write_bytes(data)
  return paths


def _take_in(archives, modality, **kwargs):
  return preparation.prepare(
    ABDOMEN,
    [modality],
    {name: str(archives / name) for name in ('btcv', 'chaos')},
    slice_size=SIZE,
    roi='none',
    cache=str(archives / 'cache'),
    quiet=True,
    **kwargs,
  )


def _check_only_row(archives, modality, file, reason, remedy):
  """The intake refuses this one scan and no other."""
  with pytest.raises(preparation.BadScans) as caught:
    _take_in(archives, modality)
  (row,) = caught.value.errors
  assert row.file == str(file)
  assert re.search(reason, row.reason), row.reason
  assert re.search(remedy, row.remedy), row.remedy
  line = f'{row.file} | {row.reason} | {row.remedy}'
  assert line in str(caught.value).splitlines()[2]
  assert not any((archives / 'cache').iterdir())


@pytest.mark.parametrize('fault', BAD_NIFTI)
def test_bad_nifti_file_has_its_row(fault, archives):
  which, ending, data, reason, remedy = BAD_NIFTI[fault]
  paths = _second_ct(archives, ending, **{which: data})
  _check_only_row(archives, CT, paths[which], reason, remedy)


def test_missing_files_have_their_rows(archives):
  paths = _second_ct(archives, 'nii')
  paths['label'].unlink()
  _check_only_row(archives, CT, paths['image'], 'its label .* missing', 'put')
  paths = _second_ct(archives, 'nii')
  paths['image'].unlink()
  paths['image'].symlink_to('nowhere')
  _check_only_row(archives, CT, paths['image'], 'link to nowhere', 'fetch')


def _series(root):
  return sorted(root.glob('T2SPIR/DICOM_anon/*'))


def _edit(path, change):
  found = pydicom.dcmread(path)
  change(found)
  found.save_as(path)


def _without(keyword):
  return lambda root: _edit(_series(root)[2], lambda d: d.pop(keyword))


def _set(**elements):
  def change(found):
    for keyword, value in elements.items():
      setattr(found, keyword, value)

  return lambda root: _edit(_series(root)[2], change)


def _second_file(change):
  return lambda root: change(_series(root)[2])


def _repeat(root):
  files = _series(root)
  other = pydicom.dcmread(files[1]).ImagePositionPatient
  _set(ImagePositionPatient=other)(root)


def _changed_copy(root):
  first = _series(root)[0]
  found = pydicom.dcmread(first)
  found.PixelData = found.PixelData[::-1]
  found.save_as(first.with_name('IMG-0001-00099.dcm'))


def _second_series(root):
  """Another series of the same patient, its slices between the others'."""
  for file in _series(root):
    found = pydicom.dcmread(file)
    found.SeriesInstanceUID += '.9'
    found.ImagePositionPatient[2] += 1
    found.save_as(file.with_name(f'other-{file.name}'))


def _keep_one(root):
  for file in _series(root)[1:]:
    file.unlink()


def _colour(found):
  found.SamplesPerPixel, found.PlanarConfiguration = 3, 0
  found.PhotometricInterpretation = 'RGB'
  found.BitsAllocated = found.BitsStored = 8
  found.HighBit = 7
  found.PixelData = bytes(3 * found.Rows * found.Columns)


def _deflated(path):
  """A file whose data set is a bomb."""
  found = pydicom.dcmread(path)
  found.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
  found.save_as(path)
  data = path.read_bytes()
  start = 144 + struct.unpack_from('<I', data, 140)[0]
  path.write_bytes(data[:start] + _bomb(data[start:], 4, -15))


def _all(keyword, change):
  def damage(root):
    for file in _series(root):
      found = pydicom.dcmread(file)
      setattr(found, keyword, change(found))
      found.save_as(file)

  return damage


def _tilted(found):
  x, y, z = found.ImagePositionPatient
  return [x, y + z, z]


def _pngs(root):
  return sorted(root.glob('T2SPIR/Ground/*'))


def _grey(change):
  def damage(root):
    path = _pngs(root)[2]
    with Image.open(path) as picture:
      picture.load()
    change(picture).save(path)

  return damage


def _stray(picture):
  picture.paste(90, (0, 0, 2, 2))
  return picture


def _no_label(root):
  for path in _pngs(root):
    Image.new('L', SHAPE[:2]).save(path)


def _png_bomb(root):
  """A picture that says it has 64 million pixels."""
  chunk = lambda kind, data: (
    struct.pack('>I', len(data))
    + kind
    + data
    + struct.pack('>I', zlib.crc32(kind + data))
  )
  head = struct.pack('>2I5B', 8000, 8000, 8, 0, 0, 0, 0)
  data = b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head)
  data += chunk(b'IDAT', zlib.compress(bytes(8001 * 8000))) + chunk(
    b'IEND', b''
  )
  _pngs(root)[2].write_bytes(data)


_FOLDER = 'T2SPIR/DICOM_anon'
_FILE = f'{_FOLDER}/IMG-0001-00003.dcm'
_GROUND = 'T2SPIR/Ground'
_PNG = f'{_GROUND}/IMG-0001-00003.png'
_DRAWN = 'drawn on this series'
# Fault -> what does it, the row's file, reason, remedy.
BAD_SERIES = {
  'missing slice': (
    _second_file(pathlib.Path.unlink), _FOLDER, 'missing slice after', _EXPORT
  ),
  'repeated place': (_repeat, _FOLDER, 'repeated slice', 'remove the dup'),
  'repeated file, changed': (
    _changed_copy, _FOLDER, 'repeated slice at .*00001.dcm and .*00099.dcm',
    'remove the duplicate',
  ),
  'two series': (
    _second_series, _FOLDER, r'2 series in one folder: .*4 images\)', '--series'
  ),
  'one slice': (_keep_one, _FOLDER, 'a single slice', _EXPORT),
  'truncated': (
    _second_file(lambda f: f.write_bytes(f.read_bytes()[:-50])), _FILE,
    'truncated', _AGAIN,
  ),
  'zero bytes': (
    _second_file(lambda f: f.write_bytes(b'')), _FILE, 'not a readable', _AGAIN
  ),
  'text': (
    _second_file(lambda f: f.write_text('no scan')), _FILE, 'not a readable',
    _AGAIN,
  ),
  'no PixelSpacing': (
    _without('PixelSpacing'), _FILE, 'PixelSpacing is missing', _HEADERS
  ),
  'empty PixelSpacing': (
    _set(PixelSpacing=None), _FILE, 'PixelSpacing is missing', _HEADERS
  ),
  'one PixelSpacing': (
    _set(PixelSpacing=[2]), _FILE, 'impossible PixelSpacing', _HEADERS
  ),
  'zero PixelSpacing': (
    _set(PixelSpacing=[0, 2]), _FILE, 'not positive', _HEADERS
  ),
  'other PixelSpacing': (
    _set(PixelSpacing=[9, 9]), _FOLDER,
    r'IMG-0001-00003.dcm differs in PixelSpacing: \[9.0, 9.0\], the others',
    'move it away',
  ),
  'no position': (
    _without('ImagePositionPatient'), _FILE, 'is missing', _HEADERS
  ),
  'short position': (
    _set(ImagePositionPatient=[1, 2]), _FILE, 'impossible ImageP', _HEADERS
  ),
  'position in words': (
    _second_file(
      lambda f: f.write_bytes(f.read_bytes().replace(b'6.000000', b'6.00six0'))
    ), _FILE, 'unreadable ImageP', _HEADERS,
  ),
  'zero slope': (_set(RescaleSlope=0), _FILE, 'RescaleSlope is 0', _HEADERS),
  'no orientation': (
    _all('ImageOrientationPatient', lambda _: [1, 0, 0, 1, 0, 0]),
    f'{_FOLDER}/IMG-0001-00001.dcm', 'impossible ImageO', _EXPORT,
  ),
  'tilted': (
    _all('ImagePositionPatient', _tilted), _FOLDER, 'shifted sideways',
    'resample',
  ),
  'colour': (
    _second_file(lambda f: _edit(f, _colour)), _FILE, 'no grey-value slice',
    'grey values',
  ),
  'constant': (
    _all('PixelData', lambda found: bytes(len(found.PixelData))), _FOLDER,
    'constant', _AGAIN,
  ),
  'deflated bomb': (
    _second_file(_deflated), _FILE, 'deflated', 'uncompressed'
  ),
  'empty folder': (
    lambda root: [file.unlink() for file in _series(root)], _FOLDER,
    'no DICOM images', 'copy the series',
  ),
  'missing label slice': (
    lambda root: _pngs(root)[2].unlink(), _GROUND,
    '3 label slices for 4 image slices', 'copy both folders again',
  ),
  'unknown grey value': (
    _grey(_stray), _GROUND, r'90 \(4 voxels\)', 'correct the label map'
  ),
  'label slice of another shape': (
    _grey(lambda p: p.crop((0, 0, 5, 6))), _PNG, r'\(5, 6\) pixels', _DRAWN
  ),
  'colour label': (
    _grey(lambda p: p.convert('RGB')), _PNG, 'mode RGB', 'grey-value PNG'
  ),
  'palette label': (
    _grey(lambda p: p.convert('P')), _PNG, 'mode P', 'grey-value PNG'
  ),
  'truncated label': (
    lambda root: _pngs(root)[2].write_bytes(_pngs(root)[2].read_bytes()[:-20]),
    _PNG, 'not a readable PNG', _AGAIN,
  ),
  'label bomb': (_png_bomb, _PNG, r'\(8000, 8000\) pixels', _DRAWN),
  'all background': (
    _no_label, _GROUND, 'all background', 'or move the scan'
  ),
}  # fmt: skip


@pytest.mark.parametrize('fault', BAD_SERIES)
def test_bad_series_has_its_row(fault, patient, tmp_path):
  damage, file, reason, remedy = BAD_SERIES[fault]
  damage(patient)
  _check_only_row(tmp_path, T2, patient / file, reason, remedy)


def _of_shape(*sides):
  return _nifti(_image(sides)), _nifti(_label(sides))


# Uncommon, and right: image and label as bytes.
GOOD = {
  'big-endian': (_nifti(order='>'), _nifti(_label(dtype=np.int16), order='>')),
  'second version': (
    _nifti(kind=nib.Nifti2Image),
    _nifti(_label(), kind=nib.Nifti2Image, order='>'),
  ),
  'one slice': _of_shape(6, 6, 1),
  'smaller than the patch': _of_shape(2, 2, 4),
  'one voxel a slice': _of_shape(1, 1, 4),
  'a fourth axis of one': _of_shape(6, 6, 4, 1),
  'sform only': (_forms(AFFINE, None), None),
  'qform only': (_forms(None, AFFINE), None),
  'double precision': (_nifti(_image(dtype=np.float64)), None),
  'whole numbers as floats': (None, _nifti(_label(dtype=np.float32))),
  'nearly whole numbers': (None, _nifti(_label(dtype=np.float32) + 1e-5)),
  'only one class': (None, _nifti((_label() == 6).astype(np.uint8))),
  # Somebody drew an organ, only none of this task's.
  'only other organs': (None, _nifti(9 * (_label() == 6).astype(np.uint8))),
}


def _decoded(data):
  second = 540 in (int.from_bytes(data[:4], end) for end in ('little', 'big'))
  kind = nib.Nifti2Image if second else nib.Nifti1Image
  return kind.from_bytes(data).get_fdata()


@pytest.mark.parametrize('name', GOOD)
def test_uncommon_but_sound_scan_is_taken_in_with_its_voxels(name, archives):
  image, label = GOOD[name]
  _second_ct(archives, 'nii', image, label)
  prepared = _take_in(archives, CT)
  _, case = prepared.cases
  voxels = _decoded(image or _nifti())
  codes = _decoded(label or _nifti(_label()))
  # Slices rise, rows run to the back, columns to the left.
  turn = lambda v: v.reshape(v.shape[:3]).transpose(2, 1, 0)[:, ::-1, ::-1]
  lut = np.array([CT.codes[code] for code in range(14)])
  classes = lut[np.round(turn(codes)).astype(int)]
  np.testing.assert_array_equal(prepared.native_labels(case), classes)
  unit = np.stack(
    [
      preprocess.image_to_native(p, case.geometry)
      for p in prepared.images(case)
    ]
  )
  np.testing.assert_allclose(unit, (turn(voxels) + 125) / 400, atol=1e-5)
  assert set(np.unique(prepared.labels(case))) == set(np.unique(classes))


def test_without_the_bad_scan_the_others_go_on(archives):
  _second_ct(archives, 'nii', image=b'')
  prepared = _take_in(archives, CT, skip_bad=True)
  assert [case.name for case in prepared.cases] == ['img0001']
  assert [bad['reason'] for bad in prepared.skipped] == ['the file is empty']


def test_the_command_prints_all_rows_of_all_archives(archives, patient, capsys):
  paths = _second_ct(archives, 'nii', image=b'')
  BAD_SERIES['two series'][0](patient)
  flags = ['--task', 'abdomen', '--modalities', 'ct,t2']
  flags += ['--cache', str(archives / 'cache')]
  for name in ('btcv', 'chaos'):
    flags += ['--root', f'{name}={archives / name}']
  assert prepare.main(flags) == 1
  said = capsys.readouterr().err
  assert '2 scans cannot be used\n' in said
  for file in (paths['image'], patient / _FOLDER):
    assert f'  {file} | ' in said


BOMBS = {
  'of zeros behind the volume': (_nifti(), 'more than the'),
  'of 30000^3 voxels': (_HUGE, '30000 x 30000'),
  'that announces more than deflate gives': (
    _patched(42, '3h', 1024, 1024, 1024),
    'cannot come out',
  ),
}


class _Counted:
  """A decompressor that notes how many bytes it gave."""

  def __init__(self, inner, given):
    self._inner, self._given = inner, given

  def __getattr__(self, name):
    return getattr(self._inner, name)

  def decompress(self, *args):
    data = self._inner.decompress(*args)
    self._given.append(len(data))
    return data


@pytest.mark.parametrize('name', BOMBS)
def test_a_bomb_of_a_gigabyte_costs_next_to_nothing(
  name, tmp_path, monkeypatch
):
  head, reason = BOMBS[name]
  path = tmp_path / 'a.nii.gz'
  path.write_bytes(_bomb(head, 1024))
  assert path.stat().st_size < 2 << 20
  given, start = [], zlib.decompressobj
  monkeypatch.setattr(
    zlib, 'decompressobj', lambda *args: _Counted(start(*args), given)
  )
  tracemalloc.start()
  try:
    with pytest.raises(ScanError, match=reason):
      read_nifti(path)
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  # The compressed file twice, and what the header announces.
  assert peak < 5 << 20
  assert given and sum(given) < 5 << 20
