"""MetaImage, NRRD and pairs: as ITK and nibabel read them, or refused."""

import gzip
import re
import tracemalloc
import zlib

from grids import ORIENTATIONS, affine_of
import hypothesis
from hypothesis import strategies as st
import nibabel as nib
import numpy as np
import pytest
import scipy.spatial
import SimpleITK

from data.formats import itk, nifti, nifti_pairs
from data.formats.nifti import Volume
from data.formats.scan_error import ScanError

SHAPE = (4, 3, 5)
VOXELS = (np.arange(60, dtype=np.int16) - 7).reshape(SHAPE)
RAW = VOXELS.tobytes(order='F')
TURN = scipy.spatial.transform.Rotation.from_rotvec([0.2, -0.1, 0.15])
OBLIQUE = affine_of('PIR', (1.1, 1.4, 2.6), (-80.25, 60, 5), TURN.as_matrix())
ALL = ('.nii', '.nii.gz', *itk.ENDINGS)

META = (
  'ObjectType = Image\nNDims = 3\nBinaryData = True\n'
  'BinaryDataByteOrderMSB = False\nCompressedData = False\n'
  'TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 10 20 30\n'
  'ElementSpacing = 1 2 3\nDimSize = 4 3 5\nElementType = MET_SHORT\n'
  'ElementDataFile = LOCAL\n'
)
NRRD = (
  'NRRD0004\n# a comment\ntype: short\ndimension: 3\n'
  'space: left-posterior-superior\nsizes: 4 3 5\n'
  'space directions: (1,0,0) (0,2,0) (0,0,3)\nkinds: domain domain domain\n'
  'endian: little\nencoding: raw\nspace origin: (10,20,30)\nkey:=a value\n\n'
)
# Of both headers: ITK's axes run to the left and to the back.
PLACE = np.array(
  [[-1.0, 0, 0, -10], [0, -2.0, 0, -20], [0, 0, 3.0, 30], [0, 0, 0, 1]]
)


def _read(path, **options):
  if '.nii' in path.name.lower():
    return nifti.read_nifti(path, **options)
  return itk.read_itk(path, **options)


def _put(place, name, header, data=RAW, *changes):
  """A file of a header with parts of its text changed, and voxels."""
  for old, new in changes:
    assert old in header
    header = header.replace(old, new)
  path = place / name
  path.write_bytes(header.encode() + data)
  return path


def _save(place, files):
  for name, data in files:
    (place / name).write_bytes(data)
  return place / files[-1][0]


@pytest.mark.parametrize('ending', ALL)
@pytest.mark.parametrize('codes', ORIENTATIONS[::16])
@pytest.mark.parametrize('dtype', [np.uint16, np.float32])
def test_what_is_written_comes_back(ending, codes, dtype, tmp_path):
  """Whatever the turn; single precision where the format has no more."""
  affine = affine_of(codes, (1.1, 1.4, 2.6), (-80.25, 60, 5), TURN.as_matrix())
  like = Volume(VOXELS, affine)
  voxels = np.abs(VOXELS).astype(dtype)
  for stem in ('a scan', '50 % ä', 'LIST'):
    files = itk.encode(voxels, like, stem, ending.upper())
    assert files == itk.encode(voxels, like, stem, ending)
    path = _save(tmp_path, files)
    found = _read(path)
    np.testing.assert_array_equal(found.voxels, voxels)
    assert found.voxels.dtype == np.float32
    np.testing.assert_allclose(found.affine, affine, atol=1e-5)
    label = _read(path, label=dtype == np.uint16)
    np.testing.assert_array_equal(label.voxels, voxels)
    assert not found.notes
    if '.nii' not in ending:
      np.testing.assert_array_equal(itk.read_affine(path), found.affine)
      data = {name for name, _ in files[:-1]}
      assert {file.name for file in itk.companions(path)} == data


