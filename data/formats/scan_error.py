"""What is wrong with a scan, and what to do about it."""

from collections.abc import Sequence
import os
import pathlib

from data.files import errors, names

# Remedies that many findings have.
AGAIN = 'copy the file again from its source'
# Any scan's files are written again by the program that wrote them.
EXPORT = 'export the scan again'
DAMAGED = EXPORT + ': its header is damaged'
GREY = 'export the scan as grey values'
NOTHING = 'nothing to do'


class ScanError(errors.Refusal):
  """A scan that cannot be used.

  Attributes:
    file: the file or folder.
    reason: what is wrong with it.
    remedy: what to do about it.
  """

  def __init__(
    self, file: str | os.PathLike, reason: str, remedy: str = NOTHING
  ):
    self.file, self.reason, self.remedy = str(file), reason, remedy
    super().__init__(f'{self.file}: {reason}; {remedy}')

  def told(self) -> str:
    """The error as a table of one."""
    return table([self])


def need(
  sound: object, file: str | os.PathLike, reason: str, remedy: str = NOTHING
) -> None:
  """Refuses a scan that is not sound.

  Raises:
    ScanError: of the other arguments.
  """
  if not sound:
    raise ScanError(file, reason, remedy)


def dead_link(path: pathlib.Path) -> ScanError:
  """What is wrong with a link that leads nowhere."""
  return ScanError(
    path,
    f'a link to {os.readlink(path)}, which is not there',
    'fetch the file that it stands for, or remove the link',
  )


def without_voxels(path: pathlib.Path, name: str) -> ScanError:
  """What is wrong with a header whose data file is not there."""
  reason = f'its voxels, {name}, are not beside it'
  return ScanError(path, reason, f'put {name} there')


def unreadable(path: pathlib.Path, error: OSError) -> ScanError:
  """Why a file cannot be opened, whether it is one or a link."""
  dead = path.is_symlink() and not path.exists()
  return dead_link(path) if dead else cannot_read(path, error)


def cannot_read(place: str | os.PathLike, error: OSError) -> ScanError:
  """Why a file or a folder cannot be read."""
  reason = f'cannot be read ({error.strerror})'
  return ScanError(place, reason, 'check name and permissions')


def closed_folder(
  place: pathlib.Path, error: OSError, remedy: str = 'make it readable'
) -> ScanError:
  """Why a folder, or what lies in it, cannot be looked into."""
  reason = f'cannot be looked into: {error.strerror}'
  return ScanError(error.filename or place, reason, remedy)


def table(found: Sequence[ScanError]) -> str:
  """Bad scans as lines 'file | reason | remedy' under a heading."""
  rows = [('file', 'reason', 'remedy')]
  rows += [(e.file, e.reason, e.remedy) for e in found]
  # A file's name may hold what a terminal would obey.
  return '\n'.join('  ' + ' | '.join(map(names.printable, row)) for row in rows)


def headed(found: Sequence[ScanError], head: str) -> str:
  """The same below a line of its own; '' if there are none."""
  return f'{head}:\n{table(found)}' if found else ''
