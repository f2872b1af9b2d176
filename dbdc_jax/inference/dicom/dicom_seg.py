"""Segmentations as DICOM SEG objects, which go back to where scans come from.

The object lies on the scan's own slices: it has the scan's patient, study and
frame of reference, a series of its own, and refers to the images it was made
of. It is of the binary kind, one plane per class and slice: viewers that read
label maps of the newer kind are still few.

Every class is described, in the task's order, so that a segment's number is
its class in all scans; planes without voxels are left out, so a class that was
not found has a description and no planes. A DICOM object must have planes:
where nothing was found at all, the first class has those of all slices, empty.
"""

from collections.abc import Iterator, Sequence
import io
import logging

import highdicom as hd
import numpy as np
import pydicom
from pydicom.sr.codedict import codes

from data.formats import dicom_header
from data.formats.nifti import Volume
from data.formats.scan_error import ScanError
from dbdc_jax.inference.dicom import anatomy_codes, dicom_source

_MAKER = 'dbdc_jax'
# Their remarks on ids that are repeated as they stand.
for _library in ('highdicom', 'pydicom'):
  logging.getLogger(_library).setLevel(logging.ERROR)
# Behind the series of the scanner.
_SERIES = 9000
# An uncompressed element says its length in 32 bits.
_MOST_BYTES = 2**32 - 2


def encode(
  classes: np.ndarray,
  volume: Volume,
  names: Sequence[str],
  *,
  colours: Sequence[str],
  model: str,
  version: str,
) -> bytes:
  """A DICOM SEG object, as a file's bytes.

  Two calls give the same bytes but for the object's own UIDs and its time.

  Args:
    classes: `[columns, rows, slices]` uint8 class indices, on the volume's
      grid.
    volume: a DICOM series, with its files in slice order.
    names: of the classes, background first.
    colours: '#rrggbb' of each class but the background; they are used again
      from the first one on if there are fewer.
    model: what segmented it.
    version: of the model, or of the program.

  Raises:
    ScanError: not from DICOM, or its files lack what must be referred to.
  """
  if classes.shape != volume.voxels.shape:
    raise ValueError(f'{classes.shape} classes, {volume.voxels.shape} voxels')
  with dicom_header.unsaid():
    source = dicom_source.read(volume)
    shape = (source.frames, *classes.shape[1::-1])
    planes = np.zeros(shape, np.uint8)
    planes[source.planes] = classes.T
    found = classes.any()
    if not found:
      planes[source.planes] = 1
    _check_size(planes, volume)
    described = _segments(names, colours, model, version)
    made = _object(source, planes, described, model, version)
    if not found:
      made.PixelData = bytes(len(made.PixelData))
    data = io.BytesIO()
    pydicom.dcmwrite(data, made, enforce_file_format=True)
  return data.getvalue()


def check(volume: Volume) -> None:
  """Checks that a volume's files have what its object must refer to.

  It is quick: people hear of it before the scan is segmented.

  Raises:
    ScanError: see `encode`.
  """
  with dicom_header.unsaid():
    dicom_source.read(volume)


def _check_size(planes: np.ndarray, volume: Volume) -> None:
  bits = sum(np.count_nonzero(np.bincount(p.ravel())[1:]) for p in planes)
  bits *= planes[0].size
  if bits > 8 * _MOST_BYTES:
    raise ScanError(
      volume.files[0].parent,
      f'{bits / 8e9:.1f} GB of planes do not fit into a DICOM object',
      dicom_source.NIFTI,
    )


def _text(value: str, length: int = 64) -> str:
  """A text that an element may hold: no control characters, not too long."""
  printable = ''.join(c if c.isprintable() else ' ' for c in value)
  return printable.replace('\\', '/').strip()[:length].strip()


def _segments(
  names, colours, model, version
) -> list[hd.seg.SegmentDescription]:
  """Descriptions of all classes but the background."""
  algorithm = hd.AlgorithmIdentificationSequence(
    name=_text(model) or _MAKER,
    family=codes.cid7162.ArtificialIntelligence,
    version=_text(version) or '0',
    source=_MAKER,
  )
  out = []
  for number, name in enumerate(names[1:], 1):
    anatomy = anatomy_codes.find(name)
    colour = colours[(number - 1) % len(colours)]
    segment = hd.seg.SegmentDescription(
      segment_number=number,
      segment_label=_text(name) or f'class {number}',
      segmented_property_category=anatomy.category,
      segmented_property_type=anatomy.kind,
      algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
      algorithm_identification=algorithm,
      display_color=hd.color.CIELabColor.from_string(colour),
    )
    if len(name) > 64:
      segment.SegmentDescription = _text(name, 1024)
    if anatomy.side is not None:
      kind = segment.SegmentedPropertyTypeCodeSequence[0]
      side = hd.sr.CodedConcept.from_code(anatomy.side)
      kind.SegmentedPropertyTypeModifierCodeSequence = [side]
    out.append(segment)
  return out


def _object(source, planes, described, model, version) -> hd.seg.Segmentation:
  """The object, from planes in the order of the source's images or frames."""
  made = hd.seg.Segmentation(
    source_images=source.images,
    pixel_array=planes,
    segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
    segment_descriptions=described,
    series_instance_uid=hd.UID(),
    series_number=_SERIES,
    sop_instance_uid=hd.UID(),
    instance_number=1,
    manufacturer=_MAKER,
    manufacturer_model_name=_MAKER,
    software_versions=_text(version) or '0',
    device_serial_number=_text(model) or _MAKER,
    content_label='SEGMENTATION',
    content_description=_text(f'by {model}'),
    series_description=_text(f'Segmentation by {model}'),
    specific_character_set='ISO_IR 192',
    omit_empty_frames=True,
  )
  made.PatientName = source.patient_name
  for referred in _references(made):
    referred.ReferencedSOPClassUID = source.kind
  return made


def _references(made: hd.seg.Segmentation) -> Iterator[pydicom.Dataset]:
  """All that refers to the images that the object was made of."""
  yield from made.SourceImageSequence
  for series in made.ReferencedSeriesSequence:
    yield from series.ReferencedInstanceSequence
  for frame in made.PerFrameFunctionalGroupsSequence:
    for derivation in frame.DerivationImageSequence:
      yield from derivation.SourceImageSequence
