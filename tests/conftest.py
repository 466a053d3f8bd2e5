"""Set before anything is imported: no test may depend on a network, and small models gain nothing from threads."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else a fork (a kernel, a server) prints a warning
# On a machine with other work, threads wait for each other longer than they work: all took three times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
