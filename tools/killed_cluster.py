"""Score 20,000 pictures on a local Ray of two workers, kill a worker and then the driver, and compare every answer with `predict`

    python tools/killed_cluster.py [FOLDER] [--n 20000] [--model RUN]

1. A tenth of N distinct pictures (drawn portraits and fakes) is made, and each gets ten names; a twentieth of the names hold files that are
   damaged in one of five ways. 2. `deepfake-nb predict --csv` gives the answers to compare with. 3. `--engine ray` scores them without any
   trouble. 4. It scores them into another folder: one worker is killed after a fifth of the parts, the driver after three fifths, and the same call
   goes on. 5. Every row is compared with the CSV. The figures are printed as lines of JSON; a row that differs is an error.
Needs the extra `scale`, and Linux, whose /proc shows the workers. It takes about half an hour on two cores.
"""
import argparse,csv,json,os,signal,subprocess,sys,time
from pathlib import Path

import pyarrow.parquet as pq
from deepfake_nb.sample import make_sample

def make_pictures(folder, n):
    "Files 00000.jpg to n-1: names of n/10 distinct pictures (hard links), a twentieth of them damaged"
    distinct = max(2, n//10)
    sample = make_sample(folder/'sample', (distinct+1)//2)
    files = [*sorted((sample/'real').rglob('*.jpg')),*sorted((sample/'fake').rglob('*.jpg'))]
    out = folder/'pictures'
    out.mkdir()
    damage = [lambda b: b'', lambda b: b[:len(b)//3], lambda b: b'GIF89a'+b[6:], lambda b: b'no picture', lambda b: b[:200]+bytes(200)+b[400:]]
    for i in range(n):
        src,dst = files[i*7919%len(files)],out/f'{i//1000:03d}'/f'{i:05d}.jpg'
        dst.parent.mkdir(exist_ok=True)
        if i%20==3: dst.write_bytes(damage[i//20%5](src.read_bytes()))
        else: os.link(src, dst)
    return out

def predict(*args, **kw): return subprocess.Popen([sys.executable, '-c', 'from deepfake_nb.cli import main; main()', 'predict', *map(str, args)], **kw)

def ray_call(pictures, out, more, log):
    "Start the Ray engine on two CPUs"
    return predict(pictures, '--engine', 'ray', '--out', out, '--no-faces', *more, stdout=open(f'{log}.out', 'w'), stderr=open(f'{log}.err', 'w'))

def n_parts(out): return len(list(out.glob('part-*'))) if out.exists() else 0

def scorers(driver):
    "The actors that score for this driver: processes of Ray below it"
    def read(pid, name):
        try: return (Path('/proc')/str(pid)/name).read_bytes()
        except OSError: return b''
    def parent(pid): return int((read(pid, 'stat').rpartition(b')')[2].split() or [b'',b'0'])[1])
    def is_below(pid):
        while pid>1 and pid!=driver.pid: pid = parent(pid)
        return pid==driver.pid
    pids = [int(o.name) for o in Path('/proc').iterdir() if o.name.isdigit()]
    return [o for o in pids if read(o, 'cmdline').startswith(b'ray::MapWorker') and is_below(o)]

def wait(out, n, driver):
    while n_parts(out)<n:
        assert driver.poll() is None, f'the driver ended with {driver.returncode} after {n_parts(out)} parts'
        time.sleep(.02)

def rows(out): return [r for o in sorted(out.glob('part-*')) for r in pq.read_table(o).to_pylist()]

def compare(got, want):
    "Raise an error unless all rows are the same; the largest difference of two probabilities"
    assert len(got)==len(want), (len(got),len(want))
    gap = 0
    for a,b in zip(got, want):
        assert a['path']==b['path'] and (a['verdict'] or '')==b['verdict'] and (a['error'] or '')==b['error'], (a,b)
        assert (a['prob_fake'] is None)==(b['prob_fake']==''), (a,b)
        if a['prob_fake'] is not None: gap = max(gap, abs(a['prob_fake']-float(b['prob_fake'])))
    assert gap<1e-5, gap
    return gap

def say(**kw): print(json.dumps(kw), flush=True)

def main():
    ap = argparse.ArgumentParser()
    ap.add_argument('folder', nargs='?', default='killed_cluster'); ap.add_argument('--n', type=int, default=20_000); ap.add_argument('--model')
    a = ap.parse_args()
    folder,more = Path(a.folder),['--model', a.model] if a.model else []
    folder.mkdir(parents=True)          # an error if it is there: nothing of anybody's is removed
    pictures,total = make_pictures(folder, a.n),-(-a.n//512)
    say(step='pictures', files=a.n, parts=total)

    start = time.time()
    p = predict(pictures, '--csv', folder/'alone.csv', '--no-faces', *more, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert p.wait()==0
    seconds = time.time()-start
    want = list(csv.DictReader(open(folder/'alone.csv', encoding='utf-8', newline='')))
    say(step='predict --csv alone', seconds=round(seconds, 1), rate=round(a.n/seconds, 1), rows=len(want), failures=sum(o['prob_fake']=='' for o in want))

    start = time.time()
    p = ray_call(pictures, folder/'calm', more, folder/'calm')
    wait(folder/'calm', 1, p); first = time.time()
    assert p.wait()==0, open(folder/'calm.err').read()
    seconds,steady = time.time()-start,time.time()-first
    say(step='ray, two workers', seconds=round(seconds, 1), rate=round(a.n/seconds, 1), seconds_to_first_part=round(first-start, 1), rate_after_it=round((a.n-512)/steady, 1),
        largest_gap=compare(rows(folder/'calm'), want), stdout=os.path.getsize(folder/'calm.out'))

    out,start = folder/'killed',time.time()
    p = ray_call(pictures, out, more, folder/'killed1')
    wait(out, max(1, total//5), p)
    victim = scorers(p)[0]
    os.kill(victim, signal.SIGKILL)
    say(step='killed a worker', parts=n_parts(out), after=round(time.time()-start, 1))
    wait(out, total*3//5, p)
    p.kill(); p.wait()
    at = n_parts(out)
    say(step='killed the driver', parts=at, after=round(time.time()-start, 1))
    time.sleep(5)           # its Ray dies with it
    before = {o.name:o.stat().st_mtime_ns for o in out.glob('part-*')}
    say(step='5 s later', parts=len(before))
    again = time.time()
    p = ray_call(pictures, out, more, folder/'killed2')
    assert p.wait()==0, open(folder/'killed2.err').read()
    kept = sum((out/k).stat().st_mtime_ns==v for k,v in before.items())
    left = [o.name for o in out.iterdir() if not o.name.startswith('part-')]
    got = rows(out)
    say(step='went on', seconds=round(time.time()-again, 1), seconds_of_both_calls=round(time.time()-start, 1), parts=n_parts(out), parts_kept=kept, of=len(before),
        rows=len(got), distinct_paths=len({o['path'] for o in got}), largest_gap=compare(got, want), other_files=left, stdout=os.path.getsize(folder/'killed2.out'))
    assert kept==len(before) and left==['_manifest.json'] and len({o['path'] for o in got})==a.n
    say(step='all rows are the same', logs=[str(folder/f'{o}.err') for o in ('calm','killed1','killed2')])

if __name__=='__main__': main()
