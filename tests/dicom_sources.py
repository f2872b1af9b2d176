"""DICOM sources of segmentations, in the ways that scanners write them."""

import pathlib
import warnings

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from data.formats import dicom
from data.formats.nifti import Volume
from data.phantoms import archive

ENHANCED_MR = '1.2.840.10008.5.1.4.1.1.4.1'
_UID = '1.2.826.0.1.3680043.8.498.8'


def read(folder: pathlib.Path) -> Volume:
  """A series as a volume that knows its files."""
  found = dicom.read_dicom(folder)
  if isinstance(found, Volume):
    return found
  return found[0]._replace(files=tuple(found[1]))


def write(folder, affine, shape=(6, 5, 4), numbers=None) -> Volume:
  """Writes noise as a series and reads it again."""
  noise = np.random.default_rng(0).integers(0, 4000, shape).astype(np.uint16)
  archive.write_dicom(
    folder,
    noise,
    affine,
    numbers or list(range(1, shape[2] + 1)),
    patient=7,
    series=3,
    protocol='T1',
  )
  return read(folder)


def change(volume: Volume, edit) -> None:
  """Rewrites each file after `edit(header, index)`."""
  for index, path in enumerate(volume.files):
    header = pydicom.dcmread(path)
    edit(header, index)
    header.save_as(path)


def replace(volume: Volume, name: str, text: bytes) -> None:
  """Gives each file an element of these very bytes, against any rule."""
  tag = pydicom.datadict.tag_for_keyword(name)
  vr = pydicom.datadict.dictionary_VR(tag)
  for path in volume.files:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      header = pydicom.dcmread(path)
      # A stand-in of the same length, whose bytes are replaced afterwards.
      text += b' ' * (len(text) % 2)
      header[tag] = pydicom.dataelem.RawDataElement(
        pydicom.tag.Tag(tag), vr, len(text), b'~' * len(text), 0, False, True
      )
      header.save_as(path)
    if not text:
      continue
    data = path.read_bytes()
    assert data.count(b'~' * len(text)) == 1
    path.write_bytes(data.replace(b'~' * len(text), text))


def _place(affine, index) -> list[str]:
  place = affine[:3, 3] + index * affine[:3, 2]
  return [f'{v:.8g}' for v in place * (-1, -1, 1)]


def shift(volume: Volume, millimetres) -> None:
  """Moves each slice along the third axis, by some mm of its own."""

  def edit(header, index):
    step = volume.affine[:3, 2] / np.linalg.norm(volume.affine[:3, 2])
    place = np.array(header.ImagePositionPatient, float) * (-1, -1, 1)
    place = (place + millimetres[index] * step) * (-1, -1, 1)
    header.ImagePositionPatient = [f'{v:.6f}' for v in place]

  change(volume, edit)


def write_enhanced(path, affine, shape, order, number=1) -> Volume:
  """Writes one multi-frame MR file.

  Args:
    path: the file.
    affine: `[4, 4]`, RAS mm, its third axis along the slices.
    shape: columns, rows, slices.
    order: the slice of each frame.
    number: of the file in its series.
  """
  file = Dataset()
  file.file_meta = pydicom.dataset.FileMetaDataset()
  file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
  file.SOPClassUID, file.SOPInstanceUID = ENHANCED_MR, f'{_UID}.1.{number}'
  file.StudyInstanceUID, file.SeriesInstanceUID = f'{_UID}.2', f'{_UID}.3'
  file.FrameOfReferenceUID = f'{_UID}.4'
  file.PatientID, file.PatientName, file.Modality = '7', 'Frames^Many', 'MR'
  file.Columns, file.Rows, file.NumberOfFrames = *shape[:2], len(order)
  file.SamplesPerPixel, file.PhotometricInterpretation = 1, 'MONOCHROME2'
  file.BitsAllocated = file.BitsStored = 16
  file.HighBit, file.PixelRepresentation = 15, 0
  sides = np.linalg.norm(affine[:3, :3], axis=0)
  axes = np.diag([-1, -1, 1]) @ (affine[:3, :3] / sides)
  shared, measures, orientation = Dataset(), Dataset(), Dataset()
  measures.PixelSpacing = [f'{sides[1]:.8g}', f'{sides[0]:.8g}']
  measures.SliceThickness = f'{sides[2]:.8g}'
  cosines = np.concatenate([axes[:, 0], axes[:, 1]])
  orientation.ImageOrientationPatient = [f'{v:.8f}' for v in cosines]
  shared.PixelMeasuresSequence = [measures]
  shared.PlaneOrientationSequence = [orientation]
  file.SharedFunctionalGroupsSequence = [shared]
  frames = []
  for index in order:
    frame, position = Dataset(), Dataset()
    position.ImagePositionPatient = _place(affine, index)
    frame.PlanePositionSequence = [position]
    frames.append(frame)
  file.PerFrameFunctionalGroupsSequence = frames
  file.PixelData = bytes(2 * shape[0] * shape[1] * len(order))
  file.save_as(path, enforce_file_format=True)
  return Volume(np.zeros(shape, np.float32), affine, files=(path,))
