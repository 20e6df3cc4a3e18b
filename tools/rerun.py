"Run notebooks in place and keep their outputs: python tools/rerun.py [NOTEBOOK ...]; without names, all of them in order"
import os,re,sys,time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NBS = Path(__file__).resolve().parents[1]/'nbs'
KEEP = re.compile(r'^#\s*\|\s*(slow|cuda|notest|eval:\s*false)', re.M)      # not run here: the stored output stays

def rerun(
    path:Path, # A notebook
):
    "Run `path` from top to bottom, in its own folder, and save it"
    nb = nbformat.read(path, as_version=4)
    client = NotebookClient(nb, timeout=1800, kernel_name='python3', coalesce_streams=True, resources=dict(metadata=dict(path=path.parent)))
    with client.setup_kernel():
        for i,cell in enumerate(nb.cells):
            if cell.cell_type!='code' or KEEP.search(cell.source) or 'nbdev_export()' in cell.source: continue
            client.execute_cell(cell, i)
    nbformat.write(nb, path)

if __name__ == '__main__':
    os.environ.pop('MPLBACKEND', None)
    os.environ.update(HF_HUB_OFFLINE='1', TQDM_DISABLE='1', PYTHONWARNINGS='ignore')
    paths = [Path(o).resolve() for o in sys.argv[1:]] or sorted(o for o in NBS.rglob('*.ipynb') if '.ipynb_checkpoints' not in o.parts)
    for p in paths:
        start = time.perf_counter()
        rerun(p)
        print(f'{p.relative_to(NBS)}: {time.perf_counter()-start:.1f} s', flush=True)
