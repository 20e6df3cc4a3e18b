"Several processes train one model: the same losses as one, one writer, one voice. Two processes on this machine talk through gloo; NCCL needs GPUs."
import json,os,subprocess,sys,time
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from deepfake_nb import processes as pr
from deepfake_nb.core import InputError
from deepfake_nb.features import _own_rows
from deepfake_nb.processes import WholeBatch,in_turn,is_first,n_processes,rank,shared,together

def start(command, n=2, **env):
    "Start `n` processes as a launcher does, which also holds the store that they share"
    store = torch.distributed.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    env = {**os.environ, 'OMP_NUM_THREADS':'1', 'WORLD_SIZE':str(n), 'MASTER_ADDR':'127.0.0.1', 'MASTER_PORT':str(store.port),
        'TORCHELASTIC_USE_AGENT_STORE':'True', **env}
    started = [subprocess.Popen([sys.executable, '-W', 'ignore', *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**env, 'RANK':str(i), 'LOCAL_RANK':str(i)}) for i in range(n)]
    started[0].store = store
    return started

def ended(ps):
    "(exit code, stdout, stderr) of each"
    said = [p.communicate(timeout=300) for p in ps]
    return [(p.returncode,*o) for p,o in zip(ps, said)]

def run_code(code, n=2, **env): return ended(start(['-c', 'from deepfake_nb.processes import *\n'+code], n, **env))

# one process

def test_alone_nothing_changes():
    net,x = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)),torch.rand(5, 3)
    assert (n_processes(),rank(),is_first())==(1,0,True) and in_turn(lambda: 7)==7
    want = net(x)
    with together(), shared(net): assert torch.equal(net(x), want)
    assert not net._forward_hooks and not net._forward_pre_hooks

@pytest.mark.parametrize('last', [False,True])
def test_one_process_that_holds_the_whole_batch(monkeypatch, last):
    "The functions that stand in for PyTorch's give what PyTorch's do, backward too, in any memory order"
    monkeypatch.setattr(pr, '_add', lambda t: t)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(.3), nn.Flatten(), nn.Linear(8*36, 6), nn.BatchNorm1d(6, affine=False), nn.Dropout(.5, inplace=True))
    x = torch.rand(6, 3, 8, 8)
    if last: x,net = x.contiguous(memory_format=torch.channels_last),net.to(memory_format=torch.channels_last)
    def once(mode):
        net[1].reset_running_stats(); net[6].reset_running_stats(); net.zero_grad(); torch.manual_seed(1)
        with mode: out = net(x)
        out.square().sum().backward()
        return [out,*(p.grad for p in net.parameters()),*net.buffers()]
    from contextlib import nullcontext
    want = [o.clone() for o in once(nullcontext())]
    got,scale = once(WholeBatch(6)),max(float(o.abs().max()) for o in want)
    assert all((a-b).abs().max()<1e-5*scale for a,b in zip(want, got))
    net.eval()
    with WholeBatch(6): assert torch.equal(net(x), net(x))

@pytest.mark.parametrize('n,step,of', [(100,32,2),(64,32,2),(5,32,3),(100,7,4),(1,1,2)])
def test_every_row_is_seen_by_one_process(monkeypatch, n, step, of):
    from deepfake_nb import features
    monkeypatch.setattr(features, 'n_processes', lambda: of)
    found = []
    for r in range(of):
        monkeypatch.setattr(features, 'rank', lambda r=r: r)
        found.append(_own_rows(n, step))
    assert [i for o in found for i in range(n)[o]]==list(range(n))
    assert all(o.start%step==0 or o.start==n for o in found), 'the batches are those of one process'

# two processes

def test_two_processes_share_a_batch_of_any_size():
    code = """
import json,torch
from torch import nn
def seeded(): torch.manual_seed(0); return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(.5), nn.Flatten(), nn.Linear(4*36, 1))
def once(n):
    net,x = seeded(),torch.rand(n, 3, 8, 8)
    with shared(net): out = net(x)
    out.sigmoid().sum().backward()
    add_gradients(net)
    return [out.tolist(),net[0].weight.grad.flatten().tolist(),net[1].running_var.tolist()]
with together():
    print(json.dumps([once(n) for n in (8,7,2)]))
    net = seeded()
    with torch.no_grad(): net[0].weight.add_(rank())
    share_weights(net)
    same = torch.equal(net[0].weight, seeded()[0].weight)
    net.eval()
    with shared(net): one = net(torch.ones(1, 3, 8, 8)).tolist()
    print(json.dumps([bool(same),one,net(torch.ones(1, 3, 8, 8)).tolist()]))
    try:
        net.train()
        with shared(net): net(torch.ones(1, 3, 8, 8))
    except Exception as e: print(json.dumps(str(e)))
"""
    (c0,out,err),(c1,silent,_) = run_code(code)
    assert (c0,c1,silent)==(0,0,''), err
    two,(same,one,alone),small = map(json.loads, out.splitlines())
    (_,out,_),= run_code(code, 1)
    for a,b in zip(two, json.loads(out.splitlines()[0])):
        for u,v in zip(a, b): assert np.allclose(u, v, atol=1e-5)
    assert same and one==alone and 'too small for 2 processes' in small and '--batch-size' in small

ENDS = """
import os,time
from deepfake_nb.core import InputError
from deepfake_nb.console import run_command
import typer
app = typer.Typer()
@app.command()
def a():
    with together():
        wait()
        HOW
        wait()
import sys
sys.exit(run_command(app, ['--']))
"""

