"""One page about a real run, read as a reader's browser would."""

import base64
from html.parser import HTMLParser
import io
import json
import re
import shutil
import subprocess

import numpy as np
from PIL import Image
import pytest

from dbdc_jax import report
from dbdc_jax.inference import sliding_window
from dbdc_jax.reporting import (
  features,
  predictions,
  pseudo_labels,
  runs,
  sections,
)
from dbdc_jax.workdir import checkpoint

BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
# Clicks everything that can be clicked, and says what did not do its work.
CLICKS = """
<script>
  var wrong = [], clicks = 0;
  function check(fine, what) { if (!fine) { wrong.push(what); } }
  function click(part) { part.click(); clicks += 1; }
  function seen(part) { return getComputedStyle(part).display !== 'none'; }
  document.querySelectorAll('nav button').forEach(function (tab) {
    click(tab);
    document.querySelectorAll('article').forEach(function (part) {
      check(seen(part) === (part.id === tab.dataset.tab), tab.textContent);
    });
  });
  document.querySelectorAll('.filter input').forEach(function (box) {
    [false, true].forEach(function (wanted) {
      click(box);
      document.querySelectorAll('[data-class]').forEach(function (mark) {
        var mine = mark.dataset.class === box.value;
        check(seen(mark) === (!mine || wanted), box.value);
      });
    });
  });
  var parts = document.querySelectorAll('details');
  ['close', 'open'].forEach(function (way) {
    click(document.querySelector('button[data-fold=' + way + ']'));
    parts.forEach(function (part) {
      check(part.open === (way === 'open'), way);
    });
  });
  document.querySelectorAll('summary').forEach(function (line) {
    click(line);
    check(!line.parentNode.open, line.textContent);
  });
  document.body.setAttribute(
    'data-outcome', wrong.length ? wrong.join(', ') : clicks + ' clicks');
</script>
"""


