"Killed at any moment and continued, a run ends in the numbers of one that was never interrupted."
import json,os,random,shutil,subprocess,sys,time

import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from deepfake_nb.backbones import make_backbone

def command(faces, out, *more):
    return [sys.executable, '-c', 'from deepfake_nb.cli import main; main()', 'compare', '--real', faces/'real', '--fake', faces/'fake', '--models', 'cnn2,resnet18',
        '--size', '32', '--batch-size', '8', '--frozen-epochs', '2', '--epochs', '4', '--weights', 'none', '--out', out, *more]

def kill_after_epoch(cmd, delay):
    "Start `cmd` and kill it `delay` seconds after its first epoch; was it still running?"
    p = subprocess.Popen(cmd, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    for line in p.stderr:
        if ' epoch ' in line: break
    time.sleep(delay)
    alive = p.poll() is None
    p.kill(); p.communicate()
    return alive

def test_kill_and_resume(faces, tmp_path):
    whole,cut = tmp_path/'whole',tmp_path/'cut'
    subprocess.run(command(faces, whole), check=True, capture_output=True)
    rng = random.Random(1)
    kills = sum(kill_after_epoch(command(faces, cut, '--resume'), rng.uniform(0, .6)) for _ in range(3))
    assert kills >= 2, 'it was to be killed at least twice'
    r = subprocess.run(command(faces, cut, '--resume'), capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    for m in ('cnn2','resnet18'):
        for f in ('model.safetensors','predictions.csv','metrics.json'): assert (whole/m/f).read_bytes() == (cut/m/f).read_bytes(), f'{m}/{f}'
        a,b = (pd.read_csv(o/m/'history.csv').drop(columns='seconds') for o in (whole,cut))
        pd.testing.assert_frame_equal(a, b)
    same = [pd.read_csv(o/'comparison.csv').drop(columns=['seconds','seconds_per_epoch','images_per_second']) for o in (whole,cut)]
    pd.testing.assert_frame_equal(*same)
    assert {o.name for o in whole.rglob('*')} == {o.name for o in cut.rglob('*')}, 'nothing half-written is left'

# before the first epoch

TRAIN = '''
import sys
from pathlib import Path
from deepfake_nb import checkpoints,features
from deepfake_nb.runs import train_model
from deepfake_nb.settings import Settings
from deepfake_nb.sources import make_table
from deepfake_nb.split import load_data
features.PART_SECONDS = checkpoints.PART_SECONDS = 0
features._step = lambda *a: 8
faces,out = map(Path, sys.argv[1:])
data = load_data(make_table([faces/'real'], [faces/'fake']), 32)
train_model('resnet18', data, out, Settings(frozen_epochs=1, epochs=1, batch_size=16, weights=str(out.parent/'weights')), 'cpu')
'''

@pytest.fixture
def weights(tmp_path):
    "Pretrained weights, as far as training knows: without any there is no frozen stage"
    torch.manual_seed(0)
    (tmp_path/'weights').mkdir()
    save_file(make_backbone('resnet18', 32)[0].state_dict(), tmp_path/'weights'/'resnet18.a1_in1k.safetensors')

def kept(cache): return sorted((cache/'deepfake_nb'/'features').glob('*/*.safetensors'))

def sitting(faces, out, cache, parts=None):
    "Train in a process of its own, and kill it when it has left `parts` more parts of features; how many there are"
    before = len(kept(cache))
    p = subprocess.Popen([sys.executable, '-c', TRAIN, faces, out], env={**os.environ, 'XDG_CACHE_HOME':str(cache)}, stderr=subprocess.PIPE, text=True)
    while parts and p.poll() is None and len(kept(cache))<before+parts: time.sleep(.002)
    if parts: p.kill()
    err = p.communicate()[1]
    assert parts or p.returncode == 0, err
    return len(kept(cache))

def test_features_survive_and_make_no_difference(faces, tmp_path, weights):
    whole,cut = tmp_path/'whole',tmp_path/'cut'
    n = sitting(faces, whole, tmp_path/'one')
    seen = [sitting(faces, cut, tmp_path/'two', 9) for _ in range(2)]
    assert 9 <= seen[0] < seen[1] <= n, 'every sitting gets further'
    assert not (cut/'checkpoint.safetensors').exists()
    files = kept(tmp_path/'two')
    files[1].write_bytes(files[1].read_bytes()[:-1])             # damaged: made again
    files[3].unlink()
    assert sitting(faces, cut, tmp_path/'two') == n
    for f in ('model.safetensors','predictions.csv'): assert (whole/f).read_bytes() == (cut/f).read_bytes(), f

def test_a_cache_that_vanishes_costs_time_alone(faces, tmp_path, weights):
    whole,cut = tmp_path/'whole',tmp_path/'cut'
    sitting(faces, whole, tmp_path/'one')
    sitting(faces, cut, tmp_path/'two', 9)
    shutil.rmtree(tmp_path/'two')
    sitting(faces, cut, tmp_path/'two')
    assert (whole/'model.safetensors').read_bytes() == (cut/'model.safetensors').read_bytes()

# within an epoch

EPOCHS = TRAIN.replace("frozen_epochs=1, epochs=1, batch_size=16, weights=str(out.parent/'weights')", "epochs=2, batch_size=16, weights='none'")

def kept_so_far(out):
    "Whole epochs, and batches of the next, in a checkpoint"
    try:
        with safe_open(out/'checkpoint.safetensors', 'pt') as f:
            meta = json.loads(f.metadata()['sealed'].partition(' ')[2])
            return len(meta['history']),f.get_slice('part.losses').get_shape()[0] if 'part.losses' in f.keys() else 0
    except FileNotFoundError: return 0,0

def sit_through(faces, out, kill=True):
    "Train in a process of its own, and kill it when its checkpoint holds more than before: what it holds"
    before = kept_so_far(out)
    p = subprocess.Popen([sys.executable, '-c', EPOCHS, faces, out], stderr=subprocess.PIPE, text=True)
    while kill and p.poll() is None and kept_so_far(out)<=before: time.sleep(.002)
    if kill: p.kill()
    err = p.communicate()[1]
    assert kill or p.returncode == 0, err
    return kept_so_far(out)

def test_an_epoch_is_taken_up_in_its_middle(faces, tmp_path):
    whole,cut = tmp_path/'whole',tmp_path/'cut'
    sit_through(faces, whole, kill=False)
    seen = [sit_through(faces, cut) for _ in range(3)]
    assert (0,0) < seen[0] < seen[1] < seen[2], 'every sitting gets further'
    assert any(batches for _,batches in seen), 'one was killed within an epoch'
    sit_through(faces, cut, kill=False)
    a,b = (pd.read_csv(o/'history.csv').drop(columns='seconds') for o in (whole,cut))
    pd.testing.assert_frame_equal(a, b)
    for f in ('model.safetensors','predictions.csv'): assert (whole/f).read_bytes() == (cut/f).read_bytes(), f
