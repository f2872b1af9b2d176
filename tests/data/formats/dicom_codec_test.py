import re
import warnings

import dicom_series
import gdcm
import numpy as np
import pydicom
from pydicom import uid
import pytest

from data.formats import dicom_codec
from data.formats.dicom import read_affine, read_dicom
from data.formats.scan_error import ScanError


def _volume(bits, sign):
  """Large enough for JPEG 2000; the full range of its bits."""
  low, high = (-(1 << (bits - 1)), 1 << (bits - 1)) if sign else (0, 1 << bits)
  rng = np.random.default_rng(bits)
  return rng.integers(low, high, (3, 36, 40)).astype('i2' if sign else 'u2')


def _stored(volume, bits, sign, *, frames=False):
  every = (
    [dicom_series.enhanced(volume)] if frames else dicom_series.slices(volume)
  )
  for found in every:
    found.BitsStored, found.HighBit = bits, bits - 1
    found.PixelRepresentation = sign
    if bits <= 8:
      found.BitsAllocated = 8
      pixels = np.frombuffer(found.PixelData, '<u2').astype(np.uint8)
      found.PixelData = pixels.tobytes()
  return every


def _jpeg(file, kind):
  """Compresses a file in place with a coder that pydicom has none of."""
  reader = gdcm.ImageReader()
  reader.SetFileName(str(file))
  assert reader.Read()
  change = gdcm.ImageChangeTransferSyntax()
  change.SetTransferSyntax(gdcm.TransferSyntax(kind))
  change.SetInput(reader.GetImage())
  assert change.Change()
  writer = gdcm.ImageWriter()
  writer.SetFileName(str(file))
  writer.SetFile(reader.GetFile())
  writer.SetImage(change.GetOutput())
  assert writer.Write()


def _compressed(folder, every, syntax):
  if syntax in (uid.JPEGLosslessSV1, uid.JPEGLossless, uid.JPEGBaseline8Bit):
    files = dicom_series.write(folder, every)
    for file in files:
      _jpeg(
        file,
        {
          uid.JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
          uid.JPEGLossless: gdcm.TransferSyntax.JPEGLosslessProcess14,
          uid.JPEGBaseline8Bit: gdcm.TransferSyntax.JPEGBaselineProcess1,
        }[syntax],
      )
  else:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      for found in every:
        found.compress(syntax, generate_instance_uid=False)
    files = dicom_series.write(folder, every)
  for file in files:
    assert pydicom.dcmread(file).file_meta.TransferSyntaxUID == syntax
  return files


LOSSLESS = {
  'RLE': uid.RLELossless,
  'JPEG lossless': uid.JPEGLosslessSV1,
  'JPEG lossless, any predictor': uid.JPEGLossless,
  'JPEG-LS': uid.JPEGLSLossless,
  'JPEG 2000': uid.JPEG2000Lossless,
}


@pytest.mark.parametrize('name', LOSSLESS)
@pytest.mark.parametrize(
  'bits, sign', [(8, 0), (12, 0), (12, 1), (16, 0), (16, 1)]
)
@pytest.mark.parametrize('frames', [False, True])
def test_compressed_pixels_come_back_bit_for_bit(
  name, bits, sign, frames, tmp_path
):
  volume = _volume(bits, sign)
  every = _stored(volume, bits, sign, frames=frames)
  _compressed(tmp_path, every, LOSSLESS[name])
  found = read_dicom(tmp_path)
  np.testing.assert_array_equal(found.voxels, volume.transpose(2, 1, 0))
  assert not found.notes


def test_lossy_jpeg_is_read(tmp_path):
  ramp = np.broadcast_to(np.arange(40) * 5, (3, 36, 40)).astype('u2')
  every = _stored(ramp, 8, 0)
  _compressed(tmp_path, every, uid.JPEGBaseline8Bit)
  voxels = read_dicom(tmp_path).voxels
  np.testing.assert_allclose(voxels, ramp.transpose(2, 1, 0), atol=3)


