import jax
import pytest

from configs import heart
from dbdc_jax import benchmark, methods
from dbdc_jax.methods.common import cost
from dbdc_jax.models import counting
from dbdc_jax.models.projector import Projector
from dbdc_jax.models.unet import UNet


@pytest.mark.parametrize(
  ('classes', 'plain', 'bank', 'both'),
  [
    (
      8,
      4_875_752,
      {1: 4_912_808, 2: 4_917_672, 4: 4_927_400},
      {1: 5_343_992, 2: 5_348_856, 4: 5_358_584},
    ),
    (
      5,
      4_874_885,
      {1: 4_911_941, 2: 4_916_805, 4: 4_926_533},
      {1: 5_343_119, 2: 5_347_983, 4: 5_357_711},
    ),
  ],
)
def test_parameters_are_the_papers(classes, plain, bank, both):
  parameters = lambda *parts: counting.of_unet(parts[0], 16, *parts[1:])[0]
  assert parameters(UNet(classes, 1)) == plain
  for modalities in (1, 2, 4):
    net = UNet(classes, modalities, extra_head=True)
    assert parameters(net) == bank[modalities]
    assert parameters(net, Projector()) == both[modalities]


@pytest.mark.parametrize(
  ('modulation', 'parameters'),
  [
    ('mixed', 4_912_808),
    ('none', 4_912_808),
    ('encoder', 4_914_664),
    ('encoder+bottleneck', 4_915_688),
    ('all', 4_917_672),
  ],
)
def test_parts_of_the_modulation_bank_cost_their_channels(
  modulation, parameters
):
  """Table IV: 928, 512 and 992 channels, two values each per modality."""
  net = UNet(8, 2, extra_head=True, modulation=modulation)
  assert counting.of_unet(net, 16)[0] == parameters


@pytest.mark.parametrize(
  ('classes', 'patch', 'paper', 'here'),
  [
    (8, 96, (5.670, 6.051, 10.014), (5.670, 6.012, 8.679)),
    (5, 128, (10.066, 10.743, 17.789), (10.066, 10.674, 15.415)),
  ],
)
def test_multiply_accumulates_are_the_papers(classes, patch, paper, here):
  plain = UNet(classes, 1)
  net = UNet(classes, 2, extra_head=True)
  for form, expected in ((True, paper), (False, here)):
    found = (
      counting.of_unet(plain, patch, paper=form),
      counting.of_unet(net, patch, paper=form),
      counting.of_unet(net, patch, Projector(), paper=form),
    )
    assert [round(macs / 1e9, 3) for _, macs in found] == list(expected)


def test_command_prints_every_network(capsys):
  assert benchmark.main(['--count', '--width', '8']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 1 + 2 * 7


@pytest.mark.parametrize(
  ('name', 'net'),
  [
    ('supervised', UNet(8, 1)),
    ('dbdc', UNet(8, 2, extra_head=True)),
  ],
)
def test_a_methods_prediction_costs_what_its_network_does(name, net):
  """The projector takes no part in prediction."""
  config = heart.get_config(f'method={name},preset=paper')
  config.modalities = 'ct' if name == 'supervised' else ''
  method = methods.build(config)
  params, memory = jax.eval_shape(method.init, jax.random.key(0))
  found = cost.prediction_macs(method, params, memory, 96)
  assert found == counting.of_unet(net, 96)[1]