@pytest.mark.parametrize('ending', ['.mha', '.mhd', '.nrrd', '.nhdr'])
@pytest.mark.parametrize('compressed', [False, True])
def test_itk_writes_what_is_read_as_the_nifti_it_came_from(
  ending, compressed, tmp_path
):
  nifti.write_nifti(tmp_path / 'a.nii', VOXELS, OBLIQUE)
  image = SimpleITK.ReadImage(str(tmp_path / 'a.nii'))
  path = tmp_path / ('b' + ending)
  SimpleITK.WriteImage(image, str(path), useCompression=compressed)
  found = itk.read_itk(path)
  np.testing.assert_array_equal(found.voxels, VOXELS)
  np.testing.assert_allclose(found.affine, OBLIQUE, atol=1e-4)
  # And ITK reads what is written here.
  path = _save(tmp_path, itk.encode(VOXELS, found, 'c', ending))
  again = SimpleITK.ReadImage(str(path))
  np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(again).T, VOXELS)
  np.testing.assert_allclose(again.GetDirection(), image.GetDirection())
  np.testing.assert_allclose(again.GetOrigin(), image.GetOrigin())


@pytest.mark.parametrize('name', ['a.mha', 'a.MHA', 'a.nrrd', 'a.NRRD'])
@pytest.mark.parametrize('eol', ['\n', '\r\n'])
def test_a_header_written_by_hand(name, eol, tmp_path):
  header = META if 'm' in name.lower() else NRRD
  found = itk.read_itk(_put(tmp_path, name, header.replace('\n', eol)))
  np.testing.assert_array_equal(found.voxels, VOXELS)
  np.testing.assert_array_equal(found.affine, PLACE)
  assert found.notes == () and found.header is None


@pytest.mark.parametrize(
  ('space', 'signs'),
  [
    ('right-anterior-superior', (1, 1, 1)),
    ('RAS', (1, 1, 1)),
    ('left-anterior-superior', (-1, 1, 1)),
    ('LAS', (-1, 1, 1)),
    ('left-posterior-superior', (-1, -1, 1)),
    ('LPS', (-1, -1, 1)),
  ],
)
def test_nrrd_spaces_name_their_axes(space, signs, tmp_path):
  change = ('left-posterior-superior', space)
  found = itk.read_itk(_put(tmp_path, 'a.nrrd', NRRD, RAW, change))
  right = np.array([[1, 0, 0, 10], [0, 2, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1]])
  right[:3] *= np.array(signs)[:, None]
  np.testing.assert_array_equal(found.affine, right)
  assert found.notes == ()


_DIRECTIONS = 'space directions: (1,0,0) (0,2,0) (0,0,3)\n'
ASSUMED = {
  'scanner space': ('a.nrrd', NRRD, ('left-posterior-superior', 'scanner-xyz')),
  'spacings': (
    'a.nrrd',
    NRRD.replace('space: left-posterior-superior\n', '').replace(
      'space origin: (10,20,30)\n', ''
    ),
    (_DIRECTIONS, 'spacings: 1 2 3\n'),
  ),
  'MetaImage': (
    'a.mha', META, ('TransformMatrix = 1 0 0 0 1 0 0 0 1\n', '')
  ),
}  # fmt: skip


@pytest.mark.parametrize('which', ASSUMED)
def test_a_header_without_orientation_is_told(which, tmp_path):
  name, header, change = ASSUMED[which]
  found = itk.read_itk(_put(tmp_path, name, header, RAW, change))
  np.testing.assert_array_equal(found.affine[:3, :3], PLACE[:3, :3])
  (note,) = found.notes
  assert 'left and right are assumed' in note


