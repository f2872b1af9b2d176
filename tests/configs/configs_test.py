import operator
import pathlib
import re
import types

import jax
import jax.numpy as jnp
import pytest

from configs import abdomen, common, heart, presets
from dbdc_jax import methods
from dbdc_jax.experiments import plan, variants
from dbdc_jax.models import registration
from dbdc_jax.training import banner
from dbdc_jax.workdir import run_record

ROOT = pathlib.Path(__file__).parents[2]


def _leaves(config, prefix=''):
  for key, value in config.items():
    if hasattr(value, 'items'):
      yield from _leaves(value, f'{prefix}{key}.')
    else:
      yield prefix + key


def test_every_field_is_read_by_something_and_explained():
  code = '\n'.join(p.read_text() for p in (ROOT / 'dbdc_jax').rglob('*.py'))
  lines = (ROOT / 'configs' / 'common.py').read_text().splitlines()
  whole = {'augment', 'phantom'}  # Handed over as a whole.
  terms = {'pseg', 'mc', 'pc', 'pd'}  # By name.
  for field in _leaves(common.base()):
    group, _, name = field.rpartition('.')
    if name in common.sources():
      continue  # Made from the tasks; read by the source's name.
    if group not in whole and name not in terms:
      assert re.search(rf'\.{name}\b', code), f'{field} is read by nothing'
    (at,) = [
      i for i, line in enumerate(lines) if line.startswith(f"  '{field}': ")
    ][:1]
    above = lines[at - 1].strip()
    assert above.startswith(('#', f"'{group}.")), f'{field} has no comment'


def test_phantom_preset_and_paper_settings():
  quick, paper = heart.get_config(), heart.get_config('scans=/d')
  assert quick.model.width < paper.model.width == 32
  assert paper.data.mmwhs == '/d' and not quick.data.mmwhs
  assert (paper.epochs, paper.batch_size) == (100, 8)
  assert paper.augment.patch_size == 96
  assert quick.mpcl.enabled and quick.dc.ipc and quick.weighting.enabled


def test_abdomen_folders():
  config = abdomen.get_config('scans=/d,method=supervised')
  assert (config.data.btcv, config.data.chaos) == ('/d/btcv', '/d/chaos')
  assert config.method == 'supervised'
  config = abdomen.get_config('btcv=/a,chaos=/b')
  assert (config.data.btcv, config.data.chaos) == ('/a', '/b')
  assert config.augment.patch_size == 128 and not config.augment.flips


@pytest.mark.parametrize('argument', ['scan=/d', 'scans', 'scans=/a,scans=/b'])
def test_bad_arguments_say_what_is_expected(argument):
  with pytest.raises(ValueError, match='expected KEY=VALUE'):
    heart.get_config(argument)


def test_methods_are_found_by_name():
  assert {'dbdc', 'supervised'} <= set(methods.names())
  config = heart.get_config()
  config.method = 'other'
  with pytest.raises(ValueError, match=', '.join(methods.names())):
    methods.build(config)


def test_banner_names_what_is_off():
  config = heart.get_config()
  config.mpcl.mc = config.dc.fpc = config.weighting.enabled = False
  present = [[True] * 8, [True] * 7 + [False]]

  def switched_off(modalities, present, consistent):
    config.modalities = modalities
    problem = methods.resolve(config)
    return banner.switched_off(problem, present, consistent)

  off = switched_off('ct,mr', present, [True, False])
  text = '\n'.join(off)
  for part in ('L_mc', 'L_fpc', 'adaptive', 'pulmonary artery', 'in mr'):
    assert part in text
  config.method = 'supervised'
  (line,) = switched_off('ct', present[:1], [False])
  assert line == 'unlabelled scans: supervised does not use them'
  config.method, config.model.modulation = 'cps', 'encoder'
  assert not switched_off('ct', present[:1], [True])
  lines = switched_off('ct,mr', [present[0]] * 2, [True] * 2)
  assert lines == [
    "normalisation for each modality: config.model.modulation is 'encoder'"
  ]


def test_a_run_older_than_a_field_had_its_default(tmp_path):
  """It is gone on with, unless the field now says otherwise."""
  config = heart.get_config()
  old = config.to_dict()
  del old['recipe'], old['model']['modulation'], old['ssl']
  (tmp_path / 'checkpoints' / '1').mkdir(parents=True)
  run_record.write_json(tmp_path / 'config.json', old)
  record = {'modalities': ['ct'], 'classes': ['a'], 'threads': ''}
  run_record.write_json(tmp_path / 'run.json', record)
  wanted = types.SimpleNamespace(config=config, names=['ct'], classes=['a'])
  run_record.check_resumable(tmp_path, wanted)
  config.recipe = 'own'
  with pytest.raises(ValueError, match="recipe: 'dbdc' -> 'own'"):
    run_record.check_resumable(tmp_path, wanted)


