"""MetaImage and NRRD scans, and pairs of .hdr and .img.

ITK writes them, and tells where the voxels of an NRRD file lie. It does not
read voxels: from a damaged file it returns what happens to be in memory. Those
read here are the file's own bytes, verified to their end.
"""

import os
import pathlib
import tempfile
from types import ModuleType

import numpy as np

from data.formats import affines, inflate, itk_headers, nifti_pairs
from data.formats.itk_headers import Stored
from data.formats.nifti import Volume, check_shape, nifti_bytes, volume_of
from data.formats.scan_error import (
  ScanError,
  dead_link,
  need,
  unreadable,
  without_voxels,
)

ENDINGS = ('.mha', '.mhd', '.nrrd', '.nhdr', '.hdr', '.img')
_PAIR = ('.hdr', '.img')
_ANEW = 'save it again as .nii.gz, .mha or .nrrd'


def _itk() -> ModuleType:
  """ITK, silent; imported late, as loading it takes longer than most scans."""
  import SimpleITK

  SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
  return SimpleITK


def header_of(path: pathlib.Path) -> pathlib.Path:
  """The header of the scan that a file belongs to: `.img` names its `.hdr`.

  The file itself if it is a header, or if no header is beside it.
  """
  if path.suffix.lower() != '.img':
    return path
  return nifti_pairs.sibling(path, '.hdr') or path


def companions(path: pathlib.Path) -> tuple[pathlib.Path, ...]:
  """The data files that belong to a scan's header.

  Args:
    path: one of `ENDINGS`. A header that cannot be read has none, and neither
      has a .hdr without its .img: reading it tells why.
  """
  path = header_of(path)
  if path.suffix.lower() in _PAIR:
    image = nifti_pairs.image_of(path)
    return (image,) if image and image != path else ()
  try:
    data = itk_headers.read(path).data
  except ScanError:
    return ()
  return () if data == path else (data,)


def _pair_header(path: pathlib.Path) -> pathlib.Path:
  header, name = header_of(path), f'{path.stem}.hdr'
  remedy = f'put {name} there, or move it away if it is no scan'
  there = header.suffix.lower() == '.hdr'
  need(there, path, f'its header, {name}, is not beside it', remedy)
  return header


def _stored(path: pathlib.Path) -> Stored:
  """What a text header says; its data file is there, and it has three axes."""
  stored = itk_headers.read(path)
  data = stored.data
  if not data.exists():
    dead = data.is_symlink()
    raise dead_link(data) if dead else without_voxels(path, data.name)
  check_shape(stored.shape, str(path))
  return stored


def _itk_place(stored: Stored, file: str) -> np.ndarray:
  """The affine as ITK understands the header; its axes, see `affines.LPS`."""
  reader = _itk().ImageFileReader()
  reader.SetImageIO('NrrdImageIO')
  try:
    reader.SetFileName(file)
    reader.ReadImageInformation()
  except Exception as error:  # Of its own kinds; names that are no UTF-8.
    why = (str(error).strip().splitlines() or [''])[-1]
    raise ScanError(file, f'unreadable header ({why})', _ANEW) from error
  shape, sides = stored.shape[:3], tuple(reader.GetSize())
  same = sides[:3] == shape and np.prod(sides[3:], initial=1) == 1
  need(same, file, f'{shape} voxels, of which ITK sees {sides}', _ANEW)
  dims = len(sides)
  axes = np.reshape(reader.GetDirection(), (dims, dims))[:3, :3]
  place = np.eye(4)
  place[:3, :3] = axes * reader.GetSpacing()[:3]
  place[:3, 3] = reader.GetOrigin()[:3]
  return place


def _place(stored: Stored, file: str) -> np.ndarray:
  """The affine, checked; to the right, to the front and upwards."""
  with np.errstate(all='ignore'):  # The checks find what overflows.
    place = stored.place
    if place is None:
      place = _itk_place(stored, file)
    affine = affines.LPS @ place + 0.0  # No -0.
  remedy = 'repair the header, or ' + _ANEW
  affines.check_regular(affine, file, 'the place of its voxels', remedy)
  affines.check_sides(affine, file)
  return affine


