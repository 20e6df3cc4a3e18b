"Make README.md from nbs/index.ipynb: python tools/readme.py"
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
HIDDEN = re.compile(r'\s*#\s*\|\s*(hide|default_exp)\b')
SILENT = re.compile(r'^#\s*\|\s*echo:\s*false', re.M)                 # only what the cell shows
DIRECTIVE = re.compile(r'^#\s*\|.*\n?', re.M)
LINK = re.compile(r'(\]\(|\bsrc="|\bhref=")(?=images/|[\w/-]+\.ipynb\b)')   # what lies beside index.ipynb

def readme(
    nb:str|Path=ROOT/'nbs'/'index.ipynb', # The notebook
)->str: # Markdown that works from the top level
    "Convert `nb` with nbconvert, without hidden cells and directives, links pointing into nbs/"
    nb = nbformat.read(nb, as_version=4)
    nb.cells = [o for o in nb.cells if o.cell_type != 'raw' and not (o.cell_type == 'code' and HIDDEN.match(o.source))]
    for o in nb.cells:
        if o.cell_type == 'code' and SILENT.search(o.source): o.update(cell_type='markdown', source='\n'.join(x.data['text/markdown'] for x in o.pop('outputs')))
        if o.cell_type == 'code': o.source = DIRECTIVE.sub('', o.source)
    nb.metadata.language_info = dict(name='python')
    text,resources = MarkdownExporter().from_notebook_node(nb)
    if resources.get('outputs'): raise ValueError("a cell of index.ipynb shows a picture: save it in nbs/images and link to it, so that README.md can")
    return LINK.sub(r'\1nbs/', re.sub(r'\n{3,}', '\n\n', text).strip() + '\n')

if __name__ == '__main__': (ROOT/'README.md').write_text(readme(), encoding='utf-8')
