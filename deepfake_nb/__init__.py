__version__ = "0.1.0"

import os as _os
_os.environ.setdefault('THP_MEM_ALLOC_ENABLE', '1')    # PyTorch's tensors in large memory pages: a forward pass on a CPU spends less time in the kernel; read when torch is first imported
