"""Scripts in processes of their own, which may share devices through `jax.distributed`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys


def free_port():
    """A port of this machine that nothing listens to, as text."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return str(free.getsockname()[1])


def results_of(script, arguments, environments):
    """Run a script once in each environment, all at the same time.

    Args:
        script: Python code, which prints one line that starts with "RESULT".
        arguments: function from the number of a process to the arguments of its script.
        environments: for each process, variables beside those of this one.

    Returns:
        The rest of each process's "RESULT" line.
    """
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, *arguments(process)],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process, environment in enumerate(environments)
    ]
    results = []
    for process in started:
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, err[-3000:]
        line = next(line for line in out.splitlines() if line.startswith("RESULT"))
        results.append(line.removeprefix("RESULT"))
    return results
