"""Kill a comparison again and again, each time at a moment of chance, and see whether every sitting got further:
    python tools/kills.py [--n 20] [--seconds 15] [--seed 0]
Each sitting resumes the one before it and is killed (SIGKILL) somewhere in its second half. It has got further if the run's folder or the
cache holds more than before: pixels, parts of a frozen backbone's features, epochs, finished models. In the end a run that was killed so often has to have the numbers of one that was not.
"""
import argparse,os,random,signal,subprocess,sys,tempfile,time
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import save_file

from deepfake_nb.backbones import make_backbone
from deepfake_nb.faces import make_sample

MODELS,SIZE = ['resnet18','mobilenetv3_small_100','cnn2'],96

def weights_for(folder):
    "Weights that count as pretrained, so that there is a frozen stage"
    torch.manual_seed(0)
    folder.mkdir()
    for m in MODELS[:2]: save_file(make_backbone(m, SIZE)[0].state_dict(), folder/f'{m}.safetensors')
    return folder

def command(home, out):
    return [sys.executable,'-W','ignore','-c','from deepfake_nb.cli import main; main()','compare','--real',home/'sample'/'real','--fake',home/'sample'/'fake','--models',','.join(MODELS),
        '--size',str(SIZE),'--frozen-epochs','3','--epochs','3','--weights',home/'weights','--out',out]

def progress(out, cache):
    "What is done: files of pixels, parts of features, epochs, finished models"
    files = lambda folder, pattern: sum(1 for _ in folder.rglob(pattern)) if folder.exists() else 0
    epochs = sum(len(pd.read_csv(o)) for o in out.rglob('history.csv')) if out.exists() else 0
    return files(cache, 'px*'),files(cache/'deepfake_nb'/'features', '*.safetensors'),epochs,files(out, 'predictions.csv')

def sitting(cmd, env, seconds=None):
    "Run `cmd`, and kill it after `seconds`: its exit code, None if it was killed"
    with subprocess.Popen(cmd, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True) as p:
        try: err = p.communicate(timeout=seconds)[1]
        except subprocess.TimeoutExpired: os.killpg(p.pid, signal.SIGKILL); p.communicate(); return None
    if p.returncode: sys.exit(f'exit code {p.returncode}: {err[-500:]}')
    return p.returncode

def same(a, b):
    "Names of what differs between two finished runs"
    return [f'{m}/{f}' for m in MODELS for f in ('model.safetensors','predictions.csv','metrics.json') if (a/m/f).read_bytes()!=(b/m/f).read_bytes()]

def main(n=20, seconds=15., seed=0):
    rng,stuck,at,kills,rounds = random.Random(seed),0,None,0,0
    with tempfile.TemporaryDirectory() as home:
        home = Path(home)
        make_sample(home/'sample', 400, seed)
        weights_for(home/'weights')
        while kills<n:
            rounds,out,cache = rounds+1,home/f'cut{rounds}',home/f'cache{rounds}'
            env = os.environ | dict(XDG_CACHE_HOME=str(cache), HF_HUB_OFFLINE='1')
            at,code = (0,)*4,None
            while code is None:
                code = sitting([*command(home, out),'--resume'], env, seconds*rng.uniform(.5, 1) if kills<n else None)
                if code is None:
                    kills,before,at = kills+1,at,progress(out, cache)
                    stuck += sum(at)<=sum(before)
                    print(f"kill {kills}: pixels {at[0]}, parts of features {at[1]}, epochs {at[2]}, finished models {at[3]}{'' if sum(at)>sum(before) else '   NO FURTHER'}", flush=True)
        whole = home/'whole'
        sitting(command(home, whole), os.environ | dict(XDG_CACHE_HOME=str(home/'cache0'), HF_HUB_OFFLINE='1'))
        other = [o for i in range(rounds) for o in same(whole, home/f'cut{i+1}')]
        print(f'{n} kills, {n-stuck} of which left more than the one before; {rounds} runs came to their end; files unlike those of a run that was not killed: {other}')
    return bool(stuck or other)

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for k,v,h in (('n',20,'kills'),('seconds',15.,'longest sitting'),('seed',0,'of the moments')): p.add_argument(f'--{k}', type=type(v), default=v, help=h)
    sys.exit(main(**vars(p.parse_args())))
