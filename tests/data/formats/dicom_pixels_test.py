import re

import dicom_series
import numpy as np
import pydicom
import pytest

from data.formats.dicom import read_affine, read_dicom
from data.formats.scan_error import ScanError


def _each(**elements):
  """Sets elements of every slice; None takes one out."""

  def change(every):
    for found in every:
      for keyword, value in elements.items():
        if value is None:
          del found[pydicom.datadict.tag_for_keyword(keyword)]
        else:
          setattr(found, keyword, value)

  return change


def _third(change):
  return lambda every: change(every[2:3])


def _table(every):
  for found in every:
    item = dicom_series.of(ModalityLUTType='HU')
    item.add_new('LUTDescriptor', 'US', [16, 0, 16])
    item.add_new('LUTData', 'OW', bytes(32))
    found.ModalityLUTSequence = [item]


def _floats(every):
  for found in every:
    pixels = np.frombuffer(found.PixelData, '<i2').astype('<f4')
    del found.PixelData, found.PixelRepresentation, found.BitsStored
    found.FloatPixelData = pixels.tobytes()


_GREY = 'export the scan as grey values'
_HEADERS = 'full headers'
_AGAIN = 'copy the file again'
# What is done to a series, the reason, the remedy.
REFUSED = {
  'inverted': (
    _each(PhotometricInterpretation='MONOCHROME1'),
    'MONOCHROME1: low values are bright', '^export as MONOCHROME2$',
  ),
  'one slice inverted': (
    _third(_each(PhotometricInterpretation='MONOCHROME1')),
    'MONOCHROME1: low values are bright', '^export as MONOCHROME2$',
  ),
  'palette': (
    _each(PhotometricInterpretation='PALETTE COLOR'), 'colours by a palette',
    _GREY,
  ),
  'colours': (
    _each(PhotometricInterpretation='RGB', SamplesPerPixel=3),
    'RGB: colours', _GREY,
  ),
  'YBR': (
    _each(PhotometricInterpretation='YBR_FULL', SamplesPerPixel=3),
    'YBR_FULL: colours', _GREY,
  ),
  'three samples': (_each(SamplesPerPixel=3), '3 samples a pixel', _GREY),
  'no interpretation': (
    _each(PhotometricInterpretation=None), 'tation is missing', _HEADERS
  ),
  'another interpretation': (
    _each(PhotometricInterpretation='MONO'), 'impossible .* MONO', _HEADERS
  ),
  'a table of values': (
    _table, 'a Modality LUT Sequence', 'RescaleSlope and RescaleIntercept'
  ),
  'floats': (_floats, 'floating-point pixels', 'as integers'),
  'no BitsStored': (_each(BitsStored=None), 'BitsStored is miss', _HEADERS),
  'no Rows': (_third(_each(Rows=None)), 'Rows is missing', _HEADERS),
  'no rows': (_each(Rows=0), 'impossible Rows x Columns 0 x 7', _HEADERS),
  '12 bits allocated': (
    _each(BitsAllocated=12, BitsStored=12, HighBit=11),
    'impossible BitsAllocated 12', _HEADERS,
  ),
  'more bits stored': (
    _each(BitsStored=17), 'impossible BitsAllocated 16, BitsS', _HEADERS
  ),
  'shifted bits': (
    _each(BitsStored=12, HighBit=15), 'HighBit 15 beyond the 12', 'export'
  ),
  'third sign': (
    _each(PixelRepresentation=2), 'impossible PixelRepresentation', _HEADERS
  ),
  'too few pixels': (
    _third(_each(PixelData=bytes(82))),
    '82 of the 84 bytes that its header announces', _AGAIN,
  ),
  'more frames than announced': (
    _each(PixelData=bytes(168)), '1 more frames than the 1 announced', 'export'
  ),
  'more rows than there are': (
    _each(Rows=60000, Columns=60000), '60000 x 60000 x 1 voxels, more than',
    _AGAIN,
  ),
  'more pixels than there are': (
    _each(Rows=30000, Columns=30000), '84 of the 1800000000 bytes', _AGAIN
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', REFUSED)
def test_pixels_that_mean_something_else_are_refused(name, tmp_path):
  """From the headers alone."""
  change, reason, remedy = REFUSED[name]
  every = dicom_series.slices()
  change(every)
  files = dicom_series.write(tmp_path, every)
  with pytest.raises(ScanError) as caught:
    read_affine(tmp_path)
  assert re.search(reason, caught.value.reason), caught.value.reason
  assert re.search(remedy, caught.value.remedy)
  odd = name.startswith(('one', 'too few', 'no Rows'))
  assert caught.value.file == str(files[2 if odd else 0])


def test_all_files_together_are_bounded(tmp_path, monkeypatch):
  dicom_series.write(tmp_path, dicom_series.slices())
  monkeypatch.setattr('data.formats.dicom.MAX_VOXELS', 5 * 42 - 1)
  with pytest.raises(ScanError, match='announce 210 voxels, more than any'):
    read_affine(tmp_path)


@pytest.mark.parametrize('extra', [2, 8, 50])
def test_bytes_behind_the_pixels_do_not_matter(extra, tmp_path, capfd):
  every = dicom_series.slices()
  for found in every:
    found.PixelData += b'\x55' * extra
  dicom_series.write(tmp_path, every)
  expected = dicom_series.values().transpose(2, 1, 0)
  np.testing.assert_array_equal(read_dicom(tmp_path).voxels, expected)
  assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('sign', [0, 1])
def test_overlays_in_unused_bits_are_masked(sign, tmp_path):
  rng = np.random.default_rng(0)
  low = -2048 if sign else 0
  volume = rng.integers(low, low + 4096, (5, 6, 7)).astype('i2')
  every = dicom_series.slices(volume)
  overlay = rng.integers(0, 16, volume.shape).astype('u2') << 12
  for found, pixels, bits in zip(every, volume, overlay, strict=True):
    found.BitsStored, found.HighBit, found.PixelRepresentation = 12, 11, sign
    found.PixelData = ((pixels.view('u2') & 0xFFF) | bits).tobytes()
  dicom_series.write(tmp_path, every)
  found = read_dicom(tmp_path)
  np.testing.assert_array_equal(found.voxels, volume.transpose(2, 1, 0))
  (note,) = found.notes
  assert 'beyond the 12 stored ones' in note


@pytest.mark.parametrize(
  'kind', ['u1', '<u2', '<i2', '<u4', '<i4', '>u2', '>i2']
)
def test_every_kind_of_integer_comes_back(kind, tmp_path):
  kind = np.dtype(kind)
  limits = np.iinfo(kind)
  volume = np.linspace(max(limits.min, -(2**23)), min(limits.max, 2**23), 210)
  volume = volume.astype(kind).reshape(5, 6, 7)
  every = dicom_series.slices(np.zeros((5, 6, 7), np.int16))
  bits = 8 * kind.itemsize
  big = kind.byteorder == '>'
  for found, pixels in zip(every, volume, strict=True):
    found.BitsAllocated = found.BitsStored = bits
    found.HighBit, found.PixelRepresentation = bits - 1, int(kind.kind == 'i')
    found.PixelData = pixels.tobytes()
    if big:
      syntax = pydicom.uid.ExplicitVRBigEndian
      found.file_meta.TransferSyntaxUID = syntax
  dicom_series.write(tmp_path, every)
  voxels = read_dicom(tmp_path).voxels
  expected = volume.astype(np.float32).transpose(2, 1, 0)
  np.testing.assert_array_equal(voxels, expected)


def test_a_transfer_syntax_that_nobody_names_is_guessed(tmp_path):
  files = dicom_series.write(tmp_path, dicom_series.slices())
  for file in files:
    data = file.read_bytes()
    start = data.index(b'\x02\x00\x10\x00UI')
    size = 8 + int.from_bytes(data[start + 6 : start + 8], 'little')
    length = int.from_bytes(data[140:144], 'little') - size
    file.unlink()
    file.write_bytes(
      data[:140]
      + length.to_bytes(4, 'little')
      + data[144:start]
      + data[start + size :]
    )
    assert 'TransferSyntaxUID' not in pydicom.dcmread(file).file_meta
  expected = dicom_series.values().transpose(2, 1, 0)
  np.testing.assert_array_equal(read_dicom(tmp_path).voxels, expected)


def _read(folder, every):
  dicom_series.write(folder, every)
  return read_dicom(folder)


def _rim(value):
  """Which voxels are padded, and the series' volume with that value there."""
  volume = dicom_series.values().astype(np.int64)
  padded = np.zeros(volume.shape, bool)
  padded[:, 0] = padded[:, -1] = True
  volume[padded] = value
  return padded, volume


# How a padding of some HU is stored and said: value, sign, intercept, element.
PADDING = {
  'signed': (-2000, 1, 0, -2000),
  'far below': (-32768, 1, 0, -32768),
  'said without a sign': (-2000, 1, 0, 63536),
  'without a sign': (63536, 0, -1024, 63536),
  'said with a sign': (63536, 0, -1024, -2000),
  'far above': (4000, 1, 0, 4000),
}


@pytest.mark.parametrize('implicit', [False, True])
@pytest.mark.parametrize('name', PADDING)
def test_padding_counts_as_the_lowest_value(name, implicit, tmp_path):
  stored, sign, intercept, said = PADDING[name]
  padded, volume = _rim(0)
  every = dicom_series.slices()
  for found, where, pixels in zip(every, padded, volume, strict=True):
    values = np.where(where, stored, pixels - intercept)
    found.PixelData = values.astype('<i2' if sign else '<u2').tobytes()
    found.PixelRepresentation, found.RescaleIntercept = sign, intercept
    found.add_new('PixelPaddingValue', 'SS' if said < 0 else 'US', said)
    if implicit:
      syntax = pydicom.uid.ImplicitVRLittleEndian
      found.file_meta.TransferSyntaxUID = syntax
  found = _read(tmp_path, every)
  lowest = dicom_series.values()[~padded].min()
  expected = np.where(padded, lowest, volume)
  np.testing.assert_array_equal(found.voxels, expected.transpose(2, 1, 0))
  (note,) = found.notes
  assert note.startswith('33 % of its voxels are padding (')
  assert note.endswith(f'they count as {lowest}')


def test_a_range_of_padding_counts_as_the_lowest_value(tmp_path):
  padded, volume = _rim(-3000)
  volume[:, 0] = -2500
  every = dicom_series.slices(volume.astype(np.int16))
  for found in every:
    found.PixelPaddingValue, found.PixelPaddingRangeLimit = -3024, -2000
  found = _read(tmp_path, every)
  lowest = dicom_series.values()[~padded].min()
  assert found.voxels.min() == lowest
  np.testing.assert_array_equal(
    found.voxels, np.where(padded, lowest, volume).transpose(2, 1, 0)
  )


def test_padding_beyond_the_stored_bits_is_found(tmp_path):
  """12 bits without a sign, padded with -2000."""
  padded, volume = _rim(0)
  every = dicom_series.slices()
  for found, where, pixels in zip(every, padded, volume, strict=True):
    values = np.where(where, 63536, pixels + 1024)
    found.PixelData = values.astype('<u2').tobytes()
    found.PixelRepresentation, found.RescaleIntercept = 0, -1024
    found.BitsStored, found.HighBit = 12, 11
    found.PixelPaddingValue = 63536
  found = _read(tmp_path, every)
  lowest = dicom_series.values()[~padded].min()
  expected = np.where(padded, lowest, volume)
  np.testing.assert_array_equal(found.voxels, expected.transpose(2, 1, 0))


# A padding value that is no padding: the modality, what fills a third of the
# voxels, the padding that is said.
HARMLESS = {
  'air of a scanner': ('CT', -1000, -1000),
  'the lowest HU': ('CT', -1024, -1024),
  'nothing in MR': ('MR', 0, 0),
  'a value that does not occur': ('CT', -1000, -2000),
  'one ordinary value of many': ('CT', -1000, 40),
  'more bits than there are': ('CT', -1000, 10**6),
}


@pytest.mark.parametrize('name', HARMLESS)
def test_padding_that_is_ordinary_does_no_harm(name, tmp_path):
  modality, fill, said = HARMLESS[name]
  _, volume = _rim(fill)
  if modality == 'MR':
    volume[volume != 0] = np.abs(volume[volume != 0]) + 200
  volume = np.repeat(np.repeat(volume, 4, 1), 4, 2)
  if said == 40:
    # Noise: no value is more frequent than the next one.
    rng = np.random.default_rng(0)
    volume = np.round(rng.normal(40, 20, volume.shape))
  every = dicom_series.slices(volume.astype(np.int16), modality)
  for found in every:
    found.add_new('PixelPaddingValue', 'SS' if said < 2**16 else 'UL', said)
  found = _read(tmp_path, every)
  np.testing.assert_array_equal(found.voxels, volume.transpose(2, 1, 0))
  assert not found.notes


def test_the_background_of_a_label_map_is_no_padding(tmp_path):
  """Of a CT, though 0 is said to be padding."""
  volume = np.arange(5 * 6 * 7).reshape(5, 6, 7) % 5 * (np.arange(7) > 3)
  every = dicom_series.slices(volume.astype(np.int16), PixelPaddingValue=0)
  np.testing.assert_array_equal(
    _read(tmp_path, every).voxels, volume.transpose(2, 1, 0)
  )
