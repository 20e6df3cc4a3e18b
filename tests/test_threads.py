"The number of threads follows what other programs leave free, and is never touched where it must not be. No timings here."
import os,subprocess,sys

import pytest
import torch

from deepfake_nb import threads as th
from deepfake_nb.threads import FreeCores,FreeThreads,Threads,busy_programs,our_cores,settled

@pytest.fixture
def four(monkeypatch):
    "PyTorch computes with four threads on four cores, whatever this machine has"
    monkeypatch.setattr(th, 'our_cores', lambda: {0,1,2,3})
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)

class Machine:
    "A clock, cores that are free, and seconds that a batch takes, for any number of threads, at any time"
    def __init__(self, free, cost): self.time,self.free_at,self.cost,self.looks = 0.,free,cost,0
    def free(self):
        self.looks += 1
        return self.free_at(self.time)
    def run(self, seconds, fixed=False):
        t,seen = Threads(free=self.free, clock=lambda: self.time),[]
        t.fixed = fixed
        while self.time<seconds:
            t.settle()
            assert t.now==torch.get_num_threads()
            seen.append((self.time,t.now))
            self.time += self.cost(t.now, self.time)
        t.end()
        assert torch.get_num_threads()==t.all
        return seen

def spinning(n, t): return .5 if n==1 else 3.

def test_a_free_machine_keeps_all_threads(four):
    for free in (4.,3.6,64.): assert {n for _,n in Machine(lambda t: free, spinning).run(100)} == {4}

def test_one_thread_while_others_compute_and_all_again_after(four, capsys):
    seen = Machine(lambda t: 1. if 30<=t<200 else 4., spinning).run(300)
    assert {n for t,n in seen if t<30} == {4}
    assert sum(n==1 for t,n in seen if 30<=t<200) > .8*sum(30<=t<200 for t,_ in seen)
    assert {n for t,n in seen if t>210} == {4}
    said = capsys.readouterr().err.splitlines()
    assert said and said[0].startswith('1 of 4 threads') and len(said)<10

@pytest.mark.parametrize('left,few', [(3.,3),(2.2,2),(1.,1),(.2,1),(0.,1)])
def test_as_many_as_are_free(four, left, few):
    seen = Machine(lambda t: left, lambda n,t: 1. if n==few else 4.).run(100)
    assert {n for _,n in seen} == {few,4} and seen[-1][1] == few

def test_a_small_gain_is_no_reason(four, capsys):
    "Else the last digits of a training would depend on what else the machine does"
    seen = Machine(lambda t: 1., lambda n,t: .5 if n==1 else .7).run(400)
    assert sum(n==1 for _,n in seen) < .1*len(seen) and seen[-1][1] == 4 and not capsys.readouterr().err

def test_one_slow_batch_is_no_reason(four):
    "A pause, such as that of a checkpoint, is no batch"
    m = Machine(lambda t: 1., None)
    pauses = iter([0]*7+[9]+[0]*10**4)
    m.cost = lambda n,t: .5+next(pauses)
    assert m.run(15)[-1][1] == 4

def test_trials_take_a_small_part_of_the_time(four):
    seen = Machine(lambda t: 1., lambda n,t: 2. if n==1 else 40.).run(5000)
    slow = sum(40 for _,n in seen if n==4)
    assert seen[-1][1] == 1 and slow < .1*5000

def test_short_batches_are_timed_together(four):
    seen = Machine(lambda t: 1., lambda n,t: .001 if n==1 else .002).run(10)
    runs = [n for i,(_,n) in enumerate(seen) if not i or seen[i-1][1]!=n]
    assert runs == [4,1,4,1,4,1] and seen[-1][1] == 1

def test_a_look_costs_one_question_a_second(four):
    m = Machine(lambda t: 4., lambda n,t: .01)
    assert len(m.run(20))>1900 and m.looks<=20

def test_the_user_decides(four, monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '4')
    assert Threads().fixed
    monkeypatch.delenv('OMP_NUM_THREADS')
    assert not Threads().fixed and Threads('cuda').fixed and Threads(None).fixed
    assert {n for _,n in Machine(lambda t: 0., spinning).run(50, fixed=True)} == {4}
    torch.set_num_threads(1)
    assert Threads().fixed

