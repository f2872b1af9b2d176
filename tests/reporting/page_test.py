"""What a page may be written over: a page."""

import pytest

from dbdc_jax.reporting import page

HTML = page.build('A report', [page.Tab('run', [])], [])


def _bytes(folder):
  """Every file below a folder, and where each link leads."""
  files = list(folder.rglob('*'))
  links = {path: path.readlink() for path in files if path.is_symlink()}
  return links | {path: path.read_bytes() for path in files if path.is_file()}


@pytest.fixture
def folder(tmp_path):
  """Scans, links to them, and pages of others."""
  (tmp_path / 'scans').mkdir()
  scan = tmp_path / 'scans' / 'a.nii.gz'
  scan.write_bytes(b'the only copy')
  (tmp_path / 'linked.html').symlink_to(scan)
  (tmp_path / 'linked').symlink_to(tmp_path / 'scans')
  (tmp_path / 'hard.html').hardlink_to(scan)
  (tmp_path / 'other.html').write_text('<!DOCTYPE html>\n<html lang="en">')
  (tmp_path / 'empty.html').touch()
  (tmp_path / 'quotes.txt').write_text(f'The page starts with\n{HTML}')
  return tmp_path


@pytest.mark.parametrize(
  ('output', 'said'),
  [
    ('scans/a.nii.gz', 'no report'),
    ('scans/../scans/a.nii.gz', 'no report'),
    ('linked/a.nii.gz', 'no report'),
    ('linked.html', 'no report'),
    ('hard.html', 'no report'),
    ('other.html', 'no report'),
    ('empty.html', 'no report'),
    ('quotes.txt', 'no report'),
    ('scans', 'is a folder: give --output a file'),
    ('scans/', 'is a folder'),
    ('linked', 'is a folder'),
    ('later/', 'is a folder'),
    ('scans/a.nii.gz/report.html', 'is no folder'),
  ],
)
def test_what_is_no_report_stays(folder, output, said):
  before = _bytes(folder)
  for refuse in (page.check, lambda path: page.write(HTML, path)):
    with pytest.raises(ValueError, match=said) as caught:
      refuse(f'{folder}/{output}')
    assert '--output' in str(caught.value) or 'another' in str(caught.value)
  assert _bytes(folder) == before


def test_a_report_replaces_a_report_through_links_too(tmp_path):
  place = tmp_path / 'deep' / 'page.html'
  page.write(HTML.replace('A report', 'An earlier one'), place)
  link = tmp_path / 'link.html'
  link.symlink_to(place)
  page.write(HTML, link)
  assert place.read_text() == HTML and link.is_symlink()
  # Where a link leads to nothing yet, the report comes to be there.
  place.unlink()
  page.write(HTML, link)
  assert place.read_text() == HTML and link.is_symlink()
