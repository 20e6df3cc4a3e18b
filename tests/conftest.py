"What several tests share: a small sample, a small run, and the command line without a new process."
import os,shutil,sys
from pathlib import Path

os.environ.update(MPLBACKEND='Agg', HF_HUB_OFFLINE='1', TQDM_DISABLE='1')
os.environ.setdefault('OMP_NUM_THREADS', str(os.cpu_count()))      # the same numbers beside another program

import pytest

SMALL = '--size 32 --batch-size 16 --frozen-epochs 1 --epochs 2 --weights none'.split()

@pytest.fixture(scope='session', autouse=True)
def own_cache(tmp_path_factory):
    "No test reads or leaves anything in the user's cache"
    os.environ['XDG_CACHE_HOME'] = str(tmp_path_factory.mktemp('cache'))

@pytest.fixture(scope='session')
def faces(tmp_path_factory):
    "Forty drawn portraits and forty fakes as files"
    from deepfake_nb.sample import make_sample
    return make_sample(tmp_path_factory.mktemp('faces')/'sample', 40)

@pytest.fixture
def cli(monkeypatch, capsys):
    "Run `deepfake-nb` in this process: (exit code, stdout, stderr)"
    from deepfake_nb.cli import main
    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['deepfake-nb', *map(str, args)])
        with pytest.raises(SystemExit) as e: main()
        out,err = capsys.readouterr()
        return e.value.code or 0,out,err
    return run

@pytest.fixture(scope='session')
def trained(faces, tmp_path_factory):
    "A finished comparison of two small models"
    from deepfake_nb.comparison import compare
    from deepfake_nb.settings import Settings
    from deepfake_nb.sources import make_table
    out = tmp_path_factory.mktemp('run')/'run'
    settings = Settings(['cnn2','resnet18'], size=32, batch_size=16, frozen_epochs=1, epochs=2, weights='none')
    compare(make_table([faces/'real'], [faces/'fake']), out, settings, log=lambda o: None, audit=False)
    return out

@pytest.fixture(scope='session')
def browser():
    "The system's own Chromium without a window, driven by playwright"
    exe = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if not exe: pytest.skip('no Chromium on this machine: apt-get install chromium')
    from playwright.sync_api import sync_playwright
    flags = '--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=exe, args=flags.split())
        yield b
        b.close()