@pytest.mark.parametrize('how,words', [
    ('if rank()==1: os.kill(os.getpid(), 9)', 'another process of this training has ended'),
    ('if rank()==0: os.kill(os.getpid(), 9)', 'another process of this training has ended'),
    ("if rank()==1: raise InputError('the disk of process 1 is full: make room')", 'the disk of process 1 is full'),
    ("if rank()==0: raise InputError('no such picture: check the path')", 'no such picture'),
    ("raise InputError('the loss is not finite')", 'the loss is not finite'),
    ("if rank()==1: os.kill(os.getpid(), 15); time.sleep(9)", 'another process of this training has ended')])
def test_one_line_when_a_process_ends(how, words):
    res = run_code(ENDS.replace('HOW', how))
    lines = [l for _,out,err in res for l in (out+err).splitlines()]
    assert len(lines)==1 and words in lines[0] and lines[0].startswith('deepfake-nb: '), lines
    assert {c for c,_,_ in res} <= {2,-9}

def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '2')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    with pytest.raises(InputError, match='one process for each GPU'): pr._join()

def test_variables_of_no_launcher(monkeypatch):
    for k in ('RANK','MASTER_ADDR','MASTER_PORT'): monkeypatch.delenv(k, raising=False)
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(InputError, match='accelerate launch or torchrun'):
        with together(): pass

# a whole comparison

FLOAT32 = """import sys
import deepfake_nb.runs as r
r.fast_precision = lambda device: 'float32'
from deepfake_nb.cli import main
main()"""

def options(faces, out, models='cnn2,resnet18', recipe='paper'):
    return ['compare', '--real', faces/'real', '--fake', faces/'fake', '--models', models, '--recipe', recipe, '--size', 32, '--batch-size', 16,
        '--frozen-epochs', 1, '--epochs', 2, '--weights', 'none', '--no-audit', '--out', out]

def compare(args, n, **kw): return ended(start(['-c', FLOAT32, *args], n, **kw))

def losses(out): return {o.parent.name:pd.read_csv(o)[['train_loss','valid_loss']].to_numpy() for o in out.glob('*/history.csv')}

@pytest.fixture(scope='module')
def one(faces, tmp_path_factory):
    out = tmp_path_factory.mktemp('one')/'run'
    (code,_,err),= compare(options(faces, out), 1)
    assert not code, err
    return out

def test_two_processes_learn_what_one_does(faces, one, tmp_path):
    (a,said,told),(b,*silent) = compare(options(faces, tmp_path/'two'), 2)
    assert (a,b,silent)==(0,0,['','']), told
    assert said.count('| cnn2')==1 and told.count('resnet18: unfrozen epoch 2/2')==1
    x,y = losses(one),losses(tmp_path/'two')
    assert set(x)==set(y)=={'cnn2','resnet18','spectrum'}
    for k in x: assert x[k].shape==y[k].shape and abs(x[k]-y[k]).max()<1e-3, (k,x[k],y[k])
    names = [{str(o.relative_to(d)) for o in d.rglob('*') if o.is_file()} for d in (one,tmp_path/'two')]
    assert names[0]==names[1]
    assert json.loads((tmp_path/'two'/'receipt.json').read_text())['environment']['processes']==2

def test_killed_and_resumed(faces, one, tmp_path):
    "One process dies while the first model learns; the same command with --resume ends in the same numbers"
    out = tmp_path/'two'
    ps = start(['-c', FLOAT32, *options(faces, out)])
    while ps[0].poll() is None and not (out/'resnet18'/'history.csv').exists(): time.sleep(.01)
    ps[1].kill()
    (a,_,told),(b,*_) = ended(ps)
    assert (a,b)==(2,-9) and told.splitlines()[-1].startswith('deepfake-nb: another process of this training has ended')
    assert len([l for l in told.splitlines() if 'ended' in l])==1
    (a,_,told),(b,*_) = compare([*options(faces, out), '--resume'], 2)
    assert (a,b)==(0,0), told
    x,y = losses(one),losses(out)
    for k in x: assert x[k].shape==y[k].shape and abs(x[k]-y[k]).max()<1e-3, k

@pytest.mark.parametrize('fake,words', [('fake','is not empty: continue it with --resume'), ('nowhere','nowhere')])
def test_wrong_input_is_told_once(faces, one, fake, words):
    args = options(faces, one)
    args[args.index('--fake')+1] = faces/fake
    res = compare(args, 2)
    lines = [l for _,out,err in res for l in (out+err).splitlines()]
    assert len(lines)==1 and words in lines[0] and {c for c,*_ in res}=={2}, lines

@pytest.mark.skipif(find_spec('accelerate') is None, reason="accelerate is not installed: pip install 'deepfake_nb[scale]'")
def test_accelerate_launch(faces, tmp_path):
    "The command of the book, with two processes on the CPU"
    out = tmp_path/'two'
    command = [sys.executable, '-m', 'accelerate.commands.launch', '--multi_gpu', '--num_processes', '2', '--num_machines', '1', '--mixed_precision', 'no', '--dynamo_backend', 'no',
        '--main_process_port', '0', '-m', 'deepfake_nb', *map(str, options(faces, out, 'cnn2'))]
    p = subprocess.run(command, capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS':'1', 'CUDA_VISIBLE_DEVICES':''}, timeout=300)
    assert not p.returncode, p.stderr
    assert p.stdout.count('| cnn2')==1 and (out/'report.html').exists()
    assert json.loads((out/'receipt.json').read_text())['environment']['processes']==2