VARIANTS = {
  'big endian': (
    'a.mha', META, VOXELS.astype('>i2').tobytes(order='F'),
    ('MSB = False', 'MSB = True'),
  ),
  'big endian NRRD': (
    'a.nrrd', NRRD, VOXELS.astype('>i2').tobytes(order='F'),
    ('little', 'big'),
  ),
  'zlib without its size': (
    'a.mha', META, zlib.compress(RAW), ('edData = False', 'edData = True')
  ),
  'zlib with its size': (
    'a.mha', META, zlib.compress(RAW) + bytes(20),
    ('CompressedData = False',
     f'CompressedData = True\nCompressedDataSize = {len(zlib.compress(RAW))}'),
  ),
  'gzip in MetaImage': (
    'a.mha', META, gzip.compress(RAW), ('edData = False', 'edData = True')
  ),
  'gzip': ('a.nrrd', NRRD, gzip.compress(RAW), ('raw', 'gzip')),
  'gz': ('a.nrrd', NRRD, gzip.compress(RAW), ('raw', 'GZ')),
  'voxels at the end': (
    'a.nrrd', NRRD, b'a preview' + RAW, ('endian', 'byte skip: -1\nendian')
  ),
  'voxels at the end of MetaImage': (
    'a.mha', META, b'a preview' + RAW, ('NDims', 'HeaderSize = -1\nNDims')
  ),
  'padded': ('a.nrrd', NRRD, RAW + bytes(100), ('a comment', 'none')),
  'longs of four bytes': (
    'a.mha', META, VOXELS.astype('<i4').tobytes(order='F'),
    ('MET_SHORT', 'MET_LONG'),
  ),
  'another name of the type': (
    'a.nrrd', NRRD, RAW, ('type: short', 'type: signed short int')
  ),
  'other names of fields': (
    'a.mha', META, RAW, ('TransformMatrix', 'Orientation'),
    ('Offset', 'Position'), ('ElementSpacing', 'ElementSize'),
  ),
  'a last axis of 1': (
    'a.nrrd', NRRD, RAW, ('dimension: 3', 'dimension: 4'),
    ('sizes: 4 3 5', 'sizes: 4 3 5 1'), ('(0,0,3)', '(0,0,3) none'),
    ('kinds: domain', 'kinds: domain domain'),
    ('domain domain domain domain', 'domain domain domain list'),
  ),
}  # fmt: skip


@pytest.mark.parametrize('which', VARIANTS)
def test_the_same_voxels_in_another_form(which, tmp_path):
  name, header, data, *changes = VARIANTS[which]
  found = itk.read_itk(_put(tmp_path, name, header, data, *changes))
  np.testing.assert_array_equal(found.voxels, VOXELS)
  np.testing.assert_array_equal(found.affine, PLACE)


def test_4d_metaimage_with_a_last_axis_of_1(tmp_path):
  header = META.replace('NDims = 3', 'NDims = 4').replace('4 3 5', '4 3 5 1')
  header = header.replace('10 20 30', '10 20 30 0').replace('1 2 3', '1 2 3 1')
  turn = ' '.join('1' if i % 5 == 0 else '0' for i in range(16))
  header = header.replace('1 0 0 0 1 0 0 0 1', turn)
  found = itk.read_itk(_put(tmp_path, 'a.mha', header))
  np.testing.assert_array_equal(found.voxels, VOXELS)
  np.testing.assert_array_equal(found.affine, PLACE)


@pytest.mark.parametrize('name', ['a.mhd', 'a.nhdr'])
def test_voxels_beside_the_header(name, tmp_path):
  header = META.replace('LOCAL', 'my voxels.raw')
  if name == 'a.nhdr':
    header = NRRD.replace('key:=', 'data file: ./my voxels.raw\nkey:=')
  path = _put(tmp_path, name, header, b'')
  for read in (itk.read_itk, itk.read_affine):
    with pytest.raises(ScanError, match=r'my voxels.raw, are not beside it'):
      read(path)
  (tmp_path / 'my voxels.raw').write_bytes(RAW)
  np.testing.assert_array_equal(itk.read_itk(path).voxels, VOXELS)
  assert itk.companions(path) == (tmp_path / 'my voxels.raw',)
  (tmp_path / 'my voxels.raw').write_bytes(RAW[:-2])
  with pytest.raises(ScanError, match=r'my voxels.raw: .*truncated'):
    itk.read_itk(path)


