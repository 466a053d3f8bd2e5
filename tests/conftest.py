"""Set before anything is imported: no test may depend on a network."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else a fork (a kernel, a server) prints a warning