class _Page(HTMLParser):
  """Tags with their attributes, and texts by the tag around them."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.texts, self._open = [], [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in ('meta', 'img', 'input'):
      self._open.append(tag)

  def handle_endtag(self, tag):
    assert self._open.pop() == tag

  def handle_data(self, data):
    self.texts.append((self._open[-1] if self._open else '', data))

  def of(self, tag):
    return [attributes for name, attributes in self.tags if name == tag]

  def words(self, tag):
    return [text for name, text in self.texts if name == tag]


@pytest.fixture(scope='module')
def run(trained):
  return runs.read(str(trained[0]))


@pytest.fixture(scope='module')
def data(run):
  return run.data()


@pytest.fixture(scope='module')
def moved(trained, tmp_path_factory):
  """The same run, whose scans are gone."""
  folder = shutil.copytree(
    trained[0], tmp_path_factory.mktemp('moved') / 'moved'
  )
  config = json.loads((folder / 'config.json').read_text())
  config['data']['mmwhs'] = str(folder / 'gone')
  (folder / 'config.json').write_text(json.dumps(config))
  return folder


@pytest.fixture(scope='module')
def text(trained, moved, tmp_path_factory):
  """A page about both."""
  output = tmp_path_factory.mktemp('report') / 'page.html'
  both = [str(trained[0]), str(moved), '--output', str(output)]
  assert report.main(both) == 0
  assert [p.name for p in output.parent.iterdir()] == ['page.html']
  return output.read_text()


@pytest.fixture(scope='module')
def page(text):
  return _Page(text)


def test_every_figure_is_there(page):
  captions = page.words('figcaption')
  for part in (
    'Losses, summed over ct, mr',
    'DSC (%) on the validation scans',
    'Modality weights (MAW)',
    'DSC (%): median',
    'HD95 (mm): median',
    'ct, best',
    'mr, best',
    'ct: ',
    'mr: ',
    'Features after the last modulation layer',
    'Prototypes, 16 points',
    'Embeddings after the projector',
    'DSC (%) on unlabelled training scans',
  ):
    assert any(c.startswith(part) for c in captions), part
  # Of the run whose scans are gone.
  notes = [note for note in page.words('p') if note.startswith('Not shown')]
  assert len(notes) == 3 and 'gone' in notes[0]
  assert len(page.of('figure')) == len(captions)


def test_nothing_comes_from_elsewhere(text, page):
  assert 'http' not in text and '@import' not in text and 'url(' not in text
  assert not {'link', 'iframe', 'object'} & {tag for tag, _ in page.tags}
  for tag, attributes in page.tags:
    assert not attributes.keys() & {'href', 'srcset', 'action'}
    assert attributes.get('src', 'data:').startswith('data:'), tag


def test_pictures_and_numbers_are_whole(page):
  for attributes in page.of('img'):
    head, _, data = attributes['src'].partition(',')
    assert head == 'data:image/png;base64' and attributes['alt']
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
      image.load()
      assert len(np.unique(np.asarray(image))) > 5
  for attributes in page.of('path') + page.of('circle') + page.of('rect'):
    for name in ('d', 'cx', 'cy', 'x', 'y', 'width', 'height'):
      assert not re.search('nan|inf|e', attributes.get(name, ''))
  assert not {'nan', 'inf', 'None'} & set(page.words('td'))


def test_the_tables_hold_the_runs_numbers(trained, page):
  cells = page.words('td')
  for entry in trained[1]['modalities'].values():
    for metric in ('dice', 'hd95'):
      value = entry['native_grid']['mean'][metric]
      assert value is None or f'{value:.2f}' in cells


def _browser():
  for name in BROWSERS:
    if found := shutil.which(name):
      return found
  return pytest.skip(f'no browser on the PATH: {", ".join(BROWSERS)}')


def test_every_button_does_its_work_in_a_browser(text, tmp_path):
  browser = _browser()
  file = tmp_path / 'page.html'
  file.write_text(text.replace('</body>', f'{CLICKS}</body>'))
  done = subprocess.run(
    [
      *(browser, '--headless', '--no-sandbox', '--disable-gpu'),
      *(f'--user-data-dir={tmp_path / "browser"}', '--dump-dom'),
      file.as_uri(),
    ],
    capture_output=True,
    text=True,
    timeout=120,
    check=True,
  )
  (outcome,) = re.findall('data-outcome="([^"]*)"', done.stdout)
  # Three tabs; eight classes off and on; fold and unfold.
  assert outcome == f'{3 + 2 * 8 + 2 + text.count("<summary>")} clicks'


def test_other_scores_than_the_results_are_refused(trained, data, tmp_path):
  folder = shutil.copytree(trained[0], tmp_path / 'other')
  results = json.loads((folder / 'results.json').read_text())
  for row in results['cases'][0]['native'].values():
    row['dice'] = 99.0
  (folder / 'results.json').write_text(json.dumps(results))
  with pytest.raises(
    ValueError, match=r'in results\.json: the checkpoints are'
  ):
    predictions.predict(runs.read(str(folder)), data)


def test_a_report_lies_in_its_runs_folder_and_replaces_a_report(moved):
  assert report.main([str(moved)]) == 0
  whole = (moved / 'report.html').read_bytes()
  # Of an earlier version, say.
  (moved / 'report.html').write_bytes(whole[:-100])
  (moved / 'link.html').symlink_to('report.html')
  link = str(moved / 'link.html')
  assert report.main([str(moved), '--output', link]) == 0
  assert (moved / 'report.html').read_bytes() == whole
  assert (moved / 'link.html').is_symlink()
  page = _Page((moved / 'report.html').read_text())
  assert len(page.of('article')) == 1
  assert any('Modality weights' in c for c in page.words('figcaption'))


def test_what_is_no_report_is_refused_before_anything_is_computed(
  moved, monkeypatch, capsys
):
  monkeypatch.setattr(sections, 'tab', lambda *_: pytest.fail('computed'))
  results = moved / 'results.json'
  before = results.read_bytes()
  assert report.main([str(moved), '--output', str(results)]) == 1
  assert 'no report of this program' in capsys.readouterr().err
  assert results.read_bytes() == before


def test_several_runs_need_a_file_for_their_report(capsys):
  with pytest.raises(SystemExit):
    report.main(['a', 'b'])
  assert '--output' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('dice', 'chosen'),
  [
    ({}, {}),
    ({'a': 5.0}, {'best': 'a'}),
    ({'a': 5.0, 'b': 7.0}, {'best': 'b', 'worst': 'a'}),
    (
      {'a': 5.0, 'b': 7.0, 'c': float('nan'), 'd': 6.0},
      {'best': 'b', 'median': 'd', 'worst': 'a'},
    ),
  ],
)
def test_scans_are_shown_by_rank(dice, chosen):
  assert predictions.choose(dice) == chosen


def test_pseudo_labels_are_scored_on_hidden_references_alone(run, data):
  prepared, split = data
  rows = pseudo_labels.quality(run, data, limit=1)
  (network,) = run.networks
  assert {row['step'] for row in rows} == set(network.steps())
  assert [row['modality'] for row in rows[:2]] == ['ct', 'mr']
  (tested,) = [r for r in rows if r['best'] and r['modality'] == 'mr']
  # Slowly: one scan, one class at a time.
  (case,) = [c for c in prepared.cases if c.name == split['mr']['unlabeled'][0]]
  params, memory = network.state(network.facts['best_step'])
  found = sliding_window.of_one_size(
    sliding_window.Network(network.method.predict, params, memory),
    prepared.images(case),
    1,
    patch=16,
    stride=8,
    batch=network.config.evaluation.batch_size,
    hard=True,
  )
  reference = prepared.labels(case)
  for index, name in enumerate(run.classes[1:], 1):
    a, b = found == index, reference == index
    if a.any() or b.any():
      slow = 200 * (a & b).sum() / (a.sum() + b.sum())
      np.testing.assert_allclose(tested['dice'][name], slow)


@pytest.fixture(scope='module')
def own(own_run, tmp_path_factory):
  """A page about own scans, of whose T2 no label names a kidney.

  The run's folder has been moved since.
  """
  folder = shutil.copytree(
    own_run[1], tmp_path_factory.mktemp('elsewhere') / 'own'
  )
  assert report.main([str(folder)]) == 0
  return folder, _Page((folder / 'report.html').read_text())


def test_own_scans_have_every_figure(own, own_run):
  _, page = own
  place, _, _ = own_run
  assert page.words('h1') == [
    f'{place.name[:1].upper()}{place.name[1:]}: report'
  ]
  assert not [note for note in page.words('p') if note.startswith('Not shown')]
  captions = page.words('figcaption')
  for part in ('ct, best', 't2, best', 'ct: ', 't2: ', 'Features', 'Embedd'):
    assert any(caption.startswith(part) for caption in captions), part
  # The banks have no row for a kidney of T2: three points, and five of CT.
  assert 'Prototypes, 8 points' in captions


def test_a_class_without_labels_has_no_box_and_no_number(own):
  _, page = own
  titles = page.words('title')
  boxes = {title.partition(':')[0] for title in titles if ': median' in title}
  assert boxes == {
    *(f'{organ}, ct' for organ in ('liver', 'spleen')),
    *(f'{organ} kidney, ct' for organ in ('right', 'left')),
    *(f'{organ}, t2' for organ in ('liver', 'spleen')),
  }
  cells = page.words('td')
  row = cells.index('t2')
  liver, right, left, spleen, mean = cells[row + 1 : row + 6]
  assert (right, left) == ('-', '-')
  np.testing.assert_allclose(
    float(mean), (float(liver) + float(spleen)) / 2, atol=0.01
  )


def test_a_report_needs_neither_the_scans_nor_their_task(own, tmp_path):
  folder = shutil.copytree(own[0], tmp_path / 'own')
  config = json.loads((folder / 'config.json').read_text())
  config['task'] = str(tmp_path / 'gone' / 'dataset.json')
  (folder / 'config.json').write_text(json.dumps(config))
  assert report.main([str(folder)]) == 0
  page = _Page((folder / 'report.html').read_text())
  notes = [note for note in page.words('p') if note.startswith('Not shown')]
  assert len(notes) == 3 and 'is gone: bring' in notes[0]
  assert any('Losses' in caption for caption in page.words('figcaption'))
  (network,) = runs.read(str(folder)).networks
  params, _ = network.state(network.facts['best_step'])
  assert params['unet'] and network.problem.labelable.sum(1).tolist() == [5, 3]


def test_pseudo_labels_of_a_class_without_labels_have_no_score(own):
  run = runs.read(str(own[0]))
  data = run.data()
  labeled = data.split['t2']['labeled']
  data.split['t2'] |= {'labeled': labeled[1:], 'unlabeled': labeled[:1]}
  for row in pseudo_labels.quality(run, data, limit=1):
    known = {name for name, dice in row['dice'].items() if dice == dice}
    assert row['modality'] == 't2' and known == {'liver', 'spleen'}


def test_points_are_of_the_best_network(run, data):
  found = features.collect(run, data)
  assert set(found) == {'features', 'embeddings', 'prototypes'}
  pixels = found['features']
  assert pixels.values.shape[1] == run.config.model.width
  for kind in ('embeddings', 'prototypes'):
    lengths = np.linalg.norm(found[kind].values, axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-3)
  each = {}
  for name, index in zip(pixels.modalities, pixels.classes, strict=True):
    each[name, index] = each.get((name, index), 0) + 1
  assert max(each.values()) == features.PER_CLASS
  (network,) = run.networks
  saved = checkpoint.read(run.workdir, network.facts['best_step'])
  bank = np.asarray(saved['memory']['prototypes']['bank'])
  np.testing.assert_array_equal(
    found['prototypes'].values, bank.reshape(-1, bank.shape[-1])
  )