_AGAIN, _ANEW, _EXPORT = 'copy the file again', 'save it again', 'export the'
_META_DATA = 'ElementDataFile = LOCAL'
_SEG = (
  ('dimension: 3', 'dimension: 4'), ('sizes: 4 3 5', 'sizes: 2 4 3 5'),
  ('space directions:', 'space directions: none'),
  ('kinds: domain', 'kinds: list domain'),
)  # fmt: skip
# Fault -> ending, voxels, reason, remedy, changes of the header.
BAD = {
  'empty': ('mha', None, 'is empty', _AGAIN),
  'only a beginning': (
    'mha', b'', 'without ElementDataFile: truncated', _AGAIN,
    (_META_DATA + '\n', ''),
  ),
  'another file': (
    'mha', RAW, 'not a MetaImage', _ANEW, (META, 'Dear all,\nsee below\n')
  ),
  'another file, nrrd': (
    'nrrd', RAW, 'not an NRRD', _ANEW, ('NRRD0004', 'Dear all')
  ),
  'truncated': ('mha', RAW[:-1], 'truncated', _AGAIN),
  'truncated nrrd': ('nrrd', RAW[:-1], 'truncated', _AGAIN),
  'truncated zlib': (
    'mha', zlib.compress(RAW)[:-9], 'truncated', _AGAIN,
    ('ta = False', 'ta = T'),
  ),
  'truncated gzip': (
    'nrrd', gzip.compress(RAW)[:-9], 'truncated', _AGAIN, ('raw', 'gzip')
  ),
  'wrong size of zlib': (
    'mha', zlib.compress(RAW), 'truncated', _AGAIN,
    ('ta = False', 'ta = True\nCompressedDataSize = 20'),
  ),
  'too large a size of zlib': (
    'mha', zlib.compress(RAW), 'truncated', _AGAIN,
    ('ta = False', 'ta = True\nCompressedDataSize = 999'),
  ),
  'flipped bit': (
    'nrrd', gzip.compress(RAW)[:-8] + bytes(8), 'damaged', _AGAIN,
    ('raw', 'gzip'),
  ),
  'more voxels than announced': (
    'mha', RAW + bytes(2 << 20), 'more than the 120 bytes', _EXPORT
  ),
  'two volumes in zlib': (
    'mha', zlib.compress(bytes(9999)), 'more than the 120 bytes', _EXPORT,
    ('ta = False', 'ta = True'),
  ),
  '30000^3': (
    'mha', RAW, '30000 x 30000 x 30000 voxels', _EXPORT,
    ('4 3 5', '30000 30000 30000'),
  ),
  '30000^3 nrrd': (
    'nrrd', RAW, '30000 x 30000 x 30000 voxels', _EXPORT,
    ('4 3 5', '30000 30000 30000'),
  ),
  '1000^3 in gzip': (
    'nrrd', gzip.compress(RAW), 'cannot come out of', _AGAIN,
    ('4 3 5', '1000 1000 1000'), ('raw', 'gzip'),
  ),
  'no sides': ('mha', RAW, 'impossible DimSize', _EXPORT, ('4 3 5', '4 0 5')),
  'half a voxel': (
    'nrrd', RAW, 'impossible sizes', _EXPORT, ('4 3 5', '4 3.5 5')
  ),
  'no numbers': ('mha', RAW, 'ElementSpacing is', _EXPORT, ('1 2 3', '1 x 3')),
  'NaN': ('mha', RAW, 'Offset is', _EXPORT, ('10 20', 'nan 20')),
  'NaN nrrd': ('nrrd', RAW, 'unreadable header', _ANEW, ('(10,20', '(nan,20')),
  'too few numbers': (
    'mha', RAW, 'ElementSpacing has 2 numbers', _EXPORT, ('1 2 3', '1 2')
  ),
  'unknown type': ('mha', RAW, 'MET_|unknown', _EXPORT, ('SHORT', 'WHAT')),
  'unknown type nrrd': (
    'nrrd', RAW, "unknown type 'block'", _EXPORT, ('short', 'block')
  ),
  'twice': (
    'nrrd', RAW, 'type twice', _EXPORT, ('endian', 'type: int\nendian')
  ),
  'twice in MetaImage': (
    'mha', RAW, 'DimSize twice', _EXPORT, ('NDims', 'DimSize = 9 9 9\nNDims')
  ),
  'byte order missing': (
    'nrrd', RAW, 'endian none', _EXPORT, ('endian: little\n', '')
  ),
  'no spacing': (
    'mha', RAW, 'no ElementSpacing', 'in mm', ('ElementSpacing = 1 2 3\n', '')
  ),
  'no spacing nrrd': (
    'nrrd', RAW, 'no voxel sizes', 'in mm', (_DIRECTIONS, '')
  ),
  'metres': (
    'mha', RAW, 'voxels of 0.001 x', 'in mm', ('= 1 2 3', '= .001 .002 .003')
  ),
  'two places': (
    'mha', RAW, 'Offset is given twice', _EXPORT,
    ('NDims = 3', 'NDims = 3\nPosition = 1 2 3'),
  ),
  'far away': (
    'mha', RAW, 'is 1e[+]30 mm away', 'repair', ('= 10 20', '= 1e30 20')
  ),
  'singular': (
    'nrrd', RAW, 'unreadable|singular', 'repair|save', ('(0,2,0)', '(1,0,0)')
  ),
  'zero spacing': (
    'mha', RAW, 'unreadable|singular', 'repair|save', ('= 1 2 3', '= 1 0 3')
  ),
  'channels': (
    'mha', RAW, '3 values a voxel', 'grey values',
    ('NDims', 'ElementNumberOfChannels = 3\nNDims'),
  ),
  'colours': (
    'nrrd', RAW, 'kind rgb-color', 'one 3-D volume',
    ('kinds: domain', 'kinds: RGB-color'),
  ),
  'overlapping segments': (
    'nrrd', RAW + RAW, 'kind list', 'without overlaps', *_SEG
  ),
  '4-D': (
    'nrrd', RAW + RAW, '4-dimensional', 'one 3-D volume',
    ('dimension: 3', 'dimension: 4'), ('4 3 5', '4 3 5 2'),
    ('kinds: domain domain domain\n', ''),
  ),
  '2-D': (
    'mha', RAW, '2-dimensional', 'one 3-D volume', ('NDims = 3', 'NDims = 2'),
    ('4 3 5', '4 15'), ('10 20 30', '1 1'), ('1 2 3', '1 2'),
    ('1 0 0 0 1 0 0 0 1', '1 0 0 1'),
  ),
  'text': ('mha', RAW, 'as text', _ANEW, ('Data = True', 'Data = 0')),
  'text nrrd': ('nrrd', RAW, "encoding 'ascii'", 'gzip', ('raw', 'ascii')),
  'scaled': (
    'mha', RAW, 'to be scaled by 2', 'save the scaled',
    ('NDims', 'ElementToIntensityFunctionSlope = 2\nNDims'),
  ),
  'absolute path': (
    'mhd', b'', "names '/etc/passwd'", 'beside it',
    (_META_DATA, 'ElementDataFile = /etc/passwd'),
  ),
  'folder above': (
    'mhd', b'', r"names '\.\./a\.raw'", 'beside it',
    (_META_DATA, 'ElementDataFile = ../a.raw'),
  ),
  'folder above, nrrd': (
    'nhdr', b'', r"names '\.\./a\.raw'", 'beside it',
    ('endian', 'data file: ../a.raw\nendian'),
  ),
  'itself': (
    'mhd', RAW, 'data file', 'beside it',
    (_META_DATA, 'ElementDataFile = a.mhd'),
  ),
  'list': (
    'mhd', b'a.1\na.2\n', 'several files', _ANEW,
    (_META_DATA, 'ElementDataFile = LIST'),
  ),
  'pattern': (
    'mhd', b'', 'several files', _ANEW,
    (_META_DATA, 'ElementDataFile = a.%03d 1 5 1'),
  ),
  'pattern nrrd': (
    'nhdr', b'', 'several files', _ANEW,
    ('endian', 'data file: a.%03d 1 5 1\nendian'),
  ),
  'constant': ('mha', bytes(120), 'constant', _AGAIN),
}  # fmt: skip


