"""Kill a comparison again and again, each time at a moment of chance, and see whether every sitting got further:

    python tools/kills.py [--n 20] [--seconds 15] [--seed 0]

Each sitting resumes the one before it and is killed (SIGKILL) at a moment between `seconds` and one and a half times that. It got further if more is kept than before:
pixels, the audit, features of a frozen backbone, batches of an epoch, epochs, finished models. In the end a run that was killed so often has to have the numbers of one that was not.
"""
import argparse,os,random,shutil,signal,subprocess,sys,tempfile
from pathlib import Path

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from deepfake_nb.backbones import make_backbone
from deepfake_nb.sample import make_sample

MODELS,SIZE = ['resnet18','mobilenetv3_small_100','cnn2'],96

def weights_for(folder):
    "Weights that count as pretrained, so that there is a frozen stage"
    torch.manual_seed(0)
    folder.mkdir()
    for m in MODELS[:2]: save_file(make_backbone(m, SIZE)[0].state_dict(), folder/f'{m}.safetensors')

def command(home, out):
    "A comparison of three networks on 400 pictures of a class"
    return [sys.executable,'-W','ignore','-c','from deepfake_nb.cli import main; main()','compare','--real',home/'sample'/'real','--fake',home/'sample'/'fake','--models',','.join(MODELS),
        '--size',str(SIZE),'--frozen-epochs','3','--epochs','3','--weights',home/'weights','--out',out,'--resume']

def batches(file):
    "How many batches of an unfinished epoch a checkpoint holds"
    with safe_open(file, 'pt') as f: return f.get_slice('part.losses').get_shape()[0] if 'part.losses' in f.keys() else 0

def progress(out, cache):
    "What is kept: models, epochs, batches of an unfinished one, parts of features, files of pixels and of the audit"
    files = lambda folder, pattern: len(list(folder.glob(pattern)))
    return dict(models=files(out, '[!.]*/predictions.csv'), epochs=sum(len(pd.read_csv(o)) for o in out.glob('[!.]*/history.csv')), batches=sum(map(batches, out.glob('[!.]*/checkpoint.safetensors'))),
        features=files(cache/'deepfake_nb'/'features', '*/[!.]*.safetensors'), files=files(cache/'deepfake_nb'/'pixels', '[!.]*/pixels_*.bin')+files(out, 'audit.json'))

def further(was, now):
    "Is more kept than before? What is large counts before what is small"
    return list(now.values())>list(was.values())

def sitting(cmd, env, seconds=None):
    "Run `cmd` to its end, or kill it after `seconds`: did it come to its end?"
    with subprocess.Popen(cmd, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True) as p:
        try: err = p.communicate(timeout=seconds)[1]
        except subprocess.TimeoutExpired:
            os.killpg(p.pid, signal.SIGKILL); p.communicate()
            return False
    if p.returncode: sys.exit(f'exit code {p.returncode}: {err[-500:]}')
    return True

def same(a, b):
    "What differs between two finished runs"
    return [f'{b.name}/{m}/{f}' for m in MODELS for f in ('model.safetensors','predictions.csv','metrics.json') if (a/m/f).read_bytes()!=(b/m/f).read_bytes()]

def main(n=20, seconds=15., seed=0):
    rng,kills,stuck,rounds,home = random.Random(seed),0,0,0,Path(tempfile.mkdtemp())
    make_sample(home/'sample', 400, seed)
    weights_for(home/'weights')
    env = lambda name: os.environ | dict(XDG_CACHE_HOME=str(home/name), HF_HUB_OFFLINE='1')
    while kills<n:
        rounds,now,done = rounds+1,{},False
        out,cache = home/f'cut{rounds}',home/f'cache{rounds}'
        while not done:
            done = sitting(command(home, out), env(cache.name), seconds*rng.uniform(1, 1.5) if kills<n else None)
            if done: break
            kills,was,now = kills+1,now,progress(out, cache)
            stuck += not further(was or dict.fromkeys(now, 0), now)
            print(f'kill {kills}:', ', '.join(f'{v} {k}' for k,v in now.items()), '' if further(was or dict.fromkeys(now, 0), now) else '  NO FURTHER', flush=True)
    sitting(command(home, home/'whole'), env('cache0'))
    other = [o for i in range(rounds) for o in same(home/'whole', home/f'cut{i+1}')]
    print(f'{n} kills, {n-stuck} of which left more than the one before; {rounds} runs came to their end; unlike a run that was not killed: {other or "nothing"}')
    if not (stuck or other): shutil.rmtree(home)
    return bool(stuck or other)

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for k,v,h in (('n',20,'kills'),('seconds',15.,'shortest sitting'),('seed',0,'of the moments')): p.add_argument(f'--{k}', type=type(v), default=v, help=h)
    sys.exit(main(**vars(p.parse_args())))