@pytest.mark.parametrize('name', LOSSLESS)
@pytest.mark.parametrize('kept', [0.3, 0.9])
def test_compressed_pixels_that_end_early_are_an_error(
  name, kept, tmp_path, capfd
):
  """Cut, with or without its marks mended."""
  every = _stored(_volume(12, 0), 12, 0)
  files = _compressed(tmp_path, every, LOSSLESS[name])
  sound = files[1].read_bytes()
  place = sound.index(b'\xe0\x7f\x10\x00') + 12
  kept = place + int(kept * (len(sound) - place)) // 2 * 2
  found = pydicom.dcmread(files[1])
  encoded = pydicom.encaps.get_frame(found.PixelData, 0, number_of_frames=1)
  found.PixelData = pydicom.encaps.encapsulate([encoded[: len(encoded) // 2]])
  files[1].unlink()
  for cut in (True, False):
    if cut:
      files[1].write_bytes(sound[:kept])
    else:
      found.save_as(files[1])
    with pytest.raises(ScanError, match='damaged') as caught:
      read_dicom(tmp_path)
    assert caught.value.file == str(files[1])
    assert 'copy the file again' in caught.value.remedy
  assert capfd.readouterr() == ('', '')


def test_a_last_mark_that_is_not_there_loses_nothing(tmp_path):
  volume = _volume(12, 0)
  files = _compressed(tmp_path, _stored(volume, 12, 0), uid.RLELossless)
  data = files[1].read_bytes()
  assert data[-8:] == b'\xfe\xff\xdd\xe0\0\0\0\0'
  files[1].unlink()
  files[1].write_bytes(data[:-8])
  voxels = read_dicom(tmp_path).voxels
  np.testing.assert_array_equal(voxels, volume.transpose(2, 1, 0))


def test_what_decoders_write_in_c_stays_off_the_terminal(tmp_path, capfd):
  """A part of the picture is lost, which is only a remark to them."""
  volume = _volume(12, 0)
  files = _compressed(tmp_path, _stored(volume, 12, 0), uid.JPEGLosslessSV1)
  found = pydicom.dcmread(files[1])
  data = bytearray(found.PixelData)
  middle = len(data) // 2
  data[middle : middle + 2] = b'\xff\xd9'
  found.PixelData = bytes(data)
  files[1].unlink()
  found.save_as(files[1])
  with pytest.raises(ScanError, match='damaged: its pixels cannot be decoded'):
    read_dicom(tmp_path)
  assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('name', [n for n in LOSSLESS if n != 'RLE'])
def test_a_huge_picture_in_a_small_file_is_not_decoded(name, tmp_path):
  files = _compressed(tmp_path, _stored(_volume(12, 0), 12, 0), LOSSLESS[name])
  found = pydicom.dcmread(files[1])
  sides = {
    'JPEG 2000': [(40).to_bytes(4, 'big') + (36).to_bytes(4, 'big')],
  }.get(name, [(36).to_bytes(2, 'big') + (40).to_bytes(2, 'big')])
  assert sides[0] in found.PixelData
  found.PixelData = found.PixelData.replace(
    sides[0], b'\0\0\x75\x30' * 2 if name == 'JPEG 2000' else b'\x75\x30' * 2, 1
  )
  files[1].unlink()
  found.save_as(files[1])
  with pytest.raises(ScanError, match=r'a compressed picture of \(30000, 300'):
    read_dicom(tmp_path)


@pytest.mark.parametrize(
  'syntax, name, packages',
  [
    (uid.JPEGLosslessSV1, 'JPEG Lossless', 'python-gdcm'),
    (uid.JPEGLSLossless, 'JPEG-LS Lossless', 'pyjpegls'),
    (uid.JPEG2000Lossless, 'JPEG 2000', 'pylibjpeg and pylibjpeg-openjpeg'),
    (uid.HTJ2K, 'High-Throughput', 'pylibjpeg and pylibjpeg-openjpeg'),
  ],
)
def test_a_decoder_that_is_missing_is_named(
  syntax, name, packages, tmp_path, monkeypatch
):
  monkeypatch.setattr(
    pydicom.pixels.common.CoderBase, 'is_available', property(lambda _: False)
  )
  every = _stored(_volume(12, 0), 12, 0)
  for found in every:
    found.file_meta.TransferSyntaxUID = syntax
    found.PixelData = pydicom.encaps.encapsulate([b'\0' * 8])
    found['PixelData'].is_undefined_length = True
  dicom_series.write(tmp_path, every)
  with pytest.raises(ScanError) as caught:
    read_affine(tmp_path)
  assert re.match(f'no decoder for {name}', caught.value.reason)
  assert f'install {packages}, or export' in caught.value.remedy


@pytest.mark.parametrize(
  'syntax, reason',
  [
    (uid.JPEGExtended12Bit, 'no decoder for JPEG Extended'),
    (uid.MPEG4HP41, 'MPEG-4 .* cannot be decoded'),
    (uid.JPEG2000MC, 'JPEG 2000 Part 2 .* cannot be decoded'),
  ],
)
def test_what_cannot_be_decoded_is_told_before(syntax, reason, tmp_path):
  every = _stored(_volume(12, 0), 12, 0)
  for found in every:
    found.file_meta.TransferSyntaxUID = syntax
    found.PixelData = pydicom.encaps.encapsulate([b'\0' * 8])
    found['PixelData'].is_undefined_length = True
  dicom_series.write(tmp_path, every)
  with pytest.raises(ScanError, match=reason) as caught:
    read_affine(tmp_path)
  assert 'export the series uncompressed' in caught.value.remedy


def test_other_output_is_handed_on(capfd):
  with dicom_codec.c_remarks() as said:
    dicom_codec.os.write(2, b'Corrupt JPEG data: 3 bytes\nhalf way\n')
  assert said == ['Corrupt JPEG data: 3 bytes\n']
  assert capfd.readouterr().err == 'half way\n'
