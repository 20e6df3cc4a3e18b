"""Make the map of changes: train the U-Net on photographs, choose its gate, export, measure, and write its card.

    python tools/where.py SHARED [--epochs 18] [--net FILE.safetensors]

SHARED holds data/{ffhq_stylegan,celeba,ciplab,dfdc} and weights/. With --net, a network that was trained before is measured again."""
import argparse,sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file,save_file

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT),str(ROOT/'tools')]

from ready import drawn,training_table
from deepfake_nb.audit import auc_interval
from deepfake_nb.core import InputError,write_json
from deepfake_nb.images import open_image,squish
from deepfake_nb.robustness import _share
from deepfake_nb.tampering import PARTS,jpeg,self_blend,swap
from deepfake_nb.unet import UNet,fit_unet
from deepfake_nb.where import MAP,export_map,gated,judge_maps,map_score,read_face,read_map

SIZE,FALSE_ALARMS = 256,.1

def faces(paths):
    "The largest face of each picture, as `where` sees it: uint8 [n, SIZE, SIZE, 3]"
    found = []
    for o in paths:
        try: found.append(squish(read_face(o)[2], SIZE))
        except InputError: pass
    return np.stack(found)

def photographs(shared):
    "Paths to learn from, to watch the loss on, to choose the gate on, and to test on"
    t,data = training_table(shared),shared/'data'
    found = dict(ffhq=list(t[(t.label==0) & (t.split!='test')].path), celeba=drawn(data/'celeba'/'img_align_celeba', 900),
        ciplab=drawn(data/'ciplab'/'real', 540), dfdc=drawn(data/'dfdc'/'real', 500))
    shares = dict(ffhq=400, celeba=250, ciplab=200, dfdc=200)       # of each to learn from; then 8 to watch, 100 for the gate
    def part(first, last): return [o for k,n in shares.items() for o in found[k][n+first:n+last]]
    test = {k:found[k][shares[k]+108:] for k in ('celeba','ciplab','dfdc')}
    return dict(train=[o for k,n in shares.items() for o in found[k][:n]], valid=part(0, 8), gate={k:found[k][n+8:n+108] for k,n in shares.items()},
        ffhq=list(t[(t.label==0) & (t.split=='test')].path), **{k:v[:300] for k,v in test.items()})

def maps_of(answer, pixels):
    "Maps of many pictures, 16 at a time; every second row and column, to save memory"
    return np.concatenate([answer(pixels[i:i+16])[:,::2,::2] for i in range(0, len(pixels), 16)])

def tampered(pixels, kind, rng):
    "Each photograph blended with itself, or with a part of the next one; pictures and masks"
    others = np.roll(pixels, 1, 0)
    made = [self_blend(o, rng) if kind=='self' else swap(o, p, rng) for o,p in zip(pixels, others)]
    return [np.stack(o) for o in zip(*made)]

def part_aucs(answer, paths):
    "AUC of the mean map over a part, between retouched faces in which it was changed and was not"
    paths = [o for o in paths if len(Path(o).stem.split('_')[-1])==4]       # left eye, right eye, nose, mouth
    digits = np.array([[int(c) for c in Path(o).stem.split('_')[-1]] for o in paths])
    maps = maps_of(answer, np.stack([squish(open_image(Path(o)), SIZE) for o in paths]))
    side = maps.shape[1]
    down,across = (np.mgrid[:side,:side]+.5)/side
    rows = []
    for name,columns in (('eyes',[0,1]),('nose',[2]),('mouth',[3])):
        x,y,w,h,_ = PARTS[name]
        part = (abs(across-x)<w) & (abs(down-y)<h)
        y = digits[:,columns].any(1).astype(int)
        rows.append(dict(part=name, changed=int(y.sum()), of=len(y), **dict(zip(('auc','low','high'), map(float, auc_interval(y, maps[:,part].mean(1)))))))
    return rows

