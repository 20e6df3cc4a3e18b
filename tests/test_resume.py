"Killed at any moment and continued, a run ends in the numbers of one that was never interrupted."
import random,subprocess,sys,time

import pandas as pd

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