@pytest.mark.parametrize('fault', BAD)
def test_a_bad_file_has_its_row(fault, tmp_path, capfd):
  ending, data, reason, remedy, *changes = BAD[fault]
  header = META if ending[0] == 'm' else NRRD
  path = _put(tmp_path, 'a.' + ending, header, data or b'', *changes)
  if data is None:
    path.write_bytes(b'')
  with pytest.raises(ScanError) as caught:
    itk.read_itk(path)
  assert caught.value.file == str(path)
  assert re.search(reason, caught.value.reason), caught.value.reason
  assert re.search(remedy, caught.value.remedy), caught.value.remedy
  assert capfd.readouterr() == ('', '')


def test_float_labels_and_nan_of_any_format(tmp_path):
  labels = np.abs(VOXELS).astype(np.float32)
  like = Volume(labels, OBLIQUE)
  path = _save(tmp_path, itk.encode(labels, like, 'a', '.nrrd'))
  found = itk.read_itk(path, label=True).voxels
  np.testing.assert_array_equal(found, labels)
  assert found.dtype == np.int32
  for value, why in ((np.nan, '1 voxels are NaN'), (0.5, 'whole numbers')):
    labels[1, 1, 1] = value
    path = _save(tmp_path, itk.encode(labels, like, 'a', '.mha'))
    with pytest.raises(ScanError, match=why):
      itk.read_itk(path, label=True)


