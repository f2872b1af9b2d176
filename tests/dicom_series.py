"""Small DICOM series to be damaged and read."""

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
  CTImageStorage,
  EnhancedCTImageStorage,
  EnhancedMRImageStorage,
  ExplicitVRLittleEndian,
  MRImageStorage,
)

ROOT = '1.2.826.0.1.3680043.8.498.'
# mm between rows, between columns, between slices.
SPACING = (2.0, 1.5, 3.0)


def values(slices=5, rows=6, columns=7):
  """`[slices, rows, columns]` int16: air, and tissue of many values."""
  rng = np.random.default_rng(0)
  out = rng.integers(-100, 400, (slices, rows, columns))
  out[:, :, :2] = rng.integers(-1020, -980, (slices, rows, 2))
  return out.astype(np.int16)


def header(pixels, modality='CT', kind=None):
  """A data set without places; `pixels` are int16."""
  meta = FileMetaDataset()
  kind = kind or (CTImageStorage if modality == 'CT' else MRImageStorage)
  meta.MediaStorageSOPClassUID = kind
  meta.TransferSyntaxUID = ExplicitVRLittleEndian
  found = Dataset()
  found.file_meta = meta
  found.SOPClassUID = kind
  found.StudyInstanceUID, found.SeriesInstanceUID = f'{ROOT}9', f'{ROOT}1'
  found.Modality, found.SeriesDescription, found.SeriesNumber = modality, 'A', 4
  found.PatientName, found.PatientID = 'Phantom^', 'P'
  found.Rows, found.Columns = pixels.shape[-2:]
  found.SamplesPerPixel, found.PhotometricInterpretation = 1, 'MONOCHROME2'
  found.BitsAllocated, found.BitsStored, found.HighBit = 16, 16, 15
  found.PixelRepresentation = 1
  found.PixelData = pixels.astype('<i2').tobytes()
  name(found, 1)
  return found


def name(found, number):
  """Makes it another object."""
  found.InstanceNumber = number
  uid = f'{found.SeriesInstanceUID}.{number}'
  found.SOPInstanceUID = found.file_meta.MediaStorageSOPInstanceUID = uid


def slices(volume=None, modality='CT', **elements):
  """A classic series of `[slices, rows, columns]`, one data set each."""
  volume = values() if volume is None else volume
  out = []
  for k, pixels in enumerate(volume):
    found = header(pixels, modality)
    found.PixelSpacing = [str(side) for side in SPACING[:2]]
    found.ImageOrientationPatient = ['1', '0', '0', '0', '1', '0']
    found.ImagePositionPatient = ['-5', '-6', str(-60 + SPACING[2] * k)]
    if modality == 'CT':
      found.RescaleSlope, found.RescaleIntercept = '1', '0'
    for keyword, value in elements.items():
      setattr(found, keyword, value)
    name(found, k + 1)
    out.append(found)
  return out


def of(**elements):
  """A data set of these elements."""
  out = Dataset()
  for keyword, value in elements.items():
    setattr(out, keyword, value)
  return out


def enhanced(volume=None, modality='CT', order=None, **shared):
  """The same series as one enhanced file, its frames in any order.

  Args:
    volume: `[slices, rows, columns]`.
    modality: 'CT' or 'MR'.
    order: which slice each frame is.
    shared: further shared functional groups, as items.
  """
  volume = values() if volume is None else volume
  order = range(len(volume)) if order is None else order
  kind = EnhancedCTImageStorage if modality == 'CT' else EnhancedMRImageStorage
  found = header(volume[list(order)], modality, kind)
  found.NumberOfFrames = len(order)
  shared = {
    'PixelMeasuresSequence': of(PixelSpacing=list(SPACING[:2])),
    'PlaneOrientationSequence': of(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
    'PixelValueTransformationSequence': of(
      RescaleSlope=1, RescaleIntercept=0, RescaleType='US'
    ),
    **shared,
  }
  found.SharedFunctionalGroupsSequence = [
    of(**{key: [item] for key, item in shared.items()})
  ]
  found.PerFrameFunctionalGroupsSequence = [
    of(
      PlanePositionSequence=[
        of(ImagePositionPatient=[-5, -6, -60 + SPACING[2] * k])
      ],
      FrameContentSequence=[of(StackID='1', InStackPositionNumber=k + 1)],
    )
    for k in order
  ]
  return found


def write(folder, datasets, stem='IM'):
  """Writes them as IM0000.dcm, ...; returns the files."""
  folder.mkdir(parents=True, exist_ok=True)
  files = []
  for k, found in enumerate(datasets):
    files.append(folder / f'{stem}{k:04d}.dcm')
    pydicom.dcmwrite(files[-1], found, enforce_file_format=True)
  return files
