"A network that is cut where learning begins learns as the whole network does."
import random,shutil

import numpy as np
import pytest
import torch
from fastai.callback import progress as _progress     # adds `no_bar`

from deepfake_nb import maps,runs
from deepfake_nb.backbones import create_model
from deepfake_nb.features import seed_everything
from deepfake_nb.learner import face_learner
from deepfake_nb.maps import Maps,map_learner,maps_fit,split_network
from deepfake_nb.settings import Settings
from deepfake_nb.sources import make_table
from deepfake_nb.split import load_data

cpu = torch.device('cpu')
PAPER = Settings(['resnet18'], recipe='paper', size=32, batch_size=16, frozen_epochs=0, epochs=2)

def unfrozen(name, size=64, frac=.25):
    torch.manual_seed(0)
    net = create_model(name, size)
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d): m.running_mean.normal_(0, .1); m.running_var.uniform_(.5, 2)
    net.unfreeze(frac, keep_stats=True)
    return net.train()

@pytest.fixture(scope='module')
def data(faces): return load_data(make_table([faces/'real'], [faces/'fake']), 32)

@pytest.mark.parametrize('name', ['densenet121','xception','resnet50','resnet18','tf_efficientnet_lite0','mobilenetv3_small_100','convnext_atto','resnet18+mobilenetv3_small_100'])
def test_both_parts_make_the_whole(name):
    "The paper's networks, and shapes that the paper has not: squeeze and excitation, layer norm, two backbones"
    net = unfrozen(name)
    below,above = split_network(net, 64)
    x = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        net.eval()
        found = below(x)
        assert torch.allclose(above(*found), net(x), atol=1e-5) and all(len(o)==3 for o in found)
    def gradients(logits):
        net.zero_grad()
        logits.sum().backward()
        return {k:p.grad.clone() for k,p in net.named_parameters() if p.grad is not None}
    a,b = gradients(net(x)),gradients(above(*found))
    assert a and set(b)<=set(a)
    for k,v in a.items(): assert torch.allclose(v, b.get(k, torch.zeros(())), atol=1e-4), k
    assert not any(p.requires_grad for p in below.parameters())

def test_the_upper_part_computes_nothing_twice():
    "Layers with weights that stay frozen are below the cut"
    below,above = split_network(unfrozen('resnet50'), 64)
    convs = [p for m in above.modules() if isinstance(m, torch.nn.Conv2d) for p in m.parameters()]
    assert convs and all(p.requires_grad for p in convs)

def test_no_cut_where_nothing_below_is_fixed():
    net = create_model('resnet18', 64)
    net.unfreeze(.25, keep_stats=False)         # batch norm follows the batches
    assert split_network(net.train(), 64) is None
    net.unfreeze(1., keep_stats=True)           # all layers learn
    assert split_network(net.train(), 64) is None
    class Odd(torch.nn.Module):
        "It cannot be traced"
        def __init__(self): super().__init__(); self.l = torch.nn.Linear(3, 1)
        def forward(self, x): return self.l(x.mean((2,3))) if x.sum()>0 else self.l(-x.mean((2,3)))
    assert split_network(Odd(), 8) is None

def test_a_cut_that_answers_otherwise_is_not_used(monkeypatch):
    net,cut = unfrozen('resnet18'),maps._cut
    def wrong(*args):
        below,above = cut(*args)
        return below,lambda *o: above(*o)+1
    assert split_network(net, 64)
    monkeypatch.setattr(maps, '_cut', wrong)
    assert split_network(net, 64) is None

def test_the_random_state_stays_as_it_was():
    net = unfrozen('resnet18')
    before = torch.get_rng_state()
    split_network(net, 64)
    assert torch.equal(torch.get_rng_state(), before) and net.training and not net.backbone.training

@pytest.mark.parametrize('keep', [True,False])
def test_the_statistics_stay_as_they_were(keep):
    "Of batch norm that follows the batches too, which is only looked at"
    net = unfrozen('resnet18')
    net.unfreeze(.25, keep_stats=keep)
    net.train()
    before = {k:v.clone() for k,v in net.state_dict().items()}
    assert bool(split_network(net, 64))==keep
    assert all(torch.equal(v, before[k]) for k,v in net.state_dict().items())