def test_metaimage_axes_are_itks(tmp_path):
  turn = TURN.as_matrix().ravel()
  change = ('1 0 0 0 1 0 0 0 1', ' '.join(map(repr, turn.tolist())))
  path = _put(tmp_path, 'a.mha', META, RAW, change)
  image = SimpleITK.ReadImage(str(path))
  axes = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
  found = itk.read_itk(path).affine
  np.testing.assert_allclose(found[:3, :3], np.diag([-1, -1, 1]) @ axes)
  np.testing.assert_array_equal(found[:3, 3], [-10, -20, 30])


def test_a_sheared_volume_is_told(tmp_path):
  path = _put(tmp_path, 'a.nrrd', NRRD, RAW, ('(0,0,3)', '(0,1,3)'))
  found = itk.read_itk(path)
  np.testing.assert_allclose(found.affine[:3, 2], [0, -1, 3])
  assert any('sheared by 18.4 degrees' in note for note in found.notes)


@pytest.mark.parametrize('kind', [nib.Nifti1Pair, nib.Nifti2Pair])
@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize(
  'names', ['a.hdr a.img', 'a.HDR a.IMG', 'a.hdr a.img.gz']
)
def test_a_nifti_pair_is_one_scan_named_by_either_file(
  kind, order, names, tmp_path
):
  header = kind.header_class(endianness=order)
  header.set_data_dtype(np.int16)
  image = kind(VOXELS, OBLIQUE, header)
  nib.save(image, tmp_path / 'saved.img')
  data = (tmp_path / 'saved.img').read_bytes()
  paths = [tmp_path / name for name in names.split()]
  (tmp_path / 'saved.hdr').rename(paths[0])
  paths[1].write_bytes(gzip.compress(data) if '.gz' in names else data)
  found = itk.read_itk(paths[0])
  np.testing.assert_array_equal(found.voxels, VOXELS)
  np.testing.assert_array_equal(found.affine, image.header.get_sform())
  np.testing.assert_array_equal(itk.read_affine(paths[0]), found.affine)
  assert itk.companions(paths[0]) == (paths[1],)
  assert itk.header_of(paths[0]) == paths[0]
  if '.gz' not in names:
    assert itk.header_of(paths[1]) == paths[0]
    assert itk.companions(paths[1]) == (paths[1],)
    np.testing.assert_array_equal(itk.read_itk(paths[1]).voxels, VOXELS)
  # A result has the scan's own header, as one file or as two.
  for ending in ('.nii.gz', '.hdr'):
    files = itk.encode(np.abs(VOXELS), found, 'out', ending)
    again = _read(_save(tmp_path, files), label=True)
    np.testing.assert_array_equal(again.voxels, np.abs(VOXELS))
    np.testing.assert_array_equal(again.affine, found.affine)
    assert again.header['sform_code'] == found.header['sform_code']