def test_all_threads_come_back(four, monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    class Few(Threads):
        def settle(self): self.use(1)
    monkeypatch.setattr(th, 'Threads', Few)
    assert [torch.get_num_threads() for _ in settled(range(2))] == [1,1] and torch.get_num_threads() == 4
    with pytest.raises(ZeroDivisionError): [1/0 for _ in settled(range(2))]
    assert torch.get_num_threads() == 4
    some = settled(range(3))
    next(some); some.close()
    assert torch.get_num_threads() == 4

def learner(cb):
    from fastai.data.core import DataLoaders
    from fastai.basics import Learner
    from fastai.callback import progress     # adds `no_bar`
    torch.manual_seed(0)
    rows = [(torch.rand(4),torch.rand(1)) for _ in range(16)]
    return Learner(DataLoaders.from_dsets(rows, rows, bs=4, device='cpu'), torch.nn.Linear(4, 1), torch.nn.MSELoss(), cbs=[FreeThreads(),cb])

def test_a_fit_asks_before_every_batch_and_gives_back_after_an_error(four, monkeypatch):
    from fastai.callback.core import Callback
    class Few(Threads):
        asked = 0
        def settle(self): Few.asked += 1; self.use(2)
    monkeypatch.setattr(th, 'Threads', Few)
    class Stop(Callback):
        def after_batch(self): assert torch.get_num_threads()==2; 1/self.fine
    stop = Stop(); stop.fine = 1
    learn = learner(stop)
    with learn.no_bar(), learn.no_logging():
        learn.fit(2)
        assert Few.asked == 16 and torch.get_num_threads() == 4
        stop.fine = 0
        with pytest.raises(ZeroDivisionError): learn.fit(1)
    assert torch.get_num_threads() == 2         # fastai calls no callback after an error
    assert Threads().all == torch.get_num_threads() == 4

@pytest.mark.skipif(not os.path.exists('/proc/stat'), reason='only Linux counts the seconds of cores')
def test_a_busy_program_is_seen():
    free = FreeCores()
    with busy_programs(len(our_cores())):
        free()
        for _ in range(10**7): pass
        assert free() < len(our_cores())-.3

def test_only_the_cores_we_may_use_count(monkeypatch, tmp_path):
    "Two of four cores are ours; one of them computes, and so do the other two"
    file = tmp_path/'stat'
    def write(*busy): file.write_text('cpu  9 9 9 9 9 9 9 9 9 9\n'+'\n'.join(f'cpu{i} {b} 0 0 7 3 0 0 0 0 0' for i,b in enumerate(busy))+'\nintr 5\n')
    monkeypatch.setattr(th, 'Path', lambda o: file)
    monkeypatch.setattr(th, 'our_cores', lambda: {1,2})
    now = [100.]
    monkeypatch.setattr(th.time, 'perf_counter', lambda: now[0])
    monkeypatch.setattr(th.time, 'process_time', lambda: 0.)
    write(0, 0, 0, 0)
    free = FreeCores()
    tick = os.sysconf('SC_CLK_TCK')
    write(10*tick, 10*tick, 0, 10*tick)
    now[0] += 10
    assert free() == pytest.approx(1)

def test_busy_programs_end():
    with busy_programs(2) as ps: assert [o.poll() for o in ps] == [None,None]
    assert all(o.poll() is not None for o in ps)
    code = "import sys\nfrom deepfake_nb.threads import busy_programs\nimport os\nb = busy_programs(1)\nprint(b.__enter__()[0].pid, flush=True)\nos._exit(0)"
    pid = int(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout)
    for _ in range(200):
        try: os.kill(pid, 0)
        except ProcessLookupError: return
        if os.path.exists(f'/proc/{pid}/stat') and open(f'/proc/{pid}/stat').read().rsplit(')', 1)[1].split()[0]=='Z': return
        subprocess.run(['sleep','.05'])
    pytest.fail('it computes on after its parent has ended')

def environment(code, **env):
    given = {k:v for k,v in os.environ.items() if k not in ('GOMP_SPINCOUNT','OMP_WAIT_POLICY')} | env
    return subprocess.run([sys.executable, '-c', code], env=given, capture_output=True, text=True, check=True).stdout.split()

def test_threads_that_wait_sleep_soon_unless_the_user_says_otherwise():
    code = "import deepfake_nb,os; print(os.environ.get('GOMP_SPINCOUNT'))"
    assert environment(code) == ['1000']
    assert environment(code, GOMP_SPINCOUNT='7') == ['7']
    assert environment(code, OMP_WAIT_POLICY='active') == ['None']
