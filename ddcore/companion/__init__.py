"""The book-keeping around the science: experiments, records, claims, notebooks and the command line.

Importing it asks glibc to keep freed memory instead of returning it to the system: by default every large tensor is
mapped anew, and the page faults of that took 30 % of a real batch and 70 % of an evaluation on CIFAR-10.
"""

import ctypes
import sys

if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
    libc.mallopt(-4, 0)  # M_MMAP_MAX: no block has a mapping of its own
    libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: give back only beyond 2 GB