@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize(
  'kind', [nib.AnalyzeImage, nib.Spm99AnalyzeImage, nib.Spm2AnalyzeImage]
)
def test_analyze_pairs_are_read_as_nibabel_does_and_the_guess_is_told(
  kind, order, tmp_path
):
  header = kind.header_class(endianness=order)
  header.set_data_dtype(np.int16)
  voxels = VOXELS * (1 if kind is nib.AnalyzeImage else 0.5)
  nib.save(kind(voxels, np.diag([-1.5, 2, 3, 1]), header), tmp_path / 'a.img')
  # With it, SPM's programs save where the voxels lie.
  moved = tmp_path / 'a.mat'
  told = moved.exists()
  reference = nib.load(tmp_path / 'a.img')
  if told:
    moved.rename(tmp_path / 'b.mat')
    reference = nib.load(tmp_path / 'a.img')
  found = itk.read_itk(tmp_path / 'a.hdr')
  np.testing.assert_allclose(found.voxels, reference.get_fdata(), rtol=1e-6)
  np.testing.assert_array_equal(found.affine, reference.affine)
  assert found.header is None
  (note,) = found.notes
  assert 'left and right are assumed' in note
  if told:
    (tmp_path / 'b.mat').rename(moved)
    assert (
      'its .mat file is not used'
      in itk.read_itk(moved.with_suffix('.img')).notes
    )


def test_an_analyze_header_that_names_another_orientation_is_told(tmp_path):
  nib.save(nib.AnalyzeImage(VOXELS, np.eye(4)), tmp_path / 'a.img')
  data = bytearray((tmp_path / 'a.hdr').read_bytes())
  data[252] = 1
  (tmp_path / 'a.hdr').write_bytes(data)
  notes = itk.read_itk(tmp_path / 'a.img').notes
  assert 'its orientation field (1) is not used' in notes


def _pair(place):
  nib.save(nib.Nifti1Pair(VOXELS, OBLIQUE), place / 'a.img')
  return place / 'a.hdr', place / 'a.img'


@pytest.mark.parametrize(
  ('damage', 'reason', 'remedy'),
  [
    (lambda h, i: h.unlink(), 'its header, a.hdr, is not', 'put a.hdr'),
    (lambda h, i: i.unlink(), 'its voxels, a.img, are not', 'put a.img'),
    (lambda h, i: i.write_bytes(b''), 'truncated', 'copy'),
    (lambda h, i: i.write_bytes(RAW[:-1]), 'truncated', 'copy'),
    (lambda h, i: i.write_bytes(bytes(2 << 20)), 'more than', 'export'),
    (lambda h, i: h.write_bytes(b''), 'empty', 'copy'),
    (
      lambda h, i: h.write_bytes(b'#?RADIANCE\n' * 99),
      'not a NIfTI file',
      'move',
    ),
    (lambda h, i: h.write_bytes(h.read_bytes()[:200]), '200 bytes', 'copy'),
    (
      lambda h, i: h.write_bytes(
        h.read_bytes().replace(b'ni1', b'n+1')
      ), 'magic', '.nii',
    ),
  ],
)  # fmt: skip
def test_half_a_pair_has_its_row(damage, reason, remedy, tmp_path):
  header, image = _pair(tmp_path)
  damage(header, image)
  with pytest.raises(ScanError, match=reason) as caught:
    itk.read_itk(header if header.exists() else image)
  assert remedy in caught.value.remedy