def losses(make, data, epochs=3):
    seed_everything(0)
    net = unfrozen('resnet18', 32)
    learn = make(net)
    seed_everything(1)
    learn.dls.train.rng = random.Random(1)
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, 1e-3)
    return np.array(learn.recorder.values)[:,:2],net.state_dict()

@pytest.mark.parametrize('precision', ['float32','bf16'])
def test_the_same_losses_and_the_same_weights_learn(data, precision):
    whole,a = losses(lambda net: face_learner(data, net, PAPER, cpu, precision), data)
    cut,b = losses(lambda net: map_learner(data, net, PAPER, cpu, precision), data)
    assert abs(whole-cut).max()<1e-3
    start = unfrozen('resnet18', 32).state_dict()
    moved = {k for k in a if not torch.equal(a[k], start[k])}
    assert moved and moved=={k for k in b if not torch.equal(b[k], start[k])}

def test_it_falls_back_by_itself(data, monkeypatch, tmp_path):
    net = unfrozen('resnet18', 32)
    def make(settings=PAPER): return map_learner(data, net, settings, cpu, 'float32')
    assert make() is not None
    assert make(Settings(['resnet18'], recipe='tuned')) is None, 'it changes the pictures'
    with monkeypatch.context() as m:
        m.setattr(maps, 'n_processes', lambda: 2)
        assert make() is None
    with monkeypatch.context() as m:
        m.setattr(maps, 'MAP_BYTES', 1000)
        assert make() is None
    with monkeypatch.context() as m:
        def full(*args, **kw): raise OSError(28, 'No space left on device')
        m.setattr(maps, 'TemporaryFile', full)
        assert make() is None
    with torch.no_grad(): net.backbone.layer1[0].bn2.bias.fill_(1e9)        # too large for half precision
    assert make() is None

def test_bounds(tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path).free
    assert maps_fit(1000, tmp_path) and not maps_fit(maps.MAP_BYTES+1, tmp_path)
    monkeypatch.setattr(maps, 'MAP_BYTES', 10**30)
    assert not maps_fit(free, tmp_path)

def test_the_file_has_no_name(tmp_path):
    kept = Maps(4, torch.rand(2, 8, 3, 3), tmp_path)
    x = torch.randn(2, 8, 3, 3)
    kept.put(1, x)
    assert not list(tmp_path.iterdir()) and torch.equal(kept.get([2,1]), x[[1,0]].half())
    for bad in (1e6,float('nan')):
        with pytest.raises(OverflowError): kept.put(0, torch.full((1,8,3,3), bad))
    flat = Maps(4, torch.rand(2, 5).bfloat16(), tmp_path)
    flat.put(0, torch.ones(4, 5).bfloat16())
    assert flat.get([3]).dtype==torch.bfloat16 and flat.get([3]).sum()==5

def test_a_run_uses_it_and_can_be_continued_without(data, tmp_path, monkeypatch, capsys):
    "Half of a stage on maps, half through all layers: the same numbers as in one go"
    def pretrained(*args, **kw):
        net = create_model(*args, **kw)
        net.weights_name = 'imagenet'
        return net
    monkeypatch.setattr(runs, 'create_model', pretrained)
    monkeypatch.setattr(runs, 'fast_precision', lambda device: 'float32')
    runs.train_model('resnet18', data, tmp_path/'a', PAPER, cpu)
    assert 'the frozen layers have given their maps' in capsys.readouterr().err
    class Stop(Exception): args = 'stop',
    class Keep(runs.KeepRun):
        def before_epoch(self):
            super().before_epoch()
            if self.epoch==1: raise Stop
    with monkeypatch.context() as m:
        m.setattr(runs, 'KeepRun', Keep)
        with pytest.raises(Stop): runs.train_model('resnet18', data, tmp_path/'b', PAPER, cpu)
    with monkeypatch.context() as m:
        m.setattr(runs, 'map_learner', lambda *args: None)
        runs.train_model('resnet18', data, tmp_path/'b', PAPER, cpu)
    import pandas as pd
    x,y = (pd.read_csv(tmp_path/o/'history.csv')[['train_loss','valid_loss']].to_numpy() for o in 'ab')
    assert x.shape==y.shape==(2,2) and abs(x-y).max()<1e-3
