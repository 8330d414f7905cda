"""What a worker of the tests may use: one core, and options of XLA for quick compilation."""

from __future__ import annotations

import os
import subprocess
import sys

# Most tests spend nearly all of their time compiling. Without XLA's newer code generation,
# compilation is much faster; splitting a program for several threads does not pay where each
# worker has one core. Two passes over loops take a fifth of what is left, and only optimisations
# use the metadata for LLVM. Not every version of XLA has these options.
QUICK_OPTIONS = (
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_disable_hlo_passes=while-loop-invariant-code-motion,simplify-while-loops",
    "--xla_llvm_enable_alias_scope_metadata=false",
    "--xla_llvm_enable_invariant_load_metadata=false",
    "--xla_llvm_enable_noalias_metadata=false",
)


def quick_options():
    """The flags of the user, and those of QUICK_OPTIONS that the installed JAX knows."""
    known = QUICK_OPTIONS if _are_known(*QUICK_OPTIONS) else filter(_are_known, QUICK_OPTIONS)
    return " ".join([os.environ.get("XLA_FLAGS", ""), *known])


def _are_known(*options):
    """Ask a fresh process, because XLA aborts on an option that it does not know."""
    environment = {**os.environ, "XLA_FLAGS": " ".join(options)}
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    return subprocess.run(command, env=environment, capture_output=True).returncode == 0


def keep_to_one_core():
    """Give this worker a core of its own, where the workers are at least as many as the cores.

    XLA then starts no further threads, whose waiting for one another takes up to half of the time
    of small programs. Processes that are started later stay on the same core.
    """
    name = os.environ.get("PYTEST_XDIST_WORKER")
    if name is None or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    if int(os.environ["PYTEST_XDIST_WORKER_COUNT"]) >= len(cores):
        os.sched_setaffinity(0, {cores[int(name.removeprefix("gw")) % len(cores)]})