def test_a_pair_is_a_single_file_in_two():
  data = nib.Nifti1Image(VOXELS, OBLIQUE).to_bytes()
  header, image = nifti_pairs.split(data)
  assert image == RAW and len(header) == 352


@pytest.mark.parametrize('ending', ['mha', 'nrrd'])
def test_a_bomb_costs_next_to_nothing(ending, tmp_path):
  bomb = zlib.compressobj(9, zlib.DEFLATED, 31 if ending == 'nrrd' else 15)
  data = bomb.compress(RAW) + bomb.compress(bytes(32 << 20)) + bomb.flush()
  header, change = META, ('ta = False', 'ta = True')
  if ending == 'nrrd':
    header, change = NRRD, ('raw', 'gzip')
  path = _put(tmp_path, 'a.' + ending, header, data, change)
  itk.read_affine(path)  # Loads what is needed for it.
  tracemalloc.start()
  try:
    with pytest.raises(ScanError, match='more than the 120 bytes'):
      itk.read_itk(path)
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert peak < 3 << 20


_PIECES = st.one_of(
  st.binary(min_size=1, max_size=6),
  st.sampled_from(
    [b'0', b'-1', b'1e30', b'nan', b' ', b'\n', b'\n\n', b'=', b'9999999999',
     b'none', b'(', b'raw', b'gzip', b'True', b'%d', b'LIST', b'\0', b'4'],
  ),
)  # fmt: skip


def _damaged(data, patches, cut):
  data = bytearray(data)
  for place, old, piece in patches:
    place = place % len(data)
    data[place : place + old] = piece
  return bytes(data[: len(data) - cut] if cut < len(data) // 4 else data)


@pytest.mark.parametrize('ending', ['.mha', '.nrrd', '.hdr', 'analyze'])
@hypothesis.settings(max_examples=80)
@hypothesis.given(
  patches=st.lists(
    st.tuples(st.integers(0, 351), st.integers(0, 6), _PIECES),
    min_size=1,
    max_size=3,
  ),
  cut=st.integers(0, 400),
  label=st.booleans(),
)
def test_any_damage_gives_a_sound_volume_or_a_row(
  tmp_path_factory, ending, patches, cut, label
):
  place = tmp_path_factory.getbasetemp() / 'damaged'
  place.mkdir(exist_ok=True)
  if ending in ('.mha', '.nrrd'):
    header = META if ending == '.mha' else NRRD
    path = place / ('a' + ending)
    path.unlink(missing_ok=True)
    path.write_bytes(_damaged(header.encode() + RAW, patches, cut))
  else:
    kind = nib.AnalyzeImage if ending == 'analyze' else nib.Nifti1Pair
    nib.save(kind(VOXELS, np.diag([-1.0, 2, 3, 1])), place / 'p.img')
    path = place / 'p.hdr'
    path.write_bytes(_damaged(path.read_bytes(), patches, 0))
  try:
    found = itk.read_itk(path, label=label)
  except ScanError as error:
    assert error.file and error.reason and error.remedy
  else:
    assert found.voxels.ndim == 3 and np.isfinite(found.voxels).all()
    assert np.isfinite(found.affine).all()
    assert np.linalg.matrix_rank(found.affine) == 4