def test_difference_of_two_runs():
  old, new = heart.get_config(), heart.get_config()
  new.mpcl.delta, new.evaluation.overlays = 0.2, 9
  lines = run_record.difference(old.to_dict(), new.to_dict())
  assert lines == ['mpcl.delta: 0.1 -> 0.2']


def test_plus_stands_for_its_fields_behind_the_configs_name():
  """Sizes stay; `--config.recipe=plus` alone would name what it is not."""
  plain, plus = heart.get_config(), heart.get_config('recipe=plus')
  assert heart.get_config('recipe=dbdc').to_dict() == plain.to_dict()
  changed = {
    field
    for field in _leaves(plain)
    if operator.attrgetter(field)(plain) != operator.attrgetter(field)(plus)
  }
  assert changed == {'recipe', *presets.PLUS}
  methods.traits(plus)
  plain.recipe = 'plus'
  with pytest.raises(ValueError, match=r'configs/heart\.py:recipe=plus'):
    methods.traits(plain)
  with pytest.raises(ValueError, match='dbdc, own, plus'):
    heart.get_config('recipe=best')
  with pytest.raises(ValueError, match='the method is cps'):
    methods.traits(heart.get_config('method=cps,recipe=plus'))


def test_a_preset_is_chosen_by_name_or_by_the_scans():
  quick, tiny = heart.get_config(), heart.get_config('preset=tiny')
  assert tiny.model.width < quick.model.width
  assert tiny.mpcl.enabled and tiny.dc.ipc and tiny.weighting.enabled
  real = abdomen.get_config('scans=/d,preset=tiny')
  assert real.data.btcv == '/d/btcv' and real.model.width == tiny.model.width
  assert heart.get_config('preset=paper').model.width == 32
  with pytest.raises(ValueError, match='paper, quick, tiny'):
    heart.get_config('preset=huge')


def _changed(preset, method):
  """Fields in which a method's preset differs from that of DBDC."""
  found, plain = (
    heart.get_config(f'preset={preset},method={name}').to_dict()
    for name in (method, 'dbdc')
  )
  return {line.split(':')[0] for line in run_record.difference(plain, found)}


def test_presets_differ_in_what_a_method_needs_alone():
  """And the paper's sizes are everybody's."""
  for method in methods.names():
    assert _changed('paper', method) <= {'method'}
  for method in {*methods.names()} - {'dbdc', 'summl', 'mass'}:
    assert _changed('tiny', method) == {'method'}


@pytest.mark.parametrize('preset', ['paper', 'quick', 'tiny'])
def test_summls_translators_learn_twice_as_fast_as_its_segmenters(preset):
  config = heart.get_config(f'method=summl,preset={preset}')
  rate = config.optimizer.learning_rate
  assert config.ssl.gan_learning_rate == pytest.approx(2 * rate)
  assert _changed(preset, 'summl') <= {'method', 'ssl.gan_learning_rate'}


def test_the_rows_of_the_evidence_can_be_run_and_add_up_to_plus(tmp_path):
  """Each piece of `recipe=plus` has a row; the rows' names are the page's."""
  table = variants.read(str(ROOT / 'configs' / 'evidence.json'), 'heart')
  runs = plan.expand(table, plan.Options(tmp_path, vary='both'))
  assert [run.reason for run in runs] == [''] * len(table.variants)
  rows = {variant.name: variant for variant in table.variants}
  assert rows['plus'].recipe == 'plus'
  pieces = ('teacher', 'confidence', 'cutmix')
  added = {k: v for name in pieces for k, v in rows[name].fields.items()}
  chosen = {'evaluation.components': 'validation'}
  assert {**added, **chosen} == {k: str(v) for k, v in presets.PLUS.items()}


def test_the_rows_of_real_scans_are_those_of_the_phantom_and_a_peer():
  of = lambda name, task: {
    variant.name: (
      variant.label,
      variant.method,
      variant.recipe,
      variant.fields,
    )
    for variant in variants.read(
      str(ROOT / 'configs' / f'{name}.json'), task
    ).variants
    if not variant.results
  }
  rows = of('evidence', 'heart')
  real = of('evidence_real', 'abdomen')
  assert real == {name: rows[name] for name in real} and 'plus' in real


@pytest.mark.parametrize('preset', ['quick', 'tiny'])
def test_mass_registers_by_features_of_several_channels(preset):
  config = heart.get_config(f'method=mass,preset={preset}')
  features = jax.eval_shape(
    lambda: registration.Encoder(config.model.width).init_with_output(
      jax.random.key(0), jnp.zeros((1, 8, 8, 8, 1))
    )[0]
  )
  assert [x.shape[-1] for x in features] == [2, 8, 16]
  # Published: 3e-4.
  assert 3e-4 <= config.optimizer.learning_rate < 3e-3 / 2
  assert _changed(preset, 'mass') == {
    'method',
    'model.width',
    'optimizer.learning_rate',
    *({'batch_size'} if preset == 'tiny' else ()),
  }
