"""Errors as people read them: what is wrong, where, and what to do."""

import errno
import os
import pathlib
import shutil

_ROOM = (
  'make room there and give the same command again, or choose another folder'
)
_RIGHTS = 'change its permissions, or choose another place'
_REMEDIES = {
  errno.EACCES: _RIGHTS,
  errno.EDQUOT: _ROOM,
  errno.EEXIST: 'move it away, or choose another name',
  errno.EFBIG: 'choose a disk that takes larger files',
  errno.EIO: 'the disk does not work as it should: check it',
  errno.EISDIR: 'this is a folder: give a file',
  errno.ELOOP: 'its links lead in a circle: mend them',
  errno.EMFILE: 'allow more open files (ulimit -n)',
  errno.ENAMETOOLONG: 'choose a shorter name',
  errno.ENOENT: 'check the path',
  errno.ENOSPC: _ROOM,
  errno.ENOTDIR: 'a part of this path is a file: check the path',
  errno.ENOTEMPTY: 'move away what it holds, or choose another name',
  errno.EPERM: _RIGHTS,
  errno.ESTALE: 'the network disk has lost it: connect it again',
  errno.EROFS: 'the disk is read-only: choose another place',
}


class Refusal(Exception):  # noqa: N818  Reads better where it is caught.
  """What cannot be done, in words that need no traceback."""

  def told(self) -> str:
    """The text for a terminal."""
    return f'error: {self}'


def explained(error: OSError, place: str = '') -> OSError:
  """The same error with its path and a remedy.

  Args:
    error: what the system said. A text of our own stays as it is.
    place: the path, where the error names none or another.
  """
  place = place or error.filename
  said = error.strerror
  remedy = _REMEDIES.get(error.errno or 0)
  if remedy is None or said is None or '; ' in said:
    return error
  if remedy is _ROOM and place and 'bytes free' not in said:
    folder = pathlib.Path(place).absolute()
    while not folder.exists():
      folder = folder.parent
    said += f' ({shutil.disk_usage(folder).free:,} bytes free)'
  return OSError(error.errno, f'{said}; {remedy}', place)


def sentence(error: BaseException) -> str:
  """An error in one sentence, the path first."""
  if not isinstance(error, OSError):
    return str(error)
  error = explained(error)
  if error.strerror is None:
    return str(error)
  names = map(os.fsdecode, filter(None, (error.filename, error.filename2)))
  return ': '.join(filter(None, (' -> '.join(names), error.strerror)))