def measure(answer, threshold, photos, shared, log=print):
    "All figures of the card"
    table,clean = [],faces(photos['ffhq'])
    rng = np.random.default_rng(0)
    for kind in ('self','swap'):
        made,masks = tampered(clean, kind, rng)
        for q in (95,75,50):
            pair = [maps_of(answer, np.stack([jpeg(o, q) for o in px])) for px in (made,clean)]
            row = judge_maps(pair[0], masks[:,::2,::2], pair[1], threshold)
            table.append({'pictures':f'{kind}, JPEG {q}', **{k:float(v) for k,v in row.items()}})
            log(table[-1])
    untouched = []
    for name in ('ffhq','celeba','ciplab','dfdc'):
        m = maps_of(answer, faces(photos[name]))
        marked = gated(m, threshold)
        k,n = int(marked.any((1,2)).sum()),len(m)
        untouched.append(dict(photographs=name, n=n, marked=k/n, low=_share(k, n)[1], high=_share(k, n)[2], area=float(marked.mean())))
        log(untouched[-1])
    whole,data = [],shared/'data'
    for name,real,fake in (('retouched by hand',photos['ciplab'],data/'ciplab'/'fake'),('face swaps, frames',photos['dfdc'],data/'dfdc'/'fake'),
            ('whole StyleGAN faces',photos['ffhq'],data/'ffhq_stylegan'/'fake')):
        a,b = (maps_of(answer, faces(o)) for o in (real,drawn(fake, 200)))
        y = np.repeat([0,1], [len(a),len(b)])
        auc,low,high = map(float, auc_interval(y, np.r_[map_score(a),map_score(b)]))
        whole.append(dict(fakes=name, n=len(b), picture_auc=auc, low=low, high=high, marked=float(gated(b, threshold).any((1,2)).mean())))
        log(whole[-1])
    parts = part_aucs(answer, drawn(data/'ciplab'/'fake', 480))
    log(parts)
    return dict(table=table, untouched=untouched, other_fakes=whole, parts=parts, threshold=threshold, size=SIZE)

def card(res):
    "The card of the map, in Markdown"
    rows = [f"| {r['pictures']} | {r['pixel_auc']:.3f} | {r['iou']:.2f} ({r['iou_all']:.2f}) | {r['picture_auc']:.3f} | {r['marked_untouched']:.1%} | {r['marked_tampered']:.0%} |" for r in res['table']]
    clean = [f"| {r['photographs']} | {r['n']} | {r['marked']:.1%} [{r['low']:.1%}, {r['high']:.1%}] | {r['area']:.2%} |" for r in res['untouched']]
    other = [f"| {r['fakes']} | {r['n']} | {r['picture_auc']:.3f} [{r['low']:.3f}, {r['high']:.3f}] | {r['marked']:.0%} |" for r in res['other_fakes']]
    parts = '; '.join(f"{r['part']} {r['auc']:.3f} [{r['low']:.3f}, {r['high']:.3f}]" for r in res['parts'])
    return '\n'.join(['# The map of changes', '',
        'A U-Net that marks where a face was retouched or swapped. It learnt from photographs (FFHQ, CelebA, the unretouched ones of ciplab, unswapped frames of DFDC) that were blended with changed copies of themselves; it has seen no swap and no fake. For non-commercial use only, like the photographs that it learnt from.', '',
        f"Pictures with a score under {res['threshold']:.3f} show nothing marked (the gate). It was set so that at most {FALSE_ALARMS:.0%} of the photographs of each source pass it (100 others of each).", '',
        '| 141 photographs of FFHQ that it has not seen | pixel AUC | IoU (of a map that marks all) | picture AUC | untouched marked | tampered marked |', '| --- | --- | --- | --- | --- | --- |', *rows, '',
        '| untouched photographs, as they come | n | marked | area marked |', '| --- | --- | --- | --- |', *clean, '',
        '| other fakes | n | picture AUC | marked |', '| --- | --- | --- | --- |', *other, '',
        f"AUC between retouched faces in which a part was changed and in which it was not, of the map over that part: {parts}.", '',
        'It does not find faces that a GAN made as a whole. Made and measured by `tools/where.py`.', ''])

def main():
    p = argparse.ArgumentParser()
    p.add_argument('shared', type=Path)
    p.add_argument('--epochs', type=int, default=18)
    p.add_argument('--net', type=Path)
    a = p.parse_args()
    photos = photographs(a.shared)
    if a.net and a.net.exists():
        net = UNet()
        net.load_state_dict(load_file(a.net))
    else:
        net = fit_unet(faces(photos['train']), faces(photos['valid']), a.epochs, weights=a.shared/'weights').model
        if a.net: save_file({k:v.contiguous() for k,v in net.state_dict().items()}, a.net)
    export_map(net, SIZE, 0., MAP)
    scores = {k:map_score(maps_of(read_map()[0], faces(o))) for k,o in photos['gate'].items()}
    threshold = max(float(np.quantile(o, 1-FALSE_ALARMS)) for o in scores.values())
    print('largest difference of the file', export_map(net, SIZE, threshold, MAP))
    res = measure(read_map()[0], threshold, photos, a.shared)
    write_json(MAP.with_suffix('.json'), res)
    MAP.with_suffix('.md').write_text(card(res), encoding='utf-8')

if __name__=='__main__': main()