def _voxels(stored: Stored) -> np.ndarray:
  """The voxels as stored, verified to their end."""
  path, file = stored.data, str(stored.data)
  count = int(np.prod(stored.shape, dtype=np.int64))
  announced = count * stored.dtype.itemsize
  try:
    size = path.stat().st_size
    start = stored.offset
    with path.open('rb') as opened:
      if stored.compressed:
        taken = size - start if stored.size < 0 else stored.size
        inflate.check_length(size - start, max(taken, 1), file)
        inflate.check_ratio(announced, taken, file)
        opened.seek(start)
        kind = inflate.EITHER
        data = inflate.inflate(opened.read(taken), announced, file, kind)
      else:
        inflate.check_length(size - max(start, 0), announced, file)
        opened.seek(size - announced if start < 0 else start)
        data = opened.read(announced)
  except OSError as error:
    raise unreadable(path, error) from error
  voxels = np.frombuffer(data, stored.dtype, count)
  return voxels.reshape(stored.shape, order='F')


def read_itk(path: str | os.PathLike, *, label: bool = False) -> Volume:
  """Reads and checks a scan of one of `ENDINGS`, in any case.

  Args:
    path: the file; of a pair either of the two.
    label: whether it is a label map.

  Returns:
    Float32 voxels in scanner units, or int32 label codes; and the affine. The
    header is that of a NIfTI pair, if it is one.

  Raises:
    ScanError: for anything that is not a sound 3-D volume.
  """
  path = pathlib.Path(path)
  file = str(path)
  if path.suffix.lower() in _PAIR:
    return nifti_pairs.read(_pair_header(path), label=label)
  stored = _stored(path)
  affine = _place(stored, file)
  notes = stored.notes + affines.shear_notes(affine)
  voxels = _voxels(stored).reshape(stored.shape[:3], order='F')
  return volume_of(voxels, affine, notes, file, label=label)


def read_affine(path: str | os.PathLike) -> np.ndarray:
  """Where a scan's voxels lie, from its header alone.

  Returns:
    `[4, 4]` float64, voxel index to RAS millimetres.

  Raises:
    ScanError: as `read_itk`, as far as the header says.
  """
  path = pathlib.Path(path)
  if path.suffix.lower() in _PAIR:
    return nifti_pairs.affine(_pair_header(path))
  return _place(_stored(path), str(path))


def _written(voxels, affine, name: str) -> list[tuple[str, bytes]]:
  """What ITK writes under a name: the data file, if any, and the header."""
  itk = _itk()
  image = itk.GetImageFromArray(np.ascontiguousarray(voxels.T))
  lps = affines.LPS @ affine
  sides = np.linalg.norm(lps[:3, :3], axis=0)
  image.SetSpacing(sides.tolist())
  image.SetDirection((lps[:3, :3] / sides).ravel().tolist())
  image.SetOrigin(lps[:3, 3].tolist())
  with tempfile.TemporaryDirectory() as place:
    header = pathlib.Path(place, name)
    try:
      itk.WriteImage(image, str(header), useCompression=True)
    except RuntimeError as error:
      raise OSError(f'{name}: cannot be written in {place}') from error
    files = sorted(pathlib.Path(place).iterdir(), key=lambda p: p == header)
    return [(file.name, file.read_bytes()) for file in files]


def encode(
  voxels: np.ndarray, like: Volume, stem: str, ending: str
) -> list[tuple[str, bytes]]:
  """The files that hold voxels on another volume's grid, in a given format.

  The same voxels give the same bytes. They are compressed where the format can.

  Args:
    voxels: `[X, Y, Z]`, on the grid of `like`.
    like: as it was read.
    stem: of the files' names.
    ending: '.nii', '.nii.gz' or one of `ENDINGS`, in any case; '.hdr' and
      '.img' both give a NIfTI pair.

  Returns:
    (name, bytes) of each file; a header comes last.
  """
  ending = ending.lower()
  if ending in ('.nii', '.nii.gz'):
    data = nifti_bytes(voxels, like, level=int(ending == '.nii.gz'))
    return [(stem + ending, data)]
  if ending in _PAIR:
    header, image = nifti_pairs.split(nifti_bytes(voxels, like, level=0))
    return [(stem + '.img', image), (stem + '.hdr', header)]
  whole = {'.mhd': '.mha', '.nhdr': '.nrrd'}.get(ending)
  if whole and ('%' in stem or stem.upper().startswith('LIST')):
    # The data file's name would be taken for a pattern. Header and voxels may
    # be in one file, too.
    ((_, data),) = _written(voxels, like.affine, 'one' + whole)
    return [(stem + ending, data)]
  return _written(voxels, like.affine, stem + ending)
