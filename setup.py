"""Builds the Cython kernels; everything else about the package stands in pyproject.toml."""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

KERNELS = sorted(str(path) for path in Path("ext").glob("*.pyx"))

# The load engine of the benchmarks: for those who develop, so in place only. What is installed does not hold it.
ENGINE = Extension(
    "benchmarks.native.engine",
    ["benchmarks/native/engine.pyx"],
    depends=sorted(str(path) for path in Path("benchmarks/native").glob("*.h")),
    include_dirs=["benchmarks/native"],
    extra_compile_args=["-g0"],
)

# Set-up builds the kernels in place before it installs the command; it must not compile them a second time.
BUILT_IN_PLACE = os.environ.get("PARLEY_KERNELS") == "in-place"

setup(
    ext_modules=cythonize(
        [
            # Without debug information: it takes a third of the compiler's time.
            Extension(f"ext.{Path(kernel).stem}", [kernel], extra_compile_args=["-g0"])
            for kernel in ([] if BUILT_IN_PLACE else KERNELS)
        ]
        + ([ENGINE] if "--inplace" in sys.argv else []),
        language_level=3,
        nthreads=os.cpu_count() or 1,
    )
)
