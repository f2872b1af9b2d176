"""What a file is by its name: a scan, something like one, or none."""

import pathlib

from data.formats import itk

NIFTI = ('.nii.gz', '.nii')
SCANS = (*NIFTI, *itk.ENDINGS)
DICOM = ('.dcm', '.dicom', '.ima')
_CONVERT = 'convert it to .nii.gz, or move it away'
_UNPACK = 'unpack it, or move it away'
_HEADER = 'put its header (.hdr, .mhd, .nhdr) beside it, or move it away'
# What could be a scan and is not read: ending -> reason, remedy. The first
# that fits counts.
_UNREAD = {
  ending: said
  for endings, said in (
    ('.raw.gz .raw .zraw', ('voxels without a header', _HEADER)),
    ('.mgz .mgh', ('a FreeSurfer volume, which is not read', _CONVERT)),
    ('.mnc', ('a MINC volume, which is not read', _CONVERT)),
    ('.mif .mif.gz', ('an MRtrix volume, which is not read', _CONVERT)),
    ('.par .rec', ('a Philips PAR/REC volume, which is not read', _CONVERT)),
    ('.zip .7z .rar .tar .tgz .tbz2 .txz', ('an archive', _UNPACK)),
    ('.tar.gz .tar.bz2 .tar.xz .tar.zst', ('an archive', _UNPACK)),
    ('.gz .bz2 .xz .zst .lz4 .z', ('a packed file', _UNPACK)),
  )
  for ending in endings.split()
}
# What is no scan: ending -> what it is.
_OTHER = {
  ending: kind
  for kind, endings in {
    'a text': '.txt .md .rst .log .pdf .doc .docx .rtf',
    'a table': '.csv .tsv .xls .xlsx .ods .bval .bvec .mat .lta .tfm',
    'settings or a description': '.json .jsonl .xml .yaml .yml .toml .ini .cfg',
    'a picture': '.png .jpg .jpeg .gif .bmp .tif .tiff .svg',
    'a program': '.py .sh .m .ipynb .r .bat',
    'a web page': '.html .htm .css .js',
    'a surface': '.stl .vtk .vtp .ply .obj',
    'an array': '.npy .npz .pkl .h5 .hdf5',
    'a file of the system': '.db .lnk .tmp .bak',
  }.items()
  for ending in endings.split()
}
_PACKED = ('.gz', '.bz2', '.xz', '.zst', '.zip')


def _ending(name: str, endings) -> str:
  name = name.lower()
  return next((e for e in endings if name.endswith(e) and name != e), '')


def scan_ending(path: pathlib.Path) -> str:
  """The ending of a file that is read as a scan, in small letters; or ''."""
  return _ending(path.name, SCANS)


def stem(name: str) -> str:
  """A file's name, or a folder's, without the ending of a scan."""
  ending = _ending(name, (*SCANS, *DICOM))
  return name[: len(name) - len(ending)]


def unread(path: pathlib.Path) -> tuple[str, str] | None:
  """Why a file that could hold a scan is not read, and what to do; or None."""
  ending = _ending(path.name, _UNREAD)
  packed = _ending(path.name, _PACKED)
  if packed and _ending(path.name[: -len(packed)], _OTHER):
    return None
  inner = packed and _ending(path.name[: -len(packed)], (*SCANS, *DICOM))
  if inner:
    return f'a packed {inner} file', f'unpack it: {inner} is read'
  return _UNREAD[ending] if ending else None


def other(path: pathlib.Path) -> str:
  """What a file is that is no scan, in words; or ''."""
  packed = _ending(path.name, _PACKED)
  name = path.name[: -len(packed)] if packed else path.name
  return _OTHER.get(_ending(name, _OTHER), '')
