"""Make the ready detector: train on photographs of FFHQ and fakes of StyleGAN, export, measure, and write its card.

    python tools/ready.py SHARED [--only measure]

SHARED holds data/{ffhq_stylegan,generated_photos,celeba,ciplab,dfdc}, faces/ and weights/. A quarter of an hour on two cores."""
import argparse,sys
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
from PIL import Image
from scipy.stats import binomtest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from deepfake_nb.audit import auc_interval
from deepfake_nb.calibration import thresholds
from deepfake_nb.comparison import compare
from deepfake_nb.detector import Detector
from deepfake_nb.images import find_images
from deepfake_nb.onnx_export import export
from deepfake_nb.settings import Settings
from deepfake_nb.sources import COLUMNS

MODEL = 'tf_efficientnet_lite0+mobilenetv2_100'
FILE = ROOT/'deepfake_nb'/'ready.onnx'

def drawn(folder, n, seed=0):
    "Up to `n` pictures of `folder`, drawn by chance"
    return [str(o) for o in np.random.default_rng(seed).permutation(find_images(folder))[:n]]

def training_table(
    shared:Path, # The folder with the data
)->pd.DataFrame: # As `make_table` gives it; a fifth of each class is kept for testing
    "The pictures that the ready detector learns from, and those that it is tested on"
    pair,rows = shared/'data'/'ffhq_stylegan',[]
    for label,kind in enumerate(('real','fake')):
        paths = drawn(pair/kind, 700)
        split = ['test' if i<=.2*len(paths) else '' for i in range(len(paths))]
        source = ('ffhq','stylegan')[label]
        rows.append(pd.DataFrame(dict(path=paths, label=label, source=source, group='', split=split)))
    return pd.concat(rows, ignore_index=True)[COLUMNS]

def phashes(paths): return np.stack([imagehash.phash(Image.open(o), hash_size=16).hash.ravel() for o in paths])

def unseen(paths, seen):
    "Those of `paths` that look like none of `seen`"
    known = phashes(seen)
    return [o for o,h in zip(paths, phashes(paths)) if (h!=known).sum(1).min()>24]

def held_out(
    shared:Path, # The folder with the data
)->dict[str,list[str]]: # Paths by source
    "Pictures that the ready detector was not trained on"
    table,data = training_table(shared),shared/'data'
    test = table[table.split=='test']
    photos = [str(o) for o in find_images(data/'ffhq_stylegan'/'real')]
    return dict(ffhq=list(test[test.label==0].path), stylegan=list(test[test.label==1].path),
        ffhq_beside=unseen([str(o) for o in find_images(shared/'faces'/'real')], photos),
        stylegan2=[str(o) for o in find_images(shared/'faces'/'fake')],
        generated_photos=drawn(data/'generated_photos', 300),
        celeba=drawn(data/'celeba'/'img_align_celeba', 300),
        retouched_real=drawn(data/'ciplab'/'real', 300), retouched=drawn(data/'ciplab'/'fake', 300),
        swaps_real=drawn(data/'dfdc'/'real', 300), swaps=drawn(data/'dfdc'/'fake', 300))

def scores(
    shared:Path, # The folder with the data
)->dict[str,np.ndarray]: # prob_fake by source
    "What the ready detector says of the pictures that it was not trained on"
    det = Detector.default()
    return {k:np.array([a.prob_fake for a in det.predict(o)]) for k,o in held_out(shared).items()}

PAIRS = [('StyleGAN, other people','ffhq','stylegan'), ('StyleGAN2, never seen','ffhq_beside','stylegan2'),
    ('a commercial generator, never seen','ffhq','generated_photos'),
    ('retouched by hand','retouched_real','retouched'), ('face swaps, frames of videos','swaps_real','swaps')]
PHOTOS = [('FFHQ','ffhq'), ('FFHQ, another draw','ffhq_beside'), ('CelebA','celeba'),
    ('photographs beside the retouched','retouched_real'), ('frames of unswapped videos','swaps_real')]

def share(hits):
    "A share with Wilson's interval"
    ci = binomtest(int(hits.sum()), len(hits)).proportion_ci(method='wilson')
    return f'{hits.mean():.1%} [{ci.low:.1%}, {ci.high:.1%}]'

def card(
    s:dict, # As `scores` gives it
)->str: # Markdown
    "The card of the ready detector, every figure computed from `s`"
    low,high = thresholds(Detector.default().config)
    lines = [CARD_HEAD, '| fakes | AUC [95 %] | called fake | uncertain | called real |', '|---|---|---|---|---|']
    for name,real,fake in PAIRS:
        y = np.r_[np.zeros(len(s[real])),np.ones(len(s[fake]))]
        a,lo,hi = auc_interval(y, np.r_[s[real],s[fake]])
        f = s[fake]
        lines.append(f'| {name} ({len(f)}) | {a:.3f} [{lo:.3f}, {hi:.3f}] | {(f>=high).mean():.0%} | '
            f'{((f<high)&(f>=low)).mean():.0%} | {(f<low).mean():.0%} |')
    lines += ['', '| photographs | called fake [95 %] | uncertain |', '|---|---|---|']
    for name,key in PHOTOS:
        p = s[key]
        lines.append(f'| {name} ({len(p)}) | {share(p>=high)} | {((p<high)&(p>=low)).mean():.0%} |')
    return '\n'.join([*lines, CARD_TAIL])

CARD_HEAD = f"""# The ready detector

`deepfake-nb predict picture.jpg` and `Detector.default()` use this model: two small backbones, EfficientNet-Lite0 and MobileNetV2 (`{MODEL}`), before one head, in one ONNX file with weights of 8 and 16 bits. It gets a face of 256x256 pixels and gives the probability that a GAN of the StyleGAN family made it.

## How good it is

On pictures that it was not trained on. AUC is the chance that a fake gets a higher score than a photograph; one half is chance.
"""

CARD_TAIL = """
## What it cannot do

It does not find swapped faces, retouched faces or pictures of diffusion models (the last were not measured at all). Compressed, blurred or enlarged pictures were not measured for it either. A score is no proof of anything about a single picture.

## How it was made

`python tools/ready.py SHARED`: 560 photographs of FFHQ and 560 fakes of StyleGAN to train and validate on, 256 pixels, recipe `tuned`, ImageNet weights, seven frozen and three unfrozen epochs, seed 0. Thresholds and temperature were chosen on the validation split.

## Licence

The code of this package is Apache-2.0. This model is not: the photographs of FFHQ and the fakes that it learnt from are for non-commercial use (CC BY-NC-SA 4.0 and CC BY-NC 4.0), and so is the model.
"""

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('shared', type=Path, help='the folder with data/, faces/ and weights/')
    parser.add_argument('--out', type=Path, default=Path('runs/ready'), help='the run folder')
    parser.add_argument('--only', choices=['measure'], help='measure the file that is there')
    args = parser.parse_args()
    if args.only!='measure':
        settings = Settings([MODEL], size=256, batch_size=32, epochs=3, weights=str(args.shared/'weights'),
            data='Photographs of FFHQ and fakes of StyleGAN ("140k real and fake faces").')
        compare(training_table(args.shared), args.out, settings, resume=True)
        print(export(args.out/MODEL, FILE, compact=True))
    text = card(scores(args.shared))
    FILE.with_suffix('.md').write_text(text, encoding='utf-8')
    print(text)

if __name__ == '__main__': main()
